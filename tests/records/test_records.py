"""Rows are written atomically, read back unchanged, and never share a key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import BenchError
from bench.records import schema, store
from bench.running.agreement import read_rows

RESULTS = Path(__file__).parents[2] / "results"
COMMON = {"run": "r", "method": "m", "task": "t", "train": "t", "preset": "smoke", "seed": 0, "schema": 1}


def rows(**changes):
    return [
        {**schema.row("accuracy", 0.1 + 0.2, members=10, dataset="d"), **COMMON, **changes},
        {**schema.row("entropy_nats", 1e-300, quantile=0.5, dataset="d"), **COMMON, **changes},
    ]


def about(cell="c", created="2026-01-01", failure=None):
    return {"cell": cell, "created": created, "failure": failure}


def test_numbers_round_trip_and_empty_stays_empty(tmp_path):
    path = store.write_run(tmp_path, "r", rows(), {"d/1/x": np.arange(3, dtype="f4")}, about())
    text = path.read_text()
    assert text.startswith(",".join(schema.COLUMNS))
    assert "0.30000000000000004" in text and ",10," in text and "10.0" not in text
    frame = store.read_csv(path)
    assert frame["value"].tolist() == [0.1 + 0.2, 1e-300]
    assert frame["layer"].tolist() == ["", ""]
    assert frame["members"].isna().tolist() == [False, True]
    assert store.read_arrays(tmp_path, "r")["d/1/x"].tolist() == [0, 1, 2]
    assert store.read_about(tmp_path, "r")["cell"] == "c"


def test_rows_with_the_same_key_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="share the key"):
        store.write_run(tmp_path, "r", rows() + rows(), {}, about())
    assert not list(tmp_path.rglob("*"))


def test_a_column_outside_the_schema_is_refused():
    with pytest.raises(ValueError, match="acuracy"):
        schema.row("accuracy", 1.0, acuracy=2)


def test_the_newest_run_of_a_cell_is_read_unless_it_failed(tmp_path):
    store.write_run(tmp_path, "old", rows(run="old"), {}, about(created="2026-01-01"))
    store.write_run(tmp_path, "new", rows(run="new"), {}, about(created="2026-01-02"))
    failure = {"type": "E", "message": "", "traceback": ""}
    store.write_run(tmp_path, "bad", rows(run="bad"), {}, about(created="2026-01-03", failure=failure))
    assert set(store.read(tmp_path)["run"]) == {"new"}


def test_errors_on_missing_and_broken_files_say_what_to_do(tmp_path):
    with pytest.raises(BenchError, match="make one: bench run"):
        store.read(tmp_path)
    store.write_run(tmp_path, "r", rows(), {}, about())
    (tmp_path / "raw" / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="expected the columns of schema 2"):
        store.read(tmp_path)
    (tmp_path / "raw" / "r.npz").write_bytes(b"nonsense")
    with pytest.raises(BenchError, match="expected the arrays of run r"):
        store.read_arrays(tmp_path, "r")


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(BenchError, match="choose a writable folder"):
        store.write_run(tmp_path / "results", "r", rows(), {}, about())


def test_rows_of_every_version_of_the_schema_are_read(tmp_path):
    path = store.write_run(tmp_path, "r", rows(), {}, about())
    now, keys = store.read_csv(path), set(read_rows(path))
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for version in range(1, schema.SCHEMA + 1):
        kept = [lines[0].index(name) for name in schema.header(version)]
        path.write_text("".join(",".join(line[i] for i in kept) + "\n" for line in lines))
        pd.testing.assert_frame_equal(store.read_csv(path), now)
        assert set(read_rows(path)) == keys
    assert schema.header(schema.SCHEMA) == schema.COLUMNS
    assert set(schema.COLUMNS) - set(schema.header(1)) == {"severity", "corruption"}


def test_severity_and_corruption_are_part_of_a_row_s_key(tmp_path):
    shifted = [
        {**r, "severity": s, "corruption": c} for r in rows() for s, c in ((0, ""), (1, "blur"), (2, "blur"))
    ]
    frame = store.read_csv(store.write_run(tmp_path, "r", shifted, {}, about()))
    assert frame["severity"].tolist() == [0, 1, 2, 0, 1, 2] and frame["severity"].dtype == "Int64"
    assert frame["corruption"].tolist() == ["", "blur", "blur"] * 2


@pytest.mark.skipif(not RESULTS.is_dir(), reason="no results folder beside the tests")
def test_every_row_in_the_results_folder_is_read():
    paths = [*RESULTS.rglob("raw/*.csv"), RESULTS / "published.csv"]
    assert len(paths) > 1
    for path in paths:
        frame = store.read_csv(path)
        assert tuple(frame.columns) == schema.COLUMNS and len(frame)
        assert frame["schema"].between(1, schema.SCHEMA).all()
        earlier = frame[frame["schema"] < 2]
        assert earlier["severity"].isna().all() and (earlier["corruption"] == "").all()
