"""Runs that are not as they were written, and files that are no run, are named in one line and left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.errors import BenchError
from bench.records import runs, schema, store

COMMON = {
    "method": "m",
    "task": "t",
    "train": "t",
    "preset": "smoke",
    "seed": 0,
    "device": "cpu",
    "schema": 1,
}


def write(results, name, accuracy=0.5, created="2026-01-01"):
    rows = [schema.row("accuracy", accuracy, run=name, members=n, **COMMON) for n in (1, 5)]
    about = {"cell": name, "created": created, "failure": None}
    return store.write_run(results, name, rows, {"d/1/x": np.arange(3.0)}, about)


@pytest.fixture
def raw(tmp_path):
    """The folder `raw` with the runs `good` and `a`."""
    write(tmp_path, "good")
    write(tmp_path, "a")
    return tmp_path / "raw"


def edit(path, before, after):
    path.write_text(path.read_text().replace(before, after, 1))


def unseal(path):
    """As written by a version without digests of rows."""
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "rows_sha256"}))


def copied(raw, name):
    for end in ("csv", "json", "npz"):
        (raw / f"{name}.{end}").write_bytes((raw / f"a.{end}").read_bytes())


def renamed(raw):
    for end in ("csv", "json", "npz"):
        (raw / f"a.{end}").rename(raw / f"b.{end}")


def forged(raw):
    edit(raw / "a.csv", "0.5", "7.5")
    unseal(raw / "a.json")


def cut(raw):
    (raw / "a.csv").write_text("".join((raw / "a.csv").read_text().splitlines(keepends=True)[:-1]))


def exchanged(raw):
    (raw / "a.csv").write_bytes((raw / "good.csv").read_bytes())
    unseal(raw / "a.json")


DAMAGE = {
    "edited": (lambda raw: edit(raw / "a.csv", "0.5", "0.9"), ["good"], ["raw/a.csv: ", "edited or cut"]),
    "cut": (cut, ["good"], ["raw/a.csv: ", "edited or cut"]),
    "doubled": (lambda raw: copied(raw, "a-2"), ["a", "good"], ["raw/a-2.csv: ", "run a, ", "the copy"]),
    "renamed": (renamed, ["good"], ["raw/b.csv: ", "run a, renamed"]),
    "impossible": (forged, ["good"], ["raw/a.csv: ", "accuracy = 7.5", "[0, 1]"]),
    "exchanged": (exchanged, ["good"], ["raw/a.csv: ", "rows of 'good'"]),
    "other arrays": (lambda raw: (raw / "a.npz").write_bytes(b"x"), ["good"], ["raw/a.npz: ", "edited"]),
    "no arrays": (lambda raw: (raw / "a.npz").unlink(), ["good"], ["raw/a.npz: ", "run the cell again"]),
    "broken JSON": (lambda raw: (raw / "a.json").write_text("{"), ["good"], ["raw/a.json: ", "run a"]),
    "no JSON": (lambda raw: (raw / "a.json").unlink(), ["good"], ["raw/a.csv: ", "a.json", "move it away"]),
    "a note": (lambda raw: (raw / "notes.csv").write_text("milk"), ["a", "good"], ["raw/notes.csv: "]),
    "a folder": (lambda raw: (raw / "old.csv").mkdir(), ["a", "good"], ["raw/old.csv: ", "move it away"]),
    "a conflict's copy": (
        lambda raw: (raw / "a (conflicted copy).csv").write_bytes((raw / "a.csv").read_bytes()),
        ["a", "good"],
        ["raw/a (conflicted copy).csv: ", "move it away"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_as_written_is_named_in_one_line_and_left_out(raw, kind, caplog):
    damage, kept, said = DAMAGE[kind]
    damage(raw)
    found = runs.read(raw.parent)
    assert sorted(found.runs) == kept == sorted(set(found.newest()["run"]))
    (line,) = found.left_out
    assert all(text in line for text in said) and "\n" not in line and str(raw) not in line
    assert [record.getMessage() for record in caplog.records] == [f"Warning: left out: {line}"]
    assert runs.find(raw.parent, parse=False).left_out == found.left_out


def test_hidden_files_are_skipped(raw):
    (raw / "._a.csv").write_bytes(b"\0\5\x16\7")
    found = runs.find(raw.parent)
    assert sorted(found.runs) == ["a", "good"] and not found.left_out


def test_runs_of_older_versions_without_a_digest_are_read_and_counted(raw):
    unseal(raw / "a.json")
    found = runs.find(raw.parent)
    assert sorted(found.runs) == ["a", "good"] and found.unsealed == ("a",) and not found.left_out


def test_one_damaged_run_raises_where_it_is_asked_for(raw):
    edit(raw / "a.csv", "0.5", "0.9")
    with pytest.raises(BenchError, match="edited or cut; bring it back, or remove the run's files"):
        runs.check(raw.parent, "a")
    assert runs.check(raw.parent, "good").rows["value"].tolist() == [0.5, 0.5]


def test_a_folder_with_nothing_but_damaged_runs_has_none(raw):
    for name in ("a", "good"):
        edit(raw / f"{name}.csv", "0.5", "0.9")
    with pytest.raises(BenchError, match=r"expected runs in .*raw, found none"):
        runs.read(raw.parent)
