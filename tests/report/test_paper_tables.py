"""The paper's tables: published and measured values, and gaps with the commands that fill them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench import report
from bench.records import schema, store
from bench.report import published
from bench.report.layout.tables import text_tables
from bench.report.output.markdown import to_csv, to_markdown
from bench.report.rows import Material, prepare
from bench.report.sections import paper

ROOT = Path(__file__).parents[2]
PAPER = published.read(published.ORIGINAL.parent)
LAYERS = ("conv1", "conv2", "linear")


def run(method, task, seed=0, train=None, preset="quick", accuracies=None, norms=None, dataset=None, **more):
    """Rows of one run: accuracy by size, and mean and sd of the norm by layer."""
    place = {"method": method, "task": task, "train": train or task, "preset": preset, "seed": seed}
    place |= {"run": f"{method}-{task}-{preset}-{seed}", "device": "cpu", "config": "c", "schema": 1, **more}
    where = {"evaluation": "accuracy", "dataset": dataset or train or task, "examples": 10}
    found = [schema.row("accuracy", v, members=n, **where, **place) for n, v in (accuracies or {}).items()]
    for layer, pair in (norms or {}).items():
        where = {"evaluation": "diversity", "layer": layer, "members": 10}
        for metric, value in zip(("weight_norm_mean", "weight_norm_sd"), pair, strict=True):
            found.append(schema.row(metric, value, **where, **place))
    return found


def made(tmp_path, *runs, sizes=()):
    """The paper's tables of these runs, by name."""
    frames = []
    for rows in runs:
        path = tmp_path / "rows.csv"
        path.write_text(store.to_csv(rows))
        frames.append(store.read_csv(path))
    rows = pd.concat(frames, ignore_index=True)
    abouts = {name: {"created": "2025", "sizes": list(sizes)} for name in set(rows["run"])}
    found = paper.tables(Material(tmp_path, prepare(rows, abouts), abouts, PAPER))
    return {table.name: table for table in found}


def only(frame, **where):
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def test_the_published_file_follows_the_schema():
    assert (ROOT / "results" / "published.csv").read_bytes() == published.ORIGINAL.read_bytes()
    rows = PAPER.astype(object).where(PAPER.notna(), None).to_dict("records")
    assert store.to_csv(rows).encode() == published.ORIGINAL.read_bytes()
    assert set(PAPER["task"]) == set(PAPER["preset"]) == set(PAPER["device"]) == {""}
    assert set(PAPER["train"]) == set(published.TRAINS)
    accuracy = PAPER[PAPER["metric"] == "accuracy"]
    assert len(accuracy) == 35 and accuracy["members"].notna().all()
    assert len(PAPER) - len(accuracy) == 2 * (3 * 3 + 2 * 5 + 1 * 3)


def test_sources_name_table_and_cell():
    cell = only(PAPER, method="hypergan", train="mnist", members=100, metric="accuracy")
    assert (cell["value"], cell["source"]) == (0.9931, "Table 2: hypergan, mnist, 100")
    cell = only(PAPER, method="hypergan-no-both", train="cifar10", layer="conv2", metric="weight_norm_sd")
    assert (cell["value"], cell["source"]) == (2.44, "Table 5: hypergan-no-both, cifar10, conv2, sd")
    both = PAPER[PAPER["source"].str.startswith("Table 1 and Table 6: standard_ensemble-n01, mnist, ")]
    assert both["value"].tolist() == [27.05, 0.31, 160.51, 0.51, 5.97, 0.06]


def test_table_2_shows_seeds_beside_the_published_value(tmp_path):
    name = "hypergan-published"
    runs = [run(name, "mnist", s, accuracies={1: 0.98 + s / 100, 100: 0.99}) for s in (0, 1)]
    frame = made(tmp_path, *runs)["table2"].frame
    cell = only(frame, method=name, train="mnist", members=1)
    assert cell["mean"] == pytest.approx(0.985) and cell["sd"] == pytest.approx(0.01 / 2**0.5)
    assert (cell["seeds"], cell["published"], cell["command"]) == (2, 0.9864, "")
    text = to_markdown(made(tmp_path, *runs)["table2"])
    assert "| hypergan-published | 1 | 98.50 ± 0.71 | 98.64 | 96.69 |" in text


def test_the_paper_s_hypergan_stands_beside_both_and_is_asked_for_as_published(tmp_path):
    runs = [run(m, "mnist", accuracies={1: v}) for m, v in (("hypergan", 0.9), ("hypergan-published", 0.8))]
    both = made(tmp_path, *runs)["table2"].frame
    for method, mean in (("hypergan", 0.9), ("hypergan-published", 0.8)):
        cell = only(both, method=method, train="mnist", members=1)
        assert (cell["mean"], cell["published"], cell["command"]) == (mean, 0.9864, "")
    assert both["method"].value_counts()[["hypergan", "hypergan-published"]].tolist() == [1, 20]
    asked = both[both["method"] == "hypergan-published"]["command"]
    assert asked.str.startswith("bench run --method hypergan-published --task ").sum() == 19
    assert set(both[both["method"] == "hypergan"]["command"]) == {""}
    # Where ours is not measured, the paper's stands beside the published one alone.
    for name, table in made(tmp_path, run("mnf", "mnist", accuracies={1: 0.9})).items():
        methods = {m for m in table.frame["method"] if m.startswith("hypergan")}
        assert methods and all(m.startswith("hypergan-published") for m in methods), name


