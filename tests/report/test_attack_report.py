"""Tables and figures of attacks, on synthetic rows."""

from __future__ import annotations

import pandas as pd
import pytest

from bench import report
from bench.records import runs, schema, store
from bench.report.layout.figures import drawing_style, method_styles
from bench.report.rows import Material, prepare
from bench.report.sections import attacks

EPSILONS = (0.01, 0.1, 0.3)


def attacked(size, epsilon, attack, variant):
    """Rows of one attack."""
    where = {"evaluation": "attack", "dataset": "mnist", "attack": attack, "epsilon": epsilon}
    where |= {"variant": variant, "members": size, "crafted_members": size, "examples": 100}
    value = epsilon + size / 1000 + (variant == "fresh") / 7
    return [
        schema.row("success_rate", value, success="fused", **where),
        schema.row("success_rate", value / 2, success="mixture", **where),
        schema.row("entropy_nats", 2 * value, success="all", **where),
        schema.row("auroc", 1 - value, success="all", **where),
    ]


ATTACKS = ("fgsm", "pgd", "pgd-stop")


def fake(folder, method, seed, sizes, others, kinds=ATTACKS):
    rows = []
    for size in sizes:
        clean = {"evaluation": "attack", "dataset": "mnist", "variant": "clean", "members": size}
        rows.append(schema.row("entropy_nats", 0.1, success="all", examples=100, **clean))
        for epsilon in EPSILONS:
            for attack in kinds:
                for variant in ("same", "fresh"):
                    rows += attacked(size, epsilon, attack, variant)
    for epsilon in EPSILONS:
        for attack in kinds:
            where = {"evaluation": "attack", "dataset": "mnist", "attack": attack, "epsilon": epsilon}
            where |= {"variant": "one-to-many", "members": others, "crafted_members": 1, "examples": 100}
            rows += [schema.row("fooled_share", epsilon, success=s, **where) for s in ("all", "fused")]
            rows.append(schema.row("entropy_nats", epsilon, success="all", **where))
    where = {"evaluation": "fooling-epsilon", "dataset": "mnist", "variant": "same", "attack": "pgd"}
    where |= {"members": 5, "crafted_members": 5, "success": "fused", "examples": 100}
    rows += [schema.row("fooling_epsilon", q / 10, quantile=q, **where) for q in (0.25, 0.5)]
    run = f"{method}-{seed}"
    common = {"run": run, "method": method, "task": "mnist-attack", "train": "mnist", "preset": "quick"}
    common |= {"seed": seed, "config": "c", "device": "cpu", "source": "measured", "schema": 1}
    about = {"cell": run, "created": "2025", "classes": 10, "sizes": [1, 5, 10, 100], "failure": None}
    store.write_run(folder, run, [{**r, **common} for r in rows], {}, about)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for seed in (0, 1):
        fake(folder, "hypergan", seed, (5, 10, 100), 199)
    fake(folder, "standard_ensemble", 0, (5,), 9)
    report.build(folder)
    return folder


def frame(results, name):
    return pd.read_csv(results / "tables" / f"{name}.csv", keep_default_na=False)


def test_figures_5_and_10_have_the_short_names_of_the_paper(results):
    for name in ("figure5-mnist-attack", "figure10-mnist-attack"):
        for kind in ("svg", "png"):
            assert (results / "figures" / f"{name}.{kind}").stat().st_size > 10_000
    page = (results / "report.html").read_text()
    assert "Figure 5: success of attacks" in page and "Figure 10: share of other networks" in page


def entries(folder):
    """The figures of a folder, by name, with their entries."""
    rows = runs.read(folder).newest()
    abouts = {run: store.read_about(folder, run) for run in set(rows["run"])}
    prepared = prepare(rows, abouts)
    material = Material(folder, prepared, abouts, pd.DataFrame())
    with drawing_style():
        found = list(attacks.figures(material, method_styles(sorted(set(prepared["method"])))))
        return {entry.kind: (entry, plan()) for entry, plan in found}


