"""Sweeps: run the cells of a plan that are not done, in this process or in several workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import torch

from bench.errors import BenchError, DataError, UsageError
from bench.running import launchers
from bench.running.cell import Cell
from bench.running.data import TaskData
from bench.running.locks import Locks
from bench.running.plan import Planned, Selection, plan, usable
from bench.running.run import check_start
from bench.running.worker import Job, ended_run, work
from bench.settings import parse_sets
from bench.system import files
from bench.system.progress import CellReporter


@dataclass
class Outcome:
    """What a sweep did, by cell name.

    failed: with the error. stopped: by Ctrl-C, in a cell that had begun. not_started: not run by anyone.
    interrupted: whether Ctrl-C ended the sweep. runs: names of the runs of finished and skipped cells.
    """

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)
    not_started: list[str] = field(default_factory=list)
    interrupted: bool = False
    runs: list[str] = field(default_factory=list)


def run(
    selection: Selection,
    results: Path,
    reporter: CellReporter,
    *,
    force: bool = False,
    stale: bool = False,
    limit: float | None = None,
    threads: int | None = None,
    workers: launchers.Workers | None = None,
    quiet: bool = False,
) -> Outcome:
    """Run all selected cells that are not done; a failure is stored as a row and the sweep continues.

    force: also run cells that are done. stale: also run those whose code has changed. limit: minutes
    per cell. threads: how many all cells together may use (None: all cores). workers: how many and where
    (None: only this process). quiet: whether workers say warnings alone. Raises UsageError, before any work,
    for a setting of the command with which training would not fit in this machine's memory.
    """
    planned, unreadable = plan(selection, results)
    selection, _ = usable(selection)
    _check_writable(results)
    sweep = uuid4().hex
    if warning := Locks(results, sweep).check():
        reporter.say(f"warning: {warning}")
    outcome = Outcome(failed=dict(unreadable))
    todo: list[Planned] = []
    for item in planned:
        if force or item.state in ("missing", "failed") or (stale and item.state == "stale"):
            todo.append(item)
            continue
        old = f" (by older code, {item.reason}; --stale runs it again)" if item.state == "stale" else ""
        reporter.say(f"{item.cell.name}: done{old}")
        outcome.skipped.append(item.cell.name)
        outcome.runs += item.cell.runs(results)
    if not todo:
        return outcome
    if workers is None or workers.launcher == "local":  # other machines have other memory
        _check_sizes([item.cell for item in todo], selection)
    job = Job(
        sweep=sweep,
        selection=selection,
        results=results,
        todo=frozenset(item.cell.key() for item in todo),
        known=frozenset(path.stem for path in (results / "raw").glob("*.csv")),
        limit=limit,
        threads=threads,
        places={item.cell.key(): f"{i}/{len(todo)}" for i, item in enumerate(todo, 1)},
        expected={item.cell.key(): item.cost.fit_seconds for item in todo if item.cost is not None},
        quiet=quiet,
    )
    try:
        if workers is None:
            work(job, reporter)
        else:
            workers.launch(job, reporter)
    except KeyboardInterrupt:
        outcome.interrupted = True
    _count(job, todo, outcome)
    return outcome


def _count(job: Job, todo: Sequence[Planned], outcome: Outcome) -> None:
    """Sort the cells by result, read from the files that exist now."""
    locks = Locks(job.results, job.sweep)
    for item in todo:
        about, lock = ended_run(job, item.cell), item.cell.key()[:16]
        if about is None and outcome.interrupted and locks.begun(lock):
            outcome.stopped.append(item.cell.name)
            locks.end(lock)
        elif about is None:
            outcome.not_started.append(item.cell.name)
        elif about["failure"]:
            failure = about["failure"]
            outcome.failed[item.cell.name] = f"{failure['type']}: {failure['message']}"
        else:
            outcome.finished.append(item.cell.name)
            outcome.runs += item.cell.runs(job.results)


def _check_sizes(todo: Sequence[Cell], selection: Selection) -> None:
    """Raises UsageError where a method whose settings the command changes would not fit in memory."""
    changed = parse_sets(selection.sets, selection.methods)
    read, device = TaskData(selection.data), torch.device(selection.device)
    different = {(c.entry.name, c.task.train): c for c in todo if c.entry.name in changed}
    for cell in different.values():
        try:
            check_start(cell, read(cell.task.name), device)
        except DataError:  # removed since the plan; a worker says so
            continue
        except BenchError as error:
            raise UsageError(str(error)) from error


def _check_writable(results: Path) -> None:
    probe = results / "raw" / f"writable-{uuid4().hex}"  # another sweep may try at the same moment
    files.write_atomic(probe, b"")
    probe.unlink()
