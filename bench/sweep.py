"""Many cells: run those of a plan that are not done, here or in many workers, each cell once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import torch

from bench import launchers, records, registry, runner
from bench.claims import Claims
from bench.errors import BenchError, DataError, UsageError
from bench.plan import Planned, Selection, cells, plan
from bench.task import Data

POLL_SECONDS = 0.5  # between two looks at cells that another process works on
ATTEMPTS = 2  # at a cell whose worker died
LARGEST = 2**63 - 1  # number that a row can hold
MOST_SEEDS = 100_000  # of one command; a range may ask for more than memory holds


class TimeLimit(BenchError):
    """A cell took longer than `--limit`."""


class Interrupted(BenchError):
    """Somebody pressed Ctrl-C."""


class WorkerDied(BenchError):
    """A cell ended its worker process more than once."""


@dataclass(frozen=True)
class Job:
    """What each worker of a sweep is told: plain data, so that it can travel to another process or node.

    sweep: its name, under which attempts are counted. todo: keys of the cells to run. known: names of
    the runs that were there before. limit: minutes a cell may take. threads: of each worker (None: as
    PyTorch finds them).
    """

    sweep: str
    selection: Selection
    results: Path
    device: str
    todo: frozenset[str]
    known: frozenset[str]
    limit: float | None = None
    threads: int | None = None


@dataclass
class Outcome:
    """What a sweep did, by cell name; `left` are the cells that it did not come to."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def run(
    selection: Selection,
    results: Path,
    device: torch.device,
    reporter: runner.Reporter,
    *,
    force: bool = False,
    stale: bool = False,
    limit: float | None = None,
    workers: launchers.Workers | None = None,
) -> Outcome:
    """Run every selected cell that is not done; a failure becomes a row and the rest goes on.

    force: run cells that are done too. stale: run those whose code has changed since. limit: minutes
    for a cell. workers: how many there are and where (None: this process is the only one).
    """
    planned, unreadable = plan(selection, results)
    _check_writable(results)
    outcome = Outcome(failed=dict(unreadable))
    todo: list[Planned] = []
    for item in planned:
        if force or item.state in ("missing", "failed") or (stale and item.state == "stale"):
            todo.append(item)
            continue
        old = " (by older code; --stale runs it again)" if item.state == "stale" else ""
        reporter.say(f"{item.cell.name}: done{old}")
        outcome.skipped.append(item.cell.name)
    if not todo:
        return outcome
    job = Job(
        sweep=uuid4().hex,
        selection=selection,
        results=results,
        device=device.type,
        todo=frozenset(item.cell.key() for item in todo),
        known=frozenset(path.stem for path in (results / "raw").glob("*.csv")),
        limit=limit,
    )
    try:
        if workers is None:
            work(job, reporter)
        else:
            workers.launch(job, reporter)
    except KeyboardInterrupt:
        reporter.say("stopped by Ctrl-C; the same command goes on from the last checkpoint")
    _count(job, todo, outcome)
    return outcome


def _count(job: Job, todo: Sequence[Planned], outcome: Outcome) -> None:
    """What became of the cells, by the files that are there now."""
    for item in todo:
        about = settled(job, item.cell)
        if about is None:
            outcome.left.append(item.cell.name)
        elif about["failure"]:
            failure = about["failure"]
            outcome.failed[item.cell.name] = f"{failure['type']}: {failure['message']}"
        else:
            outcome.finished.append(item.cell.name)


def work(job: Job, reporter: runner.Reporter) -> None:
    """Run cells of the job that nobody else works on, until every cell has ended, here or elsewhere."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    claims = Claims(job.results, job.sweep)
    left = set(job.todo)
    load = _Loader(job.selection)
    while left:
        before = len(left)
        for cell, data in load.cells(left):
            with claims.take(cell.key()[:16], _fit_name(cell, job.results)) as claimed:
                if settled(job, cell) is not None:
                    left.discard(cell.key())
                elif claimed:
                    _attempt(cell, data, job, claims, reporter)
                    left.discard(cell.key())
        if lost := left.difference(*load.keys.values()):
            left -= lost
            reporter.say(
                f"left out: {len(lost)} cells; expected the data that were planned with, found others"
            )
        elif left and len(left) == before:
            time.sleep(POLL_SECONDS)


class _Loader:
    """Cells with their data, in the order of the selection; the data of the last task are kept.

    keys: of the cells of each task, as its data are here; none where they cannot be read.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.keys: dict[str, frozenset[str]] = {}
        self.last: tuple[str, Data] | None = None

    def cells(self, keys: set[str]) -> Iterator[tuple[runner.Cell, Data]]:
        for name in self.selection.tasks:
            if name in self.keys and not self.keys[name] & keys:
                continue
            task = registry.task(name)
            if self.last is None or self.last[0] != name:
                self.last = None  # before the next one is read
                try:
                    self.last = (name, task.load(self.selection.data))
                except DataError:
                    self.keys[name] = frozenset()  # the plan has said so, or they went since
                    continue
            data = self.last[1]
            found = list(cells(self.selection, task, data))
            self.keys[name] = frozenset(cell.key() for cell in found)
            yield from ((cell, data) for cell in found if cell.key() in keys)


