"""Many cells: which there are, which are done, and running the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bench import records, registry, runner
from bench.config import parse_sets, resolve
from bench.errors import BenchError, DataError, UsageError
from bench.task import Data, Task


@dataclass(frozen=True)
class Selection:
    """What a command asks for. members: None takes the task's sizes."""

    methods: Sequence[str]
    tasks: Sequence[str]
    preset: str = "quick"
    seeds: Sequence[int] = (0,)
    members: tuple[int, ...] | None = None
    sets: Sequence[str] = ()
    data: Path | None = None


@dataclass
class Outcome:
    """What a sweep did, by cell name."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def cells(selection: Selection, task: Task, data: Data) -> Iterator[runner.Cell]:
    """The cells of one task. Raises UsageError for a setting that does not exist."""
    sets = parse_sets(selection.sets, selection.methods)
    sizes = selection.members or task.scale(selection.preset).sizes
    checksums, fitted_on = tuple(sorted(data.checksums.items())), data.fitted_on()
    for name in selection.methods:
        entry = registry.method(name)
        config = entry.load().Config
        settings = resolve(entry, config, selection.preset, task.train, sets.get(name, {}))
        for seed in selection.seeds:
            shared = (tuple(sorted(sizes)), settings, checksums, fitted_on)
            yield runner.Cell(entry, task, selection.preset, seed, *shared)


def check(selection: Selection) -> None:
    """Raises UsageError for anything in the selection that does not exist, before any work."""
    sets = parse_sets(selection.sets, selection.methods)
    for name in selection.tasks:
        task = registry.task(name)
        for method in selection.methods:
            entry = registry.method(method)
            resolve(entry, entry.load().Config, selection.preset, task.train, sets.get(method, {}))


def done(results: Path) -> dict[str, str]:
    """Code version of the newest finished run, by cell key."""
    finished = (about for about in records.runs(results).values() if not about["failure"])
    return {about["cell"]: about["code"] for about in finished}


def run(
    selection: Selection,
    results: Path,
    device: torch.device,
    reporter: runner.Reporter,
    force: bool = False,
    stale: bool = False,
) -> Outcome:
    """Run every selected cell that is not done; a failure becomes a row and the rest goes on.

    force: run cells that are done too. stale: run those whose code has changed since.
    """
    check(selection)
    _check_writable(results)
    outcome = Outcome()
    before = done(results)
    for name in selection.tasks:
        task = registry.task(name)
        try:
            data = task.load(selection.data)
        except DataError as error:
            outcome.failed[name] = str(error)
            continue
        for cell in cells(selection, task, data):
            code = before.get(cell.key())
            if code is not None and not force and not (stale and code != cell.code()):
                old = "" if code == cell.code() else " (by older code; --stale runs it again)"
                reporter.say(f"{cell.name}: done{old}")
                outcome.skipped.append(cell.name)
                continue
            _run_cell(cell, data, results, device, reporter, outcome)
    return outcome


def _run_cell(
    cell: runner.Cell,
    data: Data,
    results: Path,
    device: torch.device,
    reporter: runner.Reporter,
    outcome: Outcome,
) -> None:
    reporter.say(cell.name)
    try:
        runner.run(cell, data, results, device, reporter)
        outcome.finished.append(cell.name)
    except Exception as error:
        # Whatever goes wrong in one cell must not cost the others: it becomes a row with its traceback.
        path = runner.record_failure(cell, results, device, error)
        reporter.say(f"  failed: {type(error).__name__}: {error}\n  wrote {path}")
        outcome.failed[cell.name] = f"{type(error).__name__}: {error}"


def _check_writable(results: Path) -> None:
    probe = results / "raw" / "writable"
    records.write_atomic(probe, b"")
    probe.unlink()


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0`, `0,1,2` and `0-4` as seeds. Raises UsageError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isdigit() and (last.isdigit() if dash else True)):
            raise UsageError(f"--seed {text}: expected 0 or 0,1,2 or 0-4")
        seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"--seed {text}: expected every seed once, in ascending ranges")
    return tuple(seeds)


def parse_members(text: str) -> tuple[int, ...]:
    """`1,5,10` as ensemble sizes. Raises UsageError for anything else."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--members {text}: expected sizes of 1 or more, as in 1,5,10,100")
    return tuple(sorted({int(part) for part in parts}))


def device_of(name: str) -> torch.device:
    """The device asked for; `auto` takes a GPU where there is one. Raises BenchError without one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BenchError("--device cuda: expected a CUDA device, found none; run with --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")
