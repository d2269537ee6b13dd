"""The section on shift: means over severities and seeds, one size for all methods, one panel a corruption."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.records import runs, schema, store
from bench.report.layout.figures import drawing_style, method_styles
from bench.report.layout.tables import text_tables
from bench.report.output.images import draw
from bench.report.rows import Material, plain, prepare
from bench.report.sections import shift

CORRUPTIONS = ("rotation", "noise", "blur")
SIZES = {"mnf": (1, 10, 100), "apd": (1, 10, 100), "swag": (1, 10)}
LEVELS = (0, 1, 2)


def value(metric, corruption, severity, members, seed):
    """A number that names its place."""
    steep = 1 + CORRUPTIONS.index(corruption) if corruption else 0
    return 0.9 + members / 1e4 + seed / 100 - 0.1 * steep * severity / (1 + (metric != "accuracy"))


def fake_run(results, method, seed, images=True):
    run = f"{method}-{seed}"
    place = {"run": run, "method": method, "task": "mnist-shift", "train": "mnist", "preset": "quick"}
    place |= {"config": "c", "device": "cpu", "source": "run", "schema": schema.SCHEMA, "seed": seed}
    place |= {"evaluation": "shift", "dataset": "mnist", "examples": 50}
    rows = []
    for members in SIZES[method]:
        for metric in shift.MEASURED:
            for name, level in [("", 0), *((n, s) for n in CORRUPTIONS for s in LEVELS[1:])]:
                number = value(metric, name, level, members, seed)
                where = {"members": members, "severity": level, "corruption": name}
                rows.append(schema.row(metric, number, **where, **place))
        where = {"evaluation": "accuracy", "members": members}
        rows.append(schema.row("accuracy", 0.5, **place | where))
    strips = np.zeros((len(LEVELS), 1, 4, 4), "u1")
    arrays = {f"shift/{name}": strips for name in CORRUPTIONS} if images else {}
    about = {"cell": run, "created": "2026", "sizes": [1, 10, 100]}
    store.write_run(results, run, rows, arrays, about)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    for method in SIZES:
        for seed in (0, 1):
            fake_run(results, method, seed)
    found = runs.read(results)
    abouts = {name: run.about for name, run in found.runs.items()}
    return Material(results, prepare(found.newest(), abouts), abouts, pd.DataFrame())


def tables(material):
    return {table.name: table for table in shift.tables(material)}


def test_the_table_has_means_over_severities_and_seeds(material):
    frame = tables(material)["shift"].frame
    line = frame[(frame["method"] == "mnf") & (frame["members"] == 10) & (frame["metric"] == "accuracy")]
    found = line.set_index("corruption")["mean"].to_dict()
    clean = 0.9 + 10 / 1e4 + 0.005
    expected = {"clean": clean, "rotation": clean - 0.15, "noise": clean - 0.3, "blur": clean - 0.45}
    assert found == pytest.approx(expected | {"all corruptions": clean - 0.3})
    assert set(line["seeds"]) == {2} and line["sd"].to_numpy(float) == pytest.approx(0.01 / 2**0.5)


def test_a_size_out_of_reach_is_not_a_gap(material):
    accuracy = next(t for t in text_tables(tables(material)["shift"]) if "accuracy" in t.block["metric"])
    assert accuracy.headings[2:-1] == ["clean", "all corruptions", *CORRUPTIONS]
    cells = {(line[0].text, line[1].text): [c.text for c in line[2:-1]] for line in accuracy.lines}
    assert cells["100", "swag"] == ["—"] * 5 and "—" not in cells["10", "swag"]


def test_methods_are_compared_by_severity_at_the_largest_size_that_most_have(material):
    frame = tables(material)["shift-severity"].frame
    assert set(frame["members"]) == {10} and set(frame["method"]) == set(SIZES)
    # Clean images count for every corruption.
    assert set(zip(frame["corruption"], frame["severity"], strict=True)) == {
        (name, level) for name in CORRUPTIONS for level in LEVELS
    }
    without = frame[frame["method"] != "swag"]
    assert set(shift.shared(pd.concat([without, without.assign(members=100)]))["members"]) == {100}


def test_rows_under_shift_are_not_those_of_clean_images(material):
    assert plain(material.rows, ("accuracy",))["value"].unique().tolist() == [0.5]


def test_a_figure_has_a_panel_for_each_corruption_and_a_line_for_each_method(material):
    styles = method_styles(list(SIZES))
    with drawing_style():
        drawn = [(entry, plan()) for entry, plan in shift.figures(material, styles)]
    names = [entry.name for entry, _ in drawn]
    assert names == [f"shift-mnist-shift-{m}-quick" for m in ("accuracy", "nll", "ece", "entropy")]
    entry, figure = drawn[0]
    assert "10 networks" in entry.caption and "2 seeds" in figure.get_suptitle()
    seen = [axes for axes in figure.axes if axes.get_visible()]
    strips = [axes for axes in seen if axes.images]
    assert [axes.get_title() for axes in strips] == list(CORRUPTIONS)
    assert {len(axes.images) for axes in strips} == {len(LEVELS)}
    plots = [axes for axes in seen if axes.lines]
    assert len(plots) == len(CORRUPTIONS) and {axes.get_ylim() for axes in plots} == {(0, 106)}
    for axes, name in zip(plots, CORRUPTIONS, strict=True):
        # Of each method a curve and its intervals.
        curves = [line for line in axes.lines if line.get_marker() != "None"]
        assert len(curves) == len(SIZES) == len(axes.lines) - len(curves)
        for line in curves:
            expected = [np.mean([value("accuracy", name, s, 10, seed) for seed in (0, 1)]) for s in LEVELS]
            assert line.get_ydata() == pytest.approx(100 * np.array(expected))


def test_a_report_without_shift_has_neither_table_nor_figure(tmp_path, material):
    rows = material.rows[material.rows["evaluation"] != "shift"]
    bare = Material(tmp_path, rows, material.abouts, pd.DataFrame())
    assert not any(len(table.frame) for table in shift.tables(bare))
    assert not list(shift.figures(bare, {}))


def test_runs_without_stored_images_are_drawn_without_them(tmp_path):
    fake_run(tmp_path, "mnf", 0, images=False)
    part = Material(tmp_path, prepare(runs.read(tmp_path).newest(), {}), {}, pd.DataFrame())
    with drawing_style():
        entry, plan = next(shift.figures(part, method_styles(["mnf"])))
        figure = plan()
    assert "Above each panel" not in entry.caption and not any(axes.images for axes in figure.axes)


@pytest.mark.filterwarnings("error")
def test_intervals_that_reach_below_0_are_drawn_on_a_square_root_scale(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "value", lambda *place: 0.1 + 0.8 * place[-1])
    for seed in (0, 1):
        fake_run(tmp_path, "mnf", seed)
    found = runs.read(tmp_path)
    abouts = {name: run.about for name, run in found.runs.items()}
    material = Material(tmp_path, prepare(found.newest(), abouts), abouts, pd.DataFrame())
    (plan,) = [p for entry, p in shift.figures(material, method_styles(["mnf"])) if "nll" in entry.name]
    assert draw(plan)["png"]