def test_ablations_of_both_stand_beside_the_paper_s(tmp_path):
    norms = dict.fromkeys(LAYERS, (8.0, 2.0))
    runs = [run(f"{m}-no-both", "mnist", norms=norms) for m in ("hypergan", "hypergan-published")]
    frame = made(tmp_path, *runs)["table6"].frame
    for method in ("hypergan-no-both", "hypergan-published-no-both"):
        cell = only(frame, method=method, layer="conv1", metric="weight_norm_mean")
        theirs = only(
            PAPER, method="hypergan-no-both", train="mnist", layer="conv1", metric="weight_norm_mean"
        )
        assert (cell["mean"], cell["published"], cell["command"]) == (8, theirs["value"], "")


def test_no_table_names_a_variant_that_is_gone(tmp_path):
    tables = made(tmp_path, run("hypergan", "mnist", accuracies={1: 0.9}))
    assert all("hypergan-published" in t.note and "unscaled" not in t.note for t in tables.values())


def test_values_published_but_not_measured_have_a_command(tmp_path):
    whole = dict.fromkeys(published.SIZES, 0.98)
    table = made(tmp_path, run("hypergan-published", "mnist", accuracies=whole))["table2"]
    gap = only(table.frame, method="mnf", train="cifar5")
    assert (gap["published"], gap["seeds"], gap["task"]) == (0.84, 0, "cifar5")
    assert gap["command"] == "bench run --method mnf --task cifar5 --preset quick"
    assert len(table.frame) == 35 and (table.frame["command"] != "").sum() == 31
    text = to_markdown(table)
    sets = ",".join(published.TRAINS)
    assert f"- `bench run --method apd,mc_dropout,mnf --task {sets} --preset quick`\n" in text
    line = to_csv(table.frame).splitlines()[1]
    assert line.startswith("quick,cpu,mnist,mnist,mnist,apd,100,,accuracy,fraction,,,,,0,,0.9861,")


def test_unreachable_sizes_are_not_gaps_and_other_sizes_are_omitted(tmp_path):
    rows = run("standard_ensemble", "mnist", accuracies={1: 0.9, 7: 0.91, 10: 0.92})
    frame = made(tmp_path, rows, sizes=(1, 7, 10, 100))["table2"].frame
    lone = frame[frame["method"] == "standard_ensemble"]
    assert lone["members"].tolist() == [1, 10, 100] and set(lone["command"]) == {""}
    assert "standard_ensemble,100,,accuracy,fraction,,,,,0," in to_csv(frame)
    assert only(frame, method="standard_ensemble", members=100)["gap"].startswith("out of reach: ")


def test_of_tasks_that_share_a_fit_the_one_named_like_the_train_key_is_shown(tmp_path):
    shared = run("hypergan", "notmnist", train="mnist", accuracies={1: 0.1})
    alone = made(tmp_path, shared)["table2"].frame
    assert only(alone, method="hypergan", train="mnist", members=1)["mean"] == 0.1
    both = made(tmp_path, shared, run("hypergan", "mnist", accuracies={1: 0.9}))["table2"].frame
    assert only(both, method="hypergan", train="mnist", members=1)["mean"] == 0.9


def test_presets_are_not_mixed_and_each_has_its_gaps(tmp_path):
    runs = [
        run("hypergan-published", "mnist", preset=p, accuracies={1: v})
        for p, v in (("quick", 0.5), ("paper", 0.9))
    ]
    frame = made(tmp_path, *runs)["table2"].frame
    assert list(dict.fromkeys(frame["preset"])) == ["paper", "quick"]
    cells = frame[(frame["method"] == "hypergan-published") & (frame["train"] == "mnist")]
    cells = cells[cells["members"] == 1]
    assert cells["mean"].tolist() == [0.9, 0.5] and set(cells["seeds"]) == {1}
    assert frame["command"].str.endswith("--preset paper").sum() == 34


def test_configurations_share_the_published_value(tmp_path):
    runs = [run("hypergan", "mnist", accuracies={1: 0.9})]
    runs.append(run("hypergan", "mnist", accuracies={1: 0.8}, config="d", run="other"))
    frame = made(tmp_path, *runs)["table2"].frame
    for name in ("hypergan", "hypergan [c]"):
        assert only(frame, method=name, members=1)["published"] == 0.9864


