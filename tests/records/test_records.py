"""Rows are written atomically, read back unchanged, and never share a key."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealing import sealed

from bench.errors import BenchError
from bench.records import runs, schema, store
from bench.running.agreement import read_rows

RESULTS = Path(__file__).parents[2] / "results"
COMMON = {"run": "r", "method": "m", "task": "t", "train": "t", "preset": "smoke", "seed": 0, "schema": 1}


def rows(**changes):
    return [
        {**schema.row("accuracy", 0.1 + 0.2, members=10, dataset="d"), **COMMON, **changes},
        {**schema.row("entropy_nats", 1e-300, quantile=0.5, dataset="d"), **COMMON, **changes},
    ]


def about(cell="c", order=1, failure=None, **more):
    return {"cell": cell, "order": order, "failure": failure, **more}


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
    store.write_run(tmp_path, "old", rows(run="old"), {}, about(order=1, created="2026-03-01"))
    store.write_run(tmp_path, "new", rows(run="new"), {}, about(order=2, created="2026-01-02"))
    failure = {"type": "E", "message": "", "traceback": ""}
    store.write_run(tmp_path, "bad", rows(run="bad"), {}, about(order=3, failure=failure))
    assert set(runs.read(tmp_path).newest()["run"]) == {"new"}


def test_errors_on_missing_and_broken_files_say_what_to_do(tmp_path):
    with pytest.raises(BenchError, match="make one: bench run"):
        runs.read(tmp_path).newest()
    store.write_run(tmp_path, "r", rows(), {}, about())
    (tmp_path / "raw" / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BenchError, match="expected the columns of schema 2"):
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


def test_rows_of_every_version_of_the_schema_are_read(tmp_path):
    path = store.write_run(tmp_path, "r", rows(), {}, about())
    now, keys = store.read_csv(path), set(read_rows(tmp_path, "r"))
    lines = [line.split(",") for line in path.read_text().splitlines()]
    for version in range(1, schema.SCHEMA + 1):
        kept = [lines[0].index(name) for name in schema.header(version)]
        path.write_text("".join(",".join(line[i] for i in kept) + "\n" for line in lines))
        sealed(tmp_path, "r")
        pd.testing.assert_frame_equal(store.read_csv(path), now)
        assert set(read_rows(tmp_path, "r")) == keys
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


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", float("nan")),
        ("value", float("inf")),
        ("value", None),
        ("value", ""),
        ("epsilon", -float("inf")),
        ("seed", 2**63),
        ("seed", -1),
        ("members", 1.5),
        ("members", float("nan")),
        ("members", "many"),
        ("dataset", "a\rb"),
        ("dataset", "a\x00b"),
        ("dataset", "a\udcff"),
    ],
)
def test_a_value_that_would_not_be_read_back_is_refused_and_nothing_is_written(tmp_path, column, value):
    row = rows()[0]
    with pytest.raises(ValueError, match=r"row .*accuracy"):
        store.write_run(tmp_path, "r", [row | {column: value}], {}, about())
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("column", "text"), [("value", "inf"), ("value", ""), ("seed", "-1"), ("value", "nan")]
)
def test_what_the_writer_refuses_the_reader_refuses(tmp_path, column, text):
    path = store.write_run(tmp_path, "r", rows()[:1], {}, about())
    header, line = path.read_text().splitlines()
    cells = line.split(",")
    cells[schema.COLUMNS.index(column)] = text
    path.write_text("\n".join([header, ",".join(cells)]) + "\n")
    with pytest.raises(BenchError, match="remove the file"):
        store.read_csv(path)


@given(
    st.integers(0, schema.MAX_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
)
def test_what_is_written_is_read_back(seed, value, name):
    row = {**rows()[0], "metric": "weight_mean", "seed": seed, "value": value, "variant": name}
    with tempfile.TemporaryDirectory() as folder:
        frame = store.read_csv(store.write_run(Path(folder), "r", [row], {}, about()))
    assert frame.loc[0, ["seed", "value", "variant"]].tolist() == [seed, value, name]


def test_of_runs_that_were_written_at_once_the_number_in_the_name_decides_then_the_name():
    cell = "0123456789abcdef"
    names = ["m-t-smoke-s0-01234567", "m-t-smoke-s0-01234567-2", "m-t-smoke-s0-01234567-10", "m-t-smoke-s1-x"]
    abouts = {name: {"cell": cell, "created": f"2026-{9 - i}"} for i, name in enumerate(names)}
    assert list(runs.ages(abouts)) == [names[0], names[3], names[1], names[2]]
    assert list(runs.ages({**abouts, names[0]: {"cell": cell, "order": 1}}))[-1] == names[0]


def test_orders_grow_within_a_family_and_files_that_cannot_be_read_do_not_count(tmp_path):
    assert runs.next_order(tmp_path, "m-t-smoke-s") == 1
    store.write_run(tmp_path, "m-t-smoke-s0-1", rows(), {}, about(order=7))
    store.write_run(tmp_path, "m-t-quick-s0-1", rows(), {}, about(order=70))
    (tmp_path / "raw" / "m-t-smoke-s0-2.json").write_text("{")
    assert runs.next_order(tmp_path, "m-t-smoke-s") == 8
