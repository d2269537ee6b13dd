"""What a plan says of costs, and what a command refuses before any work."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from commands import bench, run
from jobs import SELECTION
from small import load_stripes, stripes_task

from bench import registry
from bench.errors import UsageError
from bench.records import runs
from bench.running import sweep
from bench.running.plan import plan, summary
from bench.system.progress import Plain
from bench.training import limits


def other_data(root):
    """The data of `stripes` from a file of another content."""
    return replace(load_stripes(root), checksums={"stripes": "1"})


def test_costs_of_different_data_sets_are_never_averaged(tmp_path, monkeypatch):
    run(tmp_path)
    (known,) = plan(replace(SELECTION, seeds=(1,)), tmp_path)[0]
    task = replace(stripes_task, load=other_data)
    monkeypatch.setattr(registry, "task", lambda name: task)
    (unknown,) = plan(replace(SELECTION, seeds=(1,)), tmp_path)[0]
    assert known.cost is not None and unknown.cost is None  # not that of data of another content
    run(tmp_path)
    (own,) = plan(replace(SELECTION, seeds=(1,)), tmp_path)[0]
    monkeypatch.undo()
    assert plan(replace(SELECTION, seeds=(1,)), tmp_path)[0][0].cost == known.cost != own.cost


def test_a_plan_without_estimates_names_no_sum(tmp_path):
    assert "to run: 1 without an estimate" in summary(plan(SELECTION, tmp_path)[0])


@pytest.mark.parametrize("checksums", [None, [1], {"stripes": {"a": 1}}])
def test_a_run_whose_json_has_odd_checksums_ends_no_plan(tmp_path, checksums):
    run(tmp_path)
    (path,) = (tmp_path / "raw").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checksums": checksums}))
    assert run(tmp_path, command="plan").exit_code == 0


@pytest.mark.parametrize("text", ["[1]", "1", '"text"', "null"])
def test_a_json_that_is_no_object_is_named_as_such(tmp_path, text):
    run(tmp_path)
    (path,) = (tmp_path / "raw").glob("*.json")
    path.write_text(text)
    (line,) = runs.find(tmp_path).left_out
    assert "found no object" in line


def test_a_set_width_beyond_memory_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits, "room", lambda device: 1e9)
    sets = (*SELECTION.sets, "mnf.hidden=10000000")
    selection = replace(SELECTION, methods=["standard_ensemble", "mnf"], sets=sets)
    with pytest.raises(UsageError, match=r"within the 1\.0 GB .*--set <method>\.hidden=10000000"):
        sweep.run(selection, tmp_path, Plain())
    assert not list(tmp_path.rglob("*.csv")) and not (tmp_path / "checkpoints").exists()
    words = ("--method", "mnf", "--task", "stripes", "--preset", "smoke", "--set", "mnf.hidden=10000000")
    assert bench("run", *words, results=tmp_path).exit_code == 2


def test_a_width_that_only_another_machine_lacks_memory_for_fails_its_cell_there(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "room", lambda device: 2e5)
    done = bench("run", "--method", "hypergan", "--task", "stripes", "--preset", "smoke", results=tmp_path)
    assert done.exit_code == 1 and "expected to train within" in done.output
    assert not (tmp_path / "checkpoints").exists()
