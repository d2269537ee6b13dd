"""Runs on different data under one name are never averaged, replaced by each other or drawn together."""

from __future__ import annotations

import pandas as pd
import pytest

from bench.records import runs, schema, store
from bench.report import build, data_sets
from bench.report.claims.evidence import Rows
from bench.report.output.images import KINDS
from bench.report.rows import accuracy_by_size, command, prepare, summarise, trained

MNIST, DIGIT, OTHER = {"mnist": "a"}, {"mnist": "a", "out": "x"}, {"mnist": "a", "out": "y"}


def rows_of(*found):
    """Prepared rows of runs, given as (run, task, method, seed, accuracy, checksums), and their JSON."""
    rows, abouts = [], {}
    for i, (run, task, method, seed, accuracy, sums) in enumerate(found):
        place = {"run": run, "task": task, "train": "mnist", "method": method, "seed": seed, "config": "c"}
        place |= {"preset": "quick", "device": "cpu", "schema": schema.SCHEMA}
        metric = ("accuracy", accuracy) if accuracy is not None else ("failed", 1.0)
        seen = {"evaluation": "accuracy", "dataset": "mnist", "members": 5, "examples": 100}
        rows.append(schema.row(*metric, **place, **seen) | {"unit": "fraction"})
        rows.append(schema.row("fit_seconds", 1.0, evaluation="cost", **place))
        failure = None if accuracy is not None else {"type": "E", "message": ""}
        abouts[run] = {"order": i + 1, "checksums": sums, "failure": failure}
    frame = pd.DataFrame(rows).reindex(columns=list(schema.COLUMNS))
    text = [c for c in schema.COLUMNS if c not in (*schema.INTEGERS, *schema.FLOATS)]
    frame[text] = frame[text].astype(object).fillna("")
    frame = frame.astype(dict.fromkeys(schema.INTEGERS, "Int64"))
    return prepare(frame.astype(dict.fromkeys(schema.FLOATS, "float64")), abouts), abouts


def test_seeds_on_different_data_are_not_averaged():
    rows, abouts = rows_of(
        ("r0", "notmnist", "m", 0, 0.9, DIGIT), ("r1", "notmnist", "m", 1, 0.3, OTHER)
    )  # fmt: skip
    table = accuracy_by_size(rows, abouts)
    assert sorted(table["mean"]) == [0.3, 0.9] and set(table["seeds"]) == {1}
    assert table["task"].str.fullmatch(r"notmnist \[data [0-9a-f]{8}\]").all()
    assert set(rows["train"]) == {"mnist [data " + t.split("[data ")[1] for t in rows["task"]}
    costs = summarise(rows[rows["metric"] == "fit_seconds"])
    assert set(costs["seeds"]) == {1}


def test_a_run_on_other_data_replaces_none_of_the_same_seed():
    rows, _ = rows_of(
        ("old", "notmnist", "m", 0, 0.9, DIGIT), ("new", "notmnist", "m", 0, 0.3, OTHER),
        ("newest", "notmnist", "m", 0, 0.5, OTHER),
    )  # fmt: skip
    kept = rows[rows["metric"] == "accuracy"]
    assert sorted(kept["run"]) == ["newest", "old"]


def test_runs_on_the_same_data_stay_as_they_are():
    rows, abouts = rows_of(
        ("r0", "notmnist", "m", 0, 0.9, DIGIT), ("r1", "notmnist", "m", 1, 0.8, DIGIT),
        ("r2", "mnist", "m", 0, 0.8, MNIST), ("bad", "notmnist", "m", 2, None, OTHER),
    )  # fmt: skip
    assert set(rows["task"]) == {"mnist", "notmnist"} and set(rows["train"]) == {"mnist"}
    assert data_sets.notes(rows, abouts) == ()


def test_outliers_that_differ_leave_what_was_trained_on_alone():
    rows, _ = rows_of(
        ("r0", "notmnist", "m", 0, 0.9, DIGIT), ("r1", "notmnist", "m", 1, 0.8, OTHER),
        ("r2", "mnist", "m", 0, 0.8, MNIST),
    )  # fmt: skip
    assert set(rows["train"]) == {"mnist"}
    assert sorted(rows["task"].map(data_sets.without_data).unique()) == ["mnist", "notmnist"]
    assert "mnist" in set(rows["task"]) and "notmnist" not in set(rows["task"])


