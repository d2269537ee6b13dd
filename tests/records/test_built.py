"""A report is not made again where nothing has changed: inputs, code, options and outputs."""

import logging

import pytest

from bench.cli import reporting
from bench.records import built


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A results folder with a run's file, and a report of one file that counts how often it is made."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.csv").write_text("1")
    made = []

    def build(results):
        made.append(results)
        logging.getLogger("bench").warning("Warning: left out: b.csv")
        (results / "report.html").write_text((results / "raw" / "a.csv").read_text())
        return [results / "report.html"]

    monkeypatch.setattr("bench.report.build", build)
    return tmp_path, made


def test_an_unchanged_report_is_not_made_again_and_its_warnings_are_said_again(folder, caplog):
    results, made = folder
    assert reporting.written(results, {}) == ([results / "report.html"], True)
    caplog.clear()
    assert reporting.written(results, {}) == ([results / "report.html"], False)
    assert len(made) == 1 and [r.getMessage() for r in caplog.records] == ["Warning: left out: b.csv"]


@pytest.mark.parametrize(
    "change",
    [
        lambda results: (results / "raw" / "a.csv").write_text("2"),
        lambda results: (results / "raw" / "b.csv").write_text("1"),
        lambda results: (results / "raw" / "a.csv").rename(results / "raw" / "c.csv"),
        lambda results: (results / "report.html").write_text("edited"),
        lambda results: (results / "report.html").unlink(),
        lambda results: (results / built.NAME).unlink(),
        lambda results: (results / built.NAME).write_text('{"inputs": 1}'),
    ],
)
def test_a_change_of_any_file_makes_it_anew(folder, change):
    results, made = folder
    reporting.written(results, {})
    change(results)
    (results / "raw" / "a.csv").touch() if not (results / "raw" / "a.csv").exists() else None
    assert reporting.written(results, {})[1] and len(made) == 2


def test_force_and_other_options_make_it_anew(folder):
    results, made = folder
    for options, force in (({}, False), ({}, True), ({"single_file": True}, False)):
        assert reporting.written(results, options, force)[1]
    assert len(made) == 3
