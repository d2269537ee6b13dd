"""The report, on a small synthetic results folder."""

import hashlib
import math
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest
from sealing import sealed
from shown_arrays import shown

from bench import registry, report
from bench.errors import BenchError
from bench.records import runs, schema, store
from bench.report.layout.figures import method_styles
from bench.report.layout.tables import digits
from bench.report.rows import prepare
from bench.report.sections.outliers import thin
from bench.system import code
from bench.system.files import write_atomic

METHODS = {"hypergan": 100, "mc_dropout": 100, "standard_ensemble": 10}
SIZES = (1, 5, 10, 100)
LAYERS = {"conv1": 2.0, "conv2": 9.0, "linear": 24.0}
TASKS = {"digits": ("digits", "letters", 10), "digits-open": ("digits:0-4", "digits:5-9", 5)}
OF_THE_PAPER = ("claims", "table1", "table2", "table5", "table6")
STRANGE = 'odd<b>"method"</b>|'


def fake_rows(place, rng, images, largest, inside, outside):
    """Rows of one run: `place` names the run, the numbers are random."""

    def row(metric, value, **columns):
        return schema.row(metric, float(value), **place, examples=images, **columns)

    reached = [n for n in SIZES if n <= largest]
    rows = []
    for n in reached:
        where = {"evaluation": "accuracy", "dataset": inside, "members": n}
        rows.append(row("accuracy", 0.95 + 0.01 * math.log10(n) + 0.005 * rng.random(), **where))
        rows += [row(m, 0.2 * rng.random(), **where) for m in ("nll_nats", "brier", "ece")]
        where = {"evaluation": "ood", "dataset": outside, "members": n}
        rows += [row(m, 0.8 + 0.2 * rng.random(), **where) for m in ("auroc", "aupr_out", "aupr_in")]
        rows += [row(m, rng.random(), **where) for m in ("auroc_max_softmax", "fpr95_id_positive")]
        for dataset in (inside, outside):
            where["dataset"] = dataset
            rows.append(row("entropy_nats", rng.random(), **where))
            rows += [row("entropy_nats", q, quantile=q, **where) for q in (0.1, 0.5, 0.9)]
    where = {"evaluation": "diversity", "members": largest}
    for layer, norm in LAYERS.items():
        rows.append(row("weight_norm_mean", norm * (0.8 + 0.4 * rng.random()), layer=layer, **where))
        rows.append(row("weight_norm_sd", 0.1 * norm * rng.random(), layer=layer, **where))
        rows.append(row("weight_spread", 0.3 * rng.random(), layer=layer, **where))
        rows.append(row("weight_cosine", 0.9 + 0.1 * rng.random(), layer=layer, **where))
    rows.append(row("disagreement", 0.05 * rng.random(), dataset=inside, **where))
    pace = 0.3 + 0.4 * rng.random()
    for epoch in range(5, 45, 5):
        where = {"evaluation": "trace", "epoch": epoch, "members": 100}
        rows.append(row("accuracy", 0.97 - pace / epoch, dataset=f"{inside}-val", **where))
        rows.append(row("disagreement", pace / epoch, dataset=f"{inside}-val", **where))
        rows.append(row("accuracy", 0.96 - pace / epoch, dataset=f"{inside}-val", **where | {"members": 1}))
        for layer, norm in LAYERS.items():
            rows.append(row("weight_norm_mean", norm, layer=layer, **where))
            rows.append(row("weight_norm_sd", norm * (0.05 + rng.random() / epoch), layer=layer, **where))
    rows.append(row("fit_seconds", 30 * rng.random(), evaluation="cost"))
    rows += [
        row(m, rng.random(), evaluation="cost", members=largest)
        for m in ("sample_seconds", "predict_seconds")
    ]
    rows.append(row("peak_memory_bytes", 5e8, evaluation="cost", members=largest))
    return rows