@pytest.mark.parametrize(
    ("kinds", "label", "said"),
    [
        (ATTACKS, "PGD, stopping", "PGD stops, image by image, at the first iterate"),
        (("fgsm", "pgd"), "PGD to the end", "PGD goes to its last step: no run here has pgd-stop"),
    ],
)
def test_figures_5_and_10_show_pgd_that_stops_or_what_there_is(kinds, label, said, tmp_path):
    fake(tmp_path, "hypergan", 0, (5,), 9, kinds)
    found = entries(tmp_path)
    labels = [axes.get_ylabel().split("\n")[0] for axes in found["figure5"][1].axes]
    assert [text for text in labels if text] == ["FGSM"] * 2 + [label] * 2  # 5 networks, and one
    assert [axes.get_title() for axes in found["figure10"][1].axes] == ["FGSM", label]
    for entry, _ in found.values():
        assert said in entry.caption
        again = "bench run --method hypergan --task mnist-attack --preset quick --stale"
        assert entry.commands == (() if "pgd-stop" in kinds else (again,))


def test_only_requested_sizes_out_of_reach_have_lines_without_numbers(tmp_path):
    fake(tmp_path, "hypergan", 0, (5,), 9)
    rows = prepare(runs.read(tmp_path).newest(), {})
    assert attacks.attack_means(rows, {})["method"].notna().all()


def test_methods_whose_runs_lack_pgd_that_stops_are_asked_to_run_again(tmp_path):
    fake(tmp_path, "hypergan", 0, (5,), 9)
    fake(tmp_path, "mnf", 0, (5,), 9, ("fgsm", "pgd"))
    for entry, figure in entries(tmp_path).values():
        assert entry.commands == ("bench run --method mnf --task mnist-attack --preset quick --stale",)
        held = [sum(len(line.get_xdata()) > 0 for line in axes.get_lines()) for axes in figure.axes]
        assert held[0] > held[-1] > 0  # FGSM of both methods, PGD that stops of one


def test_the_table_has_all_attacks_and_marks_unreachable_sizes(results):
    found = frame(results, "attacks")
    where = (found["attack"] == "pgd") & (found["epsilon"] == 0.1) & (found["variant"] == "fresh")
    part = found[where & (found["metric"] == "success_rate")]
    means = {(m, int(n)): v for m, n, v in zip(part["method"], part["members"], part["mean"], strict=True)}
    assert means["standard_ensemble", 10] == means["standard_ensemble", 100] == ""
    for size in (5, 10, 100):
        assert float(means["hypergan", size]) == pytest.approx(0.1 + size / 1000 + 1 / 7)
    assert len(means) == 6 and set(part["success"]) == {"fused"}
    # Clean images have their own lines, with epsilon 0 and 0 attacked networks.
    clean = found[found["variant"] == "clean"]
    assert set(clean["epsilon"]) == {0.0} and set(clean["crafted_members"]) == {0}
    assert (results / "tables" / "attacks.md").read_text().count("| clean |") == len(clean)


def test_smallest_epsilons_have_a_table_with_the_quantiles_that_exist(results):
    text = (results / "tables" / "fooling-epsilon.md").read_text()
    assert "| 0.25 | 0.5 | seeds |" in text and "0.025" in text


def test_ticks_keep_a_distance_from_zero():
    from matplotlib.figure import Figure

    row = Figure().subplots(1, 1, squeeze=False)[0]
    attacks._epsilons(row, [0.01, 0.1, 0.3], 2)
    assert [t.get_text() for t in row[0].get_xticklabels()] == ["0", "0.1", "0.3"]


def test_images_of_larger_ensembles_are_counted_separately(results):
    rows = prepare(runs.read(results).newest(), {})
    found = attacks.attack_means(rows, {})
    assert attacks._counts(found, [5, 10, 100]) == "100 images · 1 to 2 seeds"
    fewer = found.assign(examples=found["examples"].where(found["crafted_members"] != 100, 16))
    assert attacks._counts(fewer, [5, 10, 100]).startswith("100 images (16 for 100 networks)")