def test_the_papers_sets_come_first_and_another_copy_is_named(tmp_path):
    runs = [run(m, t, accuracies={1: 0.9}, dataset=d) for m, t, d in (
        ("hypergan", "digits", "digits"), ("hypergan", "cifar10", "cifar10-jpeg75"),
        ("hypergan", "mnist-5000", "mnist"), ("hypergan", "cifar5", "cifar10:0-4"),
    )]  # fmt: skip
    (text,) = text_tables(made(tmp_path, *runs)["table2"])
    assert [h for h in text.headings if "published" not in h] == [
        "method", "networks", "mnist-5000", "cifar5, cifar10:0-4", "cifar10, cifar10-jpeg75", "digits",
        "seeds",
    ]  # fmt: skip
    # The paper's numbers stand under its own images, never under a copy of them.
    assert [h for h in text.headings if "published" in h] == [
        "mnist, published", "mnist-5000, published", "cifar5, cifar10:0-4, published", "cifar10, published",
        "cifar10-5000, published",
    ]  # fmt: skip
    frame = made(tmp_path, *runs)["table2"].frame
    copy = frame[frame["dataset"] == "cifar10-jpeg75"]
    assert len(copy) == 1 and copy["published"].isna().all()
    own = only(frame, method="hypergan", train="cifar10", dataset="", members=1)
    assert (own["published"], own["gap"], own["command"]) == (0.7632, "measured on cifar10-jpeg75 alone", "")


def test_table_1_compares_norms_and_their_ratio_layer_by_layer(tmp_path):
    norms = dict.fromkeys(LAYERS, (8.0, 2.0))
    runs = [run("hypergan", "mnist", norms=norms), run("mnf", "mnist", norms=norms)]
    table = made(tmp_path, *runs, run("hypergan", "digits", norms=norms))["table1"]
    cell = only(table.frame, method="hypergan", train="mnist", layer="conv1", metric="weight_norm_ratio")
    assert cell["mean"] == 0.25 and cell["published"] == 1.59 / 7.49 and cell["command"] == ""
    gap = only(table.frame, method="apd", layer="linear", metric="weight_norm_sd")
    assert (gap["published"], gap["members"], gap["source"]) == (1.43, 10, "Table 1: apd, mnist, linear, sd")
    first, second = text_tables(table)
    assert (first.block["train"], second.block["train"]) == ("mnist", "digits")
    missing = "apd,hypergan-published,standard_ensemble-n01"
    assert first.commands == (f"bench run --method {missing} --task mnist --preset quick",)
    assert not second.commands and "published" not in "".join(second.headings)
    text = [[cell.text for cell in line] for line in first.lines]
    assert ["conv2", "hypergan", "10", "8.00", "51.1", "2.00", "10.62", "0.250", "0.208", "1"] in text
    assert ["conv2", "mnf", "10", "8.00", "", "2.00", "", "0.250", "", "1"] in text


def test_tables_5_and_6_have_the_paper_s_values(tmp_path):
    wide = dict.fromkeys(("conv1", "conv2", "conv3", "linear1", "linear2"), (8.0, 2.0))
    narrow = dict.fromkeys(LAYERS, (8.0, 2.0))
    runs = [
        run("hypergan", t, norms=n) for t, n in (("cifar10", wide), ("digits-open", wide), ("mnist", narrow))
    ]
    runs += [run("standard_ensemble", t, norms=n) for t, n in (("cifar10", wide), ("mnist", narrow))]
    found = made(tmp_path, *runs)
    five, six = found["table5"].frame, found["table6"].frame
    assert set(five["train"]) == {"cifar10", "digits-open"} and set(six["train"]) == {"mnist"}
    both = {"hypergan-published-no-both", "standard_ensemble"}
    assert set(five["method"]) == both | {"hypergan"}
    assert set(six["method"]) == both | {"standard_ensemble-n01"}
    cell = only(five, method="standard_ensemble", layer="linear2", metric="weight_norm_ratio")
    assert (cell["mean"], cell["published"]) == (0.25, 0.13 / 2.45)
    assert set(
        six.loc[six["published"].notna() & (six["method"] == "hypergan-published-no-both"), "seeds"]
    ) == {0}


def test_a_results_folder_gets_a_copy_once_and_keeps_its_own(tmp_path):
    rows = run("hypergan", "mnist", norms=dict.fromkeys(LAYERS, (8.0, 2.0)), accuracies={1: 0.9})
    about = {"cell": "c", "created": "2025", "sizes": [1]}
    store.write_run(tmp_path, rows[0]["run"], rows, {}, about)
    copy = tmp_path / "published.csv"
    assert copy in report.build(tmp_path)
    assert copy.read_bytes() == published.ORIGINAL.read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert "<code>bench run --method apd,hypergan-published,mc_dropout,mnf --task mnist,mnist-5000," in page
    for name in ("table1", "table2", "table5", "table6", "claims"):
        assert (tmp_path / "tables" / f"{name}.md").exists()
    own = copy.read_text().replace("0.9864", "0.1234")
    copy.write_text(own)
    assert copy not in report.build(tmp_path) and copy.read_text() == own
    assert "0.1234" in (tmp_path / "tables" / "table2.csv").read_text()
