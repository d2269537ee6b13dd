"""A section is one module and one entry: its tables and figures are written and shown on the page."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest

from bench import report
from bench.records import runs, schema, store
from bench.records.schema import KEY
from bench.report import sections
from bench.report.layout.captions import figure_entry
from bench.report.layout.figures import drawing_style, sheet
from bench.report.layout.tables import Table
from bench.report.rows import GROUP, TASK, Material, plain, prepare, summarise
from bench.system.files import write_atomic


def write(results):
    """One run on the task `digits` with accuracy of one and ten networks."""
    place = {"run": "a", "method": "mnf", "task": "digits", "train": "digits", "preset": "quick", "seed": 0}
    place |= {"config": "c", "device": "cpu", "source": "run", "schema": schema.SCHEMA, "examples": 10}
    where = {"evaluation": "accuracy", "dataset": "digits"}
    rows = [schema.row("accuracy", 0.9 + n / 1000, members=n, **where, **place) for n in (1, 10)]
    store.write_run(results, "a", rows, {}, {"cell": "a", "created": "2025", "sizes": [1, 10]})


def gains_tables(material):
    frame = summarise(plain(material.rows, ("accuracy",), "accuracy"))
    return [Table("gains", "Gains", "Made up for a test.", frame, TASK, ("method",), ("members",))]


def gain(note):
    return sheet("Gain", note, 1, 1, 1.0)[0]


def gains_figures(part, styles):
    entry = figure_entry("gain", "digits", part.rows, "A made-up figure.", "digits")
    yield entry, partial(gain, f"{len(styles)} method")


GAINS = SimpleNamespace(NAME="gains", FIGURES={"gain": "gains"}, tables=gains_tables, figures=gains_figures)


def test_a_section_takes_one_module_and_one_entry(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(sections, "SECTIONS", (*sections.SECTIONS, GAINS))
    written = {path.name for path in report.build(tmp_path)}
    assert {"gains.csv", "gains.md", "gain-digits-quick.svg", "gain-digits-quick.png"} <= written
    frame = pd.read_csv(tmp_path / "tables" / "gains.csv")
    assert frame["mean"].tolist() == pytest.approx([0.901, 0.91])
    assert "| mnf | 90.10 | 91.00 | 1 |" in (tmp_path / "tables" / "gains.md").read_text()
    page = (tmp_path / "report.html").read_text()
    what = '<span class="what">'
    parts = (f"{what}Accuracy by", f"{what}Gains", "A made-up figure.", "All tasks</h3>")
    places = [page.index(text) for text in parts]
    assert places == sorted(places)


def test_files_of_a_section_without_rows_are_removed(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(sections, "SECTIONS", (*sections.SECTIONS, GAINS))
    stale = [tmp_path / "figures" / "gain-toy-smoke.svg", tmp_path / "tables" / "regression.md"]
    foreign = [tmp_path / "figures" / "mine.svg", tmp_path / "tables" / "mine.md"]
    for path in (*stale, *foreign):
        write_atomic(path, b"old")
    report.build(tmp_path)
    assert [path.exists() for path in (*stale, *foreign)] == [False, False, True, True]


def test_a_figure_of_an_undeclared_kind_is_refused(tmp_path, monkeypatch):
    write(tmp_path)
    rows = prepare(runs.read(tmp_path).newest(), {})
    unnamed = SimpleNamespace(**vars(GAINS) | {"FIGURES": {}})
    monkeypatch.setattr(sections, "SECTIONS", (unnamed,))
    with drawing_style(), pytest.raises(ValueError, match=r"section gains: .* found 'gain'; add it there"):
        list(sections.all_figures(Material(tmp_path, rows, {}, pd.DataFrame())))


def test_no_two_sections_share_a_name_a_table_or_a_kind_of_figure(tmp_path):
    write(tmp_path)
    rows = prepare(runs.read(tmp_path).newest(), {})
    published = report.published.read(report.published.ORIGINAL.parent)
    tables = sections.all_tables(Material(tmp_path, rows, {}, published))
    for names in (
        [section.NAME for section in sections.SECTIONS],
        [table.name for table in tables],
        sections.figure_kinds(),
    ):
        assert len(set(names)) == len(names)
    behind = {table for section in sections.SECTIONS for table in section.FIGURES.values()}
    assert behind <= {table.name for table in tables}


def test_rows_that_are_no_repetitions_are_not_averaged():
    blank = dict.fromkeys((*KEY, *GROUP), "") | {"unit": "1", "examples": 5, "members": 5, "seed": 0}
    rows = pd.DataFrame([blank | {"variant": v, "value": x} for v, x in (("1", 0.1), ("2", 0.3))])
    with pytest.raises(ValueError, match="found 2 that differ in variant"):
        summarise(rows)
    assert summarise(rows, (*GROUP, "variant"))["seeds"].tolist() == [1, 1]