def _fit_name(cell: runner.Cell, results: Path) -> str:
    """The name of the fit that a cell shares with others, so that it is made once."""
    return (cell.stage(results) or cell.checkpoint(results).parent).name


def settled(job: Job, cell: runner.Cell) -> dict[str, Any] | None:
    """The JSON of the run that has ended a cell since the sweep began; None where there is none."""
    for name in _runs(cell, job.results):
        if name not in job.known:
            about = records.read_about(job.results, name)
            if about["cell"] == cell.key():
                return about
    return None


def _runs(cell: runner.Cell, results: Path) -> list[str]:
    """Names of a cell's runs, oldest first, by the name that its next one will have."""
    mark = cell.key()[:8]
    stem, _, number = runner._free_name(cell, results).partition(mark)
    return [f"{stem}{mark}" + (f"-{i}" if i > 1 else "") for i in range(1, int(number[1:] or 1))]


def _attempt(cell: runner.Cell, data: Data, job: Job, claims: Claims, reporter: runner.Reporter) -> None:
    device = torch.device(job.device)
    name = cell.key()[:16]
    _remove_parts(cell, job.results)
    begun = claims.begin(name)
    try:
        if begun < ATTEMPTS:
            _run_cell(cell, data, job, device, reporter)
            return
        died = WorkerDied(
            f"expected a result, found that the worker process ended {begun} times in this cell (killed, "
            "out of memory?); run it with fewer workers: --jobs 1"
        )
        _record(cell, job, device, died, reporter)
    finally:
        claims.end(name)


def _remove_parts(cell: runner.Cell, results: Path) -> None:
    """Delete what a killed process left of a file: the claims say that nobody is writing it now."""
    stage, checkpoint = cell.stage(results), cell.checkpoint(results).parent
    places = [(results / "raw", f"*-{cell.key()[:8]}*.part"), (checkpoint, "*.part")]
    for folder, pattern in [*places, *([(stage, "*.part")] if stage else [])]:
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


def _run_cell(
    cell: runner.Cell, data: Data, job: Job, device: torch.device, reporter: runner.Reporter
) -> None:
    try:
        reporter.say(cell.name)
        with time_limit(job.limit):
            runner.run(cell, data, job.results, device, reporter)
    except KeyboardInterrupt:
        stopped = Interrupted("stopped by Ctrl-C; the same command goes on from the last checkpoint")
        _record(cell, job, device, stopped, reporter)
        raise
    except Exception as error:
        # Whatever goes wrong in one cell must not cost the others: it becomes a row with its traceback.
        _record(cell, job, device, error, reporter)


def _record(
    cell: runner.Cell, job: Job, device: torch.device, error: Exception, reporter: runner.Reporter
) -> None:
    path = runner.record_failure(cell, job.results, device, error)
    reporter.say(f"  failed: {type(error).__name__}: {error}\n  wrote {path}")


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Raise TimeLimit inside the block once it has taken that long; None: no limit."""
    if minutes is None:
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeLimit(
            f"expected the cell to end within {minutes:g} minutes (--limit), found it still running; "
            "raise the limit: the fit goes on from its last checkpoint"
        )

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, minutes * 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _check_writable(results: Path) -> None:
    probe = results / "raw" / "writable"
    records.write_atomic(probe, b"")
    probe.unlink()


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0`, `0,1,2` and `0-4` as seeds, at most `MOST_SEEDS`. Raises UsageError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            low = _whole(first)
            high = _whole(last) if dash else low
        except ValueError:
            raise UsageError(f"--seed {text:.80}: expected 0 or 0,1,2 or 0-4, none above {LARGEST}") from None
        if (count := len(seeds) + high - low + 1) > MOST_SEEDS:
            raise UsageError(f"--seed {text:.80}: expected at most {MOST_SEEDS:,} seeds, found {count:,}")
        seeds += range(low, high + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"--seed {text:.80}: expected every seed once, in ascending ranges")
    return tuple(seeds)


def parse_members(text: str) -> tuple[int, ...]:
    """`1,5,10` as ensemble sizes. Raises UsageError for anything else."""
    try:
        sizes = {_whole(part) for part in text.split(",")}
    except ValueError:
        sizes = {0}
    if 0 in sizes:
        raise UsageError(f"--members {text:.80}: expected sizes from 1 to {LARGEST}, as in 1,5,10,100")
    return tuple(sorted(sizes))


def _whole(text: str) -> int:
    """A number from 0 to `LARGEST` in decimal digits. Raises ValueError for any other text."""
    # int also takes signs, blanks, underscores and the digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) > LARGEST:
        raise ValueError(text)
    return int(text)


def device_of(name: str) -> torch.device:
    """The device asked for; `auto` takes a GPU where there is one. Raises BenchError without one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BenchError("--device cuda: expected a CUDA device, found none; run with --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")
