"""Rows are written atomically, read back unchanged, and never share a key."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import BenchError
from bench.records import runs, schema, store

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
    assert set(runs.read(tmp_path).newest()["run"]) == {"new"}


def test_errors_on_missing_and_broken_files_say_what_to_do(tmp_path):
    with pytest.raises(BenchError, match="make one: bench run"):
        runs.read(tmp_path).newest()
    store.write_run(tmp_path, "r", rows(), {}, about())
    (tmp_path / "raw" / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="expected the columns of schema 1"):
        store.read_csv(tmp_path / "raw" / "r.csv")
    (tmp_path / "raw" / "r.npz").write_bytes(b"nonsense")
    with pytest.raises(BenchError, match="expected the arrays of run r"):
        store.read_arrays(tmp_path, "r")


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 7.5),
        ("auroc", -1.0),
        ("entropy_nats", -0.1),
        ("weight_cosine", 1.1),
        ("accuracy", np.inf),
    ],
)
def test_a_value_that_its_metric_cannot_have_is_neither_written_nor_read(tmp_path, metric, value):
    with pytest.raises(ValueError, match=f"{metric} = .* is not within"):
        store.write_run(tmp_path, "r", [schema.row(metric, value, **COMMON)], {}, about())
    assert not list(tmp_path.rglob("*"))
    path = store.write_run(tmp_path, "r", [schema.row(metric, 0.5, **COMMON)], {}, about())
    path.write_text(path.read_text().replace("0.5", repr(value)))
    with pytest.raises(BenchError, match=f"r.csv: .*{metric} = .* is not within"):
        store.read_csv(path)


def test_rounding_is_within_the_limits_and_other_metrics_have_none():
    schema.check_range("mutual_information_nats", -1e-7)
    schema.check_range("aupr_in", 1.0000000000000002)
    schema.check_range("late_gain", -0.5)
    schema.check_range("nll_nats", -3.0)  # of a density
    schema.check_range("accuracy", np.nan)
    schema.check_range("a_metric_of_a_plug_in", -1e300)


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(BenchError, match="choose a writable folder"):
        store.write_run(tmp_path / "results", "r", rows(), {}, about())