def fake_run(results, method, task, preset, seed, largest=100, **more):
    """One finished run with rows and per-image entropies; returns its name."""
    inside, outside, classes = TASKS[task]
    run = f"{task}-{hashlib.sha256(method.encode()).hexdigest()[:6]}-{preset}-{seed}"
    rng = np.random.default_rng([seed, *method.encode(), len(task), len(preset)])
    place = {"run": run, "method": method, "task": task, "train": task, "preset": preset, "seed": seed}
    place |= {"config": "c0ffee", "commit": "abc", "device": "cpu", "source": "run", "schema": schema.SCHEMA}
    arrays = {}
    for members in (1, largest):
        for dataset, a, b in ((inside, 0.5, 4 + 4 * rng.random()), (outside, 1.5 + seed, 1 + rng.random())):
            values = math.log(classes) * rng.beta(a, b, 3000)
            arrays[f"{dataset}/{members}/entropy_nats"] = values.astype(np.float32)
    arrays = shown(rng, inside, outside, classes, largest) | arrays
    about = {
        "cell": run, "created": "2025-01-01T00:00:00", "config": {"beta": 1}, "commit": "abc" * 9,
        "environment": {"torch": "2.11", "python": "3.11", "device": "cpu", "threads": 2},
        "dirty": False, "code": "f00d", "failure": None, "classes": classes, "sizes": list(SIZES),
    }  # fmt: skip
    store.write_run(results, run, fake_rows(place, rng, 360, largest, inside, outside), arrays, about | more)
    return run


