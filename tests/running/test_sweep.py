"""A sweep runs each cell once, despite concurrent commands and failing workers."""

from __future__ import annotations

import shlex
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import SMALL, bench, run
from jobs import SELECTION, job_of

from bench import registry
from bench.errors import BenchError, DataError
from bench.records import runs
from bench.running import launchers, worker
from bench.running import run as running
from bench.running.locks import Locks
from bench.running.plan import Selection, plan
from bench.system.progress import FIT, Plain


def failures(results):
    frame = runs.read(results).newest()
    return frame.loc[frame["metric"] == "failed", "unit"].tolist()


def test_a_locked_cell_is_waited_for_and_not_run_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)
    job = job_of(tmp_path)
    (key,) = job.todo
    waiting = threading.Thread(target=worker.work, args=(job, Plain()))
    with Locks(tmp_path, "other").take(key[:16]):
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not list(tmp_path.rglob("*.csv"))
        (item,) = plan(SELECTION, tmp_path)[0]
        data = item.cell.task.load(None)
        running.run(item.cell, data, tmp_path, torch.device("cpu"), Plain())
    waiting.join(30)
    assert not waiting.is_alive()
    assert len(list(tmp_path.rglob("*.csv"))) == 1


def test_a_cell_fails_after_two_workers_died_in_it(tmp_path):
    job = job_of(tmp_path)
    (key,) = job.todo
    locks = Locks(tmp_path, job.sweep)
    locks.begin(key[:16])
    locks.begin(key[:16])
    worker.work(job, Plain())
    assert failures(tmp_path) == ["WorkerDied"]
    assert not list((tmp_path / "locks").iterdir())


@pytest.mark.parametrize("change", ["other data", "none"])
def test_cells_are_skipped_if_data_have_changed_since_the_plan(tmp_path, monkeypatch, capsys, change):
    job = job_of(tmp_path)
    task = registry.task("stripes")

    def load(root):
        if change == "none":
            raise DataError("expected stripes.txt, found nothing")
        return replace(task.load(root), checksums={"stripes": "1"})

    monkeypatch.setattr(registry, "task", lambda name: replace(task, load=load))
    worker.work(job, Plain())
    assert "skipped: 1 cells" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.csv"))


def test_a_cell_over_its_time_limit_fails_and_the_next_command_resumes_it(tmp_path):
    done = run(tmp_path, "--limit", "0.0005")
    assert (
        done.exit_code == 1 and "TimeLimit: expected the cell to finish within 0.0005 minutes" in done.output
    )
    assert failures(tmp_path) == ["TimeLimit"]
    assert "1 run, 0 already done, 0 failed" in run(tmp_path).output