def test_tasks_that_share_a_fit_by_name_are_told_apart_if_it_is_of_other_data():
    rows, abouts = rows_of(
        ("r0", "mnist", "m", 0, 0.9, MNIST), ("r1", "notmnist", "k", 0, 0.8, {"mnist": "b", "out": "x"}),
    )  # fmt: skip
    assert rows["train"].nunique() == 2 and rows["task"].str.contains("[data ", regex=False).all()
    assert len(list(trained(accuracy_by_size(rows, abouts), rows))) == 2


@pytest.mark.parametrize("sums", [{}, None, {"another file": "a"}])
def test_data_that_were_not_recorded_or_lie_in_other_files_are_not_the_same(sums):
    rows, _ = rows_of(("r0", "mnist", "m", 0, 0.9, MNIST), ("r1", "mnist", "m", 1, 0.8, sums))
    assert rows["task"].nunique() == 2 and rows["train"].nunique() == 2
    assert rows["task"].str.contains("not recorded").any() == (not sums)


def test_claims_rest_on_one_data_set_that_most_methods_have_read():
    rows, abouts = rows_of(
        ("r0", "notmnist", "m", 0, 0.9, DIGIT), ("r1", "notmnist", "k", 0, 0.8, DIGIT),
        ("r2", "notmnist", "m", 1, 0.3, OTHER), ("r3", "notmnist", "m", 2, 0.2, OTHER),
    )  # fmt: skip
    age = runs.ages(abouts)
    one = data_sets.one_each(rows, age)
    assert set(one["run"]) == {"r0", "r1"} and set(one["task"]) == {"notmnist"}
    found = Rows(one, age)
    assert found.values("m", "notmnist", "accuracy", "accuracy", members=5).values.to_dict() == {0: 0.9}
    (note,) = data_sets.notes(rows, abouts)
    assert note.startswith("One name holds several data sets: ") and "checksums of out differ" in note
    used = rows.loc[rows["run"] == "r0", "task"].iloc[0]
    assert note.endswith(f"use {used} (quick · cpu).")


def test_commands_name_tasks_as_they_are_registered():
    told = ["notmnist [data 8e7f38ae]", "notmnist [data 7da7a10c]", "mnist"]
    assert "--task notmnist,mnist --preset" in command(["m"], told, "quick", "cpu")


def test_the_page_and_the_command_say_that_one_name_holds_two_data_sets(tmp_path, caplog):
    for seed, sums in enumerate((DIGIT, OTHER)):
        run = f"r{seed}"
        place = {"run": run, "task": "notmnist", "train": "mnist", "method": "m", "seed": seed}
        place |= {"preset": "quick", "device": "cpu", "config": "c", "schema": schema.SCHEMA}
        seen = {"evaluation": "accuracy", "dataset": "mnist", "examples": 100}
        rows = [schema.row("accuracy", 0.5 + seed / 4, members=n, **seen, **place) for n in (1, 5)]
        about = {"cell": run, "created": "2026", "failure": None, "checksums": sums, "config": {"a": 1}}
        store.write_run(tmp_path, run, rows, {}, about)
    (tmp_path / "raw" / "notes.csv").write_text("remember the milk")
    written = {path.name for path in build(tmp_path)}
    assert len([name for name in written if name.startswith("accuracy-notmnist-data-")]) == 2 * len(KINDS)
    page = (tmp_path / "report.html").read_text()
    assert page.count('<p class="alarm">One name holds several data sets: ') == 1
    assert '<p class="alarm">Left out: raw/notes.csv: ' in page and str(tmp_path) not in page
    messages = [record.getMessage() for record in caplog.records]
    assert [m.split(":")[1].strip() for m in messages] == ["left out", "One name holds several data sets"]
    table = (tmp_path / "tables" / "accuracy.md").read_text()
    assert table.count(data_sets.EXPLANATION) == 2 and " ± " not in table.split("\n## ", 1)[1]