def fake_failure(results):
    """One run that failed."""
    run = "digits-failed"
    place = {"run": run, "method": STRANGE, "task": "digits", "train": "digits", "preset": "smoke", "seed": 0}
    rows = [schema.row("failed", 1.0, **place, device="cpu", schema=schema.SCHEMA) | {"unit": "BenchError"}]
    about = {"cell": run, "failure": {"type": "BenchError", "message": "losses <nan>"}, "sizes": [1]}
    store.write_run(results, run, rows, {}, about)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A report of three methods, two tasks, two presets, two seeds and one failure, built once."""
    folder = tmp_path_factory.mktemp("results")
    for method, largest in METHODS.items():
        for task in TASKS:
            for seed in (0, 1):
                fake_run(folder, method, task, "quick", seed, largest)
        fake_run(folder, method, "digits", "smoke", 0, largest)
    fake_failure(folder)
    report.build(folder)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("README.md", "tables", "figures", "report.html")
        for path in sorted([folder / part, *(folder / part).glob("*")])
        if path.is_file()
    }


def test_a_build_returns_the_written_paths(results):
    written = report.build(results)
    assert written == sorted(results / name for name in contents(results))
    assert {path.suffix for path in written} == {".csv", ".md", ".svg", ".png", ".pdf", ".json", ".html"}


def test_two_builds_in_two_processes_give_the_same_bytes(results):
    before = contents(results)
    code = "import sys; from pathlib import Path; from bench import report; report.build(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(results)], check=True)
    assert contents(results) == before


def test_report_needs_no_torch():
    code = (
        "import sys, bench.report; "
        "print([m for m in ('torch', 'torchvision', 'sklearn', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "torchvision", "sklearn"} & set(done.stdout.split("'"))


def test_means_are_over_their_rows_and_presets_are_not_mixed(results):
    rows, table = runs.read(results).newest(), pd.read_csv(results / "tables" / "accuracy.csv")
    assert list(dict.fromkeys(table["preset"])) == ["quick", "smoke"]
    for line in table.itertuples():
        same = rows[(rows["evaluation"] == "accuracy") & (rows["metric"] == "accuracy")]
        for column in ("preset", "device", "task", "dataset", "method", "members"):
            same = same[same[column] == getattr(line, column)]
        assert line.seeds == len(same) == (0 if math.isnan(line.mean) else 2 if line.preset == "quick" else 1)
        if line.seeds:
            assert line.mean == pytest.approx(same["value"].mean(), rel=1e-15)
        if line.seeds == 1:
            assert line.mean == same["value"].iloc[0]
            assert math.isnan(line.sd)
        if line.seeds == 2:
            assert line.sd == pytest.approx(abs(np.diff(same["value"])[0]) / math.sqrt(2))


def test_a_size_out_of_reach_is_a_gap_with_its_reason(results):
    text = (results / "tables" / "accuracy.md").read_text()
    line = next(x for x in text.splitlines() if "| standard_ensemble |" in x)
    assert line.rstrip("| ").endswith("| — | 2")
    frame = pd.read_csv(results / "tables" / "accuracy.csv", keep_default_na=False)
    lone = frame[(frame["method"] == "standard_ensemble") & (frame["members"] == 100)]
    assert set(lone["mean"]) == {""} and set(frame.loc[frame["mean"] != "", "gap"]) == {""}
    assert set(lone["gap"]) == {"out of reach: standard_ensemble was measured with 10 networks at most"}


def test_a_size_that_was_not_requested_is_a_gap(tmp_path):
    fake_run(tmp_path, "hypergan", "digits", "quick", 0)
    fake_run(tmp_path, "standard_ensemble", "digits", "quick", 0, 10, sizes=[1, 5, 10])
    report.build(tmp_path)
    text = (tmp_path / "tables" / "accuracy.md").read_text()
    assert next(x for x in text.splitlines() if "standard_ensemble" in x).endswith("| — | 1 |\n".strip("\n"))


def test_every_figure_is_a_small_svg_a_png_and_a_pdf(results):
    names = {path.stem for path in (results / "figures").glob("*.svg")}
    kinds = ("accuracy", "weight-norms", "training", "pareto")
    places = ("digits-quick", "digits-open-quick", "digits-smoke")
    expected = {f"{kind}-{place}" for kind in kinds for place in places} | {"figure4-digits-open"}
    expected |= {f"figure{n}-{place}" for n in (6, 7, 8, 9) for place in ("digits", "digits-open")}
    expected |= {f"figure{n}-digits-smoke" for n in (3, 6, 7, 8, 9)} | {"figure3-digits"}
    assert names == expected
    for name in names:
        svg = (results / "figures" / f"{name}.svg").read_bytes()
        assert len(svg) < 300_000
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert (results / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_names_and_messages_are_escaped(results):
    text = (results / "report.html").read_text()
    assert "odd&lt;b&gt;&#34;method&#34;&lt;/b&gt;|" in text and "losses &lt;nan&gt;" in text
    assert "odd<b>" not in text and "<nan>" not in text
    markdown = (results / "tables" / "failures.md").read_text()
    assert "odd&lt;b&gt;" in markdown and "&lt;/b&gt;\\|" in markdown


def test_removed_runs_disappear_from_tables_and_files(tmp_path):
    kept = fake_run(tmp_path, "hypergan", "digits", "quick", 0)
    gone = fake_run(tmp_path, "mc_dropout", "digits-open", "smoke", 0)
    foreign = tmp_path / "figures" / "mine.svg"
    write_atomic(foreign, b"<svg/>")
    report.build(tmp_path)
    assert "mc_dropout" in (tmp_path / "tables" / "accuracy.csv").read_text()
    for path in (tmp_path / "raw").glob(f"{gone}.*"):
        path.unlink()
    written = report.build(tmp_path)
    assert kept and "mc_dropout" not in (tmp_path / "tables" / "accuracy.csv").read_text()
    assert set((tmp_path / "figures").glob("*")) == {p for p in written if "figures" in p.parts} | {foreign}


def test_an_empty_folder_says_what_to_do_next(tmp_path):
    with pytest.raises(BenchError, match=r"expected runs.*make one: bench run"):
        report.build(tmp_path)


def test_a_folder_of_failures_alone_still_gives_a_page(tmp_path):
    fake_failure(tmp_path)
    names = {path.name for path in report.build(tmp_path)}
    tables = {f"{name}.{kind}" for name in ("failures", *OF_THE_PAPER) for kind in ("csv", "md")}
    assert names == tables | {"published.csv", "report.html", "README.md"}


def test_devices_are_not_mixed(tmp_path):
    fake_run(tmp_path, "hypergan", "digits", "quick", 0)
    run = fake_run(tmp_path, "hypergan", "digits", "quick", 1)
    path = tmp_path / "raw" / f"{run}.csv"
    path.write_text(path.read_text().replace(",cpu,", ",cuda,"))
    sealed(tmp_path, run)
    report.build(tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "accuracy.csv")
    assert set(frame["device"]) == {"cpu", "cuda"} and set(frame["seeds"]) == {1}
    assert (tmp_path / "figures" / "accuracy-digits-quick.svg").exists()
    assert (tmp_path / "figures" / "accuracy-digits-quick-cuda.svg").exists()


def test_configurations_become_separate_methods(tmp_path):
    fake_run(tmp_path, "hypergan", "digits", "quick", 0)
    run = fake_run(tmp_path, "hypergan", "digits", "quick", 1)
    path = tmp_path / "raw" / f"{run}.csv"
    path.write_text(path.read_text().replace(",c0ffee,", ",badc0de,"))
    sealed(tmp_path, run)
    report.build(tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "accuracy.csv")
    assert set(frame["method"]) == {"hypergan", "hypergan [c0ffee]"}  # the newer has the plain name
    assert set(frame["seeds"]) == {1}
    shown = (tmp_path / "tables" / "accuracy.md").read_text()
    assert "| hypergan |" in shown and "| hypergan [c0ffee] |" in shown


def test_configurations_are_named_by_the_settings_that_differ(tmp_path):
    for seed, epochs in ((0, 34), (1, 140)):
        run = fake_run(tmp_path, "hypergan", "digits", "quick", seed)
        path = tmp_path / "raw" / f"{run}.csv"
        path.write_text(path.read_text().replace(",c0ffee,", f",c0ffee{epochs},"))
        sealed(tmp_path, run, config={"epochs": epochs, "beta": 1.0, "trace_every": epochs})
    report.build(tmp_path)
    frame = pd.read_csv(tmp_path / "tables" / "accuracy.csv")
    assert set(frame["method"]) == {"hypergan [epochs=34]", "hypergan"}


def test_ratio_of_norms_is_computed_per_seed(results):
    rows, table = runs.read(results).newest(), pd.read_csv(results / "tables" / "weight-norms.csv")
    place = (rows["task"] == "digits") & (rows["preset"] == "quick") & (rows["method"] == "hypergan")
    norms = rows[place & (rows["evaluation"] == "diversity") & (rows["layer"] == "conv1")]
    wide = norms.pivot(index="seed", columns="metric", values="value")
    expected = (wide["weight_norm_sd"] / wide["weight_norm_mean"]).mean()
    line = table[(table["task"] == "digits") & (table["preset"] == "quick") & (table["method"] == "hypergan")]
    line = line[(line["layer"] == "conv1") & (line["metric"] == "weight_norm_ratio")]
    assert line["mean"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("accuracy", 0.98765, "98.77"),
        ("nll_nats", 0.04, "0.0400"),
        ("fit_seconds", 123.4, "123"),
        ("fit_seconds", 1.2345, "1.23"),
        ("fit_seconds", 0.001234, "0.00123"),
        ("weight_norm_mean", 23.456, "23.5"),
        ("peak_memory_bytes", 2**20 * 1.5, "1.5"),
    ],
)
def test_numbers_are_rounded_for_reading(metric, value, shown):
    assert digits(metric, value) == shown


def test_digits_follow_the_spread():
    shown = {sd: digits("accuracy", 0.98765, sd) for sd in (0.0000012, 0.00123, 0.0123, 0.123, 0.0, math.nan)}
    assert list(shown.values()) == ["98.77", "98.77", "98.8", "99", "98.77", "98.77"]
    assert digits("nll_nats", 0.04081, 0.0167) == "0.041"


def test_a_thinned_step_function_keeps_its_ends_and_values():
    x = np.sort(np.random.default_rng(0).random(5000))
    y = np.arange(1, 5001) / 5000
    short = thin(x, y, 200)
    assert len(short[0]) <= 200
    assert (short[0][0], short[1][0], short[0][-1], short[1][-1]) == (x[0], y[0], x[-1], y[-1])
    at = np.searchsorted(short[0], x, side="right") - 1
    assert np.max(y - short[1][at]) <= 1.01 / 199


def test_a_method_has_the_same_style_in_all_figures():
    first, second = method_styles(["b", "a", "b"]), method_styles(["a", "b"])
    assert first == second and first["a"] != first["b"]
    many = method_styles([f"m{i}" for i in range(15)])
    assert len({(style.color, style.marker) for style in many.values()}) == 15


def test_registered_methods_have_distinct_colours_independent_of_others():
    every = method_styles(list(registry.methods()))
    assert len({style.color for style in every.values()}) == len(every)
    one, other = method_styles(["mnf [epochs=5]", "mnf [epochs=9]"]).values()
    assert one.color == every["mnf"].color != other.color
    alone = {name: method_styles([name])[name].color for name in every}
    assert alone == {name: style.color for name, style in every.items()}


def test_of_two_runs_with_the_same_row_the_newest_counts(results):
    rows = runs.read(results).newest()
    run = rows["run"].iloc[0]
    again = rows[rows["run"] == run].assign(run="newer", value=0.5)
    # The clock of the host of the newer run was behind.
    abouts = {"newer": {"order": 2, "created": "2025-01-01"}, run: {"order": 1, "created": "2025-01-02"}}
    found = prepare(pd.concat([again, rows], ignore_index=True), abouts)
    assert len(found) == len(rows) and run not in set(found["run"])


def test_the_page_says_which_definitions_have_changed_since_a_run_was_made(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "copy")
    assert "the definitions of its code were not stored" in (folder / "report.html").read_text()
    roots = ("bench.records.schema:row",)
    now = dict(code.reached(roots))
    for name, definitions in (("f00d", now), ("0ld", now | {"row": "0", "gone": "1"})):
        store.write_code(folder, name, {**definitions, "task: data": "1"}, roots)
    report.build(folder)
    assert "Changed since" not in (folder / "report.html").read_text()
    for path in (folder / "raw").glob("*.json"):
        path.write_text(path.read_text().replace("f00d", "0ld"))
    report.build(folder)
    assert ">gone, row</td>" in (folder / "report.html").read_text()