@pytest.fixture
def listening():
    """SIGINT as in a terminal: in a shell's background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_outside_a_fit_stops_at_once_and_is_no_failure(tmp_path, monkeypatch):
    def press(cell, data, results, device, reporter):
        reporter.progress(FIT, 2, 2)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(running, "run", press)
    done = run(tmp_path, "--seed", "0,1")
    assert done.exit_code == 130
    assert "0 run, 0 already done, 0 failed, 1 stopped, 1 not started" in done.output
    assert not list((tmp_path / "raw").iterdir()) and not list((tmp_path / "locks").iterdir())


def pressing(monkeypatch, times):
    """Ctrl-C is pressed in the first round of a fit."""
    method = registry.method("standard_ensemble").load()
    whole = method.round

    def round(self, i):
        for _ in range(times if i == 0 else 0):
            signal.raise_signal(signal.SIGINT)
        return whole(self, i)

    monkeypatch.setattr(method, "round", round)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_in_a_fit_saves_its_round_and_the_same_command_goes_on_there(tmp_path, monkeypatch):
    uninterrupted, stopped = tmp_path / "a", tmp_path / "b"
    run(uninterrupted)
    with monkeypatch.context() as pressed:
        pressing(pressed, 1)
        done = run(stopped)
    assert done.exit_code == 130 and done.output.count("stopped by Ctrl-C") == 1
    assert "checkpoint saved at 1/2: the same command goes on there" in done.output
    assert "0 run, 0 already done, 0 failed, 1 stopped" in done.output
    (item,) = plan(SELECTION, stopped)[0]
    assert item.state == "missing"
    again = run(stopped)
    assert again.exit_code == 0 and "fit: resuming at 1/2" in again.output
    assert again.output.index("resuming at 1/2") < again.output.index("2 rounds, resumed after 1")
    frames = [runs.read(results).newest() for results in (uninterrupted, stopped)]
    cost = frames[0]["evaluation"] == "cost"
    assert frames[0].loc[~cost, "value"].equals(frames[1].loc[~cost, "value"])


@pytest.mark.usefixtures("listening")
def test_ctrl_c_twice_stops_within_the_round(tmp_path, monkeypatch):
    pressing(monkeypatch, 2)
    done = run(tmp_path)
    assert done.exit_code == 130 and "no round of its fit had ended" in done.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    run(tmp_path)
    (path,) = (tmp_path / "raw").glob("*.csv")
    (checkpoint,) = tmp_path.rglob("*.safetensors")
    parts = [path.with_name(f"{path.name}.1.part"), checkpoint.with_name("fit.safetensors.1.part")]
    for part in parts:
        part.write_bytes(b"half")
    run(tmp_path, "--force")
    assert not list(tmp_path.rglob("*.part"))


def test_a_plan_has_all_states_and_commands_that_run_the_cells(tmp_path):
    sets = [*SELECTION.sets, "hypergan.hidden=8", "hypergan.epochs=1"]
    selection = Selection(["standard_ensemble", "hypergan"], ["stripes"], "smoke", (0, 1), sets=sets)
    run(tmp_path)
    run(tmp_path, "--seed", "1", "--limit", "0.0005")
    planned, unreadable = plan(selection, tmp_path)
    assert [item.state for item in planned] == ["done", "failed", "missing", "missing"] and not unreadable
    assert [item.cost.measured for item in planned] == [True, True, False, False]
    assert all(item.cost.seconds > 0 for item in planned)  # of the one run, at least by train key
    for item in planned:
        words = shlex.split(item.command)
        assert words[0] == "bench" and bench(*words[1:]).exit_code == 0
    again, _ = plan(selection, tmp_path)
    assert [item.state for item in again] == ["done"] * 4
    assert sum(item.cell.key() == other.cell.key() for item in planned for other in again) == 4


def test_bench_plan_shows_measured_and_guessed_costs_within_80_columns(tmp_path):
    arguments = ("--method", "standard_ensemble", "--task", "stripes", "--preset", "smoke", *SMALL)
    before = bench("plan", *arguments, results=tmp_path)
    assert before.exit_code == 0 and "~ guessed" in before.output
    (line,) = (line for line in before.output.splitlines() if line.startswith("missing"))
    assert "~" in line and line.endswith("standard_ensemble · stripes")
    run(tmp_path)
    after = bench("plan", *arguments, results=tmp_path)
    (line,) = (line for line in after.output.splitlines() if line.startswith("done"))
    assert "~" not in line and "1 done, 0 stale, 0 failed, 0 missing" in after.output
    every = bench("plan", "--method", "all", "--task", "digits,stripes", "--seed", "0-2", results=Path("x"))
    assert max(map(len, every.output.splitlines())) <= 80


def test_the_commands_of_a_plan_are_printed_alone_one_a_cell_that_is_not_done(tmp_path):
    arguments = ("--method", "standard_ensemble", "--task", "stripes", "--preset", "smoke", *SMALL)
    run(tmp_path)
    found = bench("plan", *arguments, "--seed", "0,1", "--commands", results=tmp_path)
    (line,) = found.output.splitlines()
    assert line.startswith("bench run ") and "--seed 1 " in line


def test_missing_data_of_a_task_do_not_prevent_planning_others(tmp_path):
    done = bench(
        "plan", "--method", "standard_ensemble", "--task", "stripes,digits", "--preset", "smoke",
        "--data", str(tmp_path), results=tmp_path,
    )  # fmt: skip
    assert done.exit_code == 1
    assert "not planned: stripes: " in done.output and "standard_ensemble · digits" in done.output


def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch):
    with pytest.raises(BenchError, match=r"--launcher ray: .*ensemble-bench\[ray\]"):
        launchers.require("a_module_that_nobody_has", "ray")


def test_address_requires_ray(tmp_path):
    done = run(tmp_path, "--address", "auto")
    assert done.exit_code == 2 and "--launcher ray" in done.output


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_after_a_run_was_written_adds_no_run(tmp_path, monkeypatch, error):
    def broken(found, sizes):
        raise error("in the summary")

    monkeypatch.setattr(running, "_summary", broken)
    run(tmp_path)
    assert failures(tmp_path) == [] and len(list((tmp_path / "raw").glob("*.csv"))) == 1


def test_more_networks_than_memory_holds_are_refused(tmp_path, monkeypatch):
    selection = replace(SELECTION, methods=["mc_dropout"], sets=(), members=(5, 1000))
    (cell,) = (item.cell for item in plan(selection, tmp_path)[0])
    weights, logits = 4 * 151, 4 * 3 * 60  # bytes of a network; of its outputs for 40 images and 20 outliers
    needed = 1000 * (weights + logits)
    for free, refused in (
        (needed, nullcontext()),
        (needed - 1, pytest.raises(BenchError, match="--members")),
    ):
        monkeypatch.setattr(running.limits, "room", lambda device, free=free: free)
        with refused:
            running.check_memory(cell, cell.task.load(None), torch.device("cpu"))


def test_a_size_beyond_memory_fails_the_cell_before_its_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(running.limits, "room", lambda device: 1e6)
    words = ("--method", "mc_dropout", "--task", "stripes", "--preset", "smoke", "--members", "1,1000000")
    done = bench("run", *words, results=tmp_path)
    assert done.exit_code == 1 and "found that they need 1.3 GB; ask for fewer with --members" in done.output
    assert not (tmp_path / "checkpoints").exists()
