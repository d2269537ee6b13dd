"""A report is not made again where nothing has changed: inputs, code, options and outputs."""

import json
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

    def build(results, single_file, told):
        made.append(results)
        logging.getLogger("bench").warning("Warning: left out: b.csv")
        (results / "report.html").write_text((results / "raw" / "a.csv").read_text())
        return [results / "report.html"]

    monkeypatch.setattr("bench.report.build", build)
    return tmp_path, made


def written(results, single_file=False, force=False):
    """The paths, and whether the report was made anew."""
    paths, lines = reporting.written(results, single_file, force, lambda step: None)
    assert lines[-1] == f"page     {results / 'report.html'}"
    return paths, reporting.UNCHANGED not in lines


def test_an_unchanged_report_is_not_made_again_and_its_warnings_are_said_again(folder, caplog):
    results, made = folder
    assert written(results) == ([results / "report.html"], True)
    caplog.clear()
    assert written(results) == ([results / "report.html"], False)
    assert len(made) == 1 and [r.getMessage() for r in caplog.records] == ["Warning: left out: b.csv"]


def cut(path):
    """Takes the warnings from a record."""
    found = json.loads(path.read_text())
    del found["warnings"]
    path.write_text(json.dumps(found))


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
        lambda results: cut(results / built.NAME),
    ],
)
def test_a_change_of_any_file_makes_it_anew(folder, change):
    results, made = folder
    written(results)
    change(results)
    (results / "raw" / "a.csv").touch() if not (results / "raw" / "a.csv").exists() else None
    assert written(results)[1] and len(made) == 2


def test_force_and_other_options_make_it_anew(folder):
    results, made = folder
    for single_file, force in ((False, False), (False, True), (True, False)):
        assert written(results, single_file, force)[1]
    assert len(made) == 3
