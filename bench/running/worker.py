"""A worker: runs cells of a sweep that no other process holds, until all have finished or failed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bench import registry
from bench.engine import parallel, spent
from bench.errors import BenchError, DataError
from bench.records import checkpoints, store
from bench.running import run
from bench.running.cell import Cell
from bench.running.data import TaskData
from bench.running.locks import POLL_SECONDS, Locks
from bench.running.plan import Selection, cells
from bench.system import interrupts
from bench.system.output import is_terminal, unfailing
from bench.system.progress import FIT, OTHER, CellReporter, Plain, Quiet, Stage, clock_time
from bench.task import Data

ATTEMPTS = 2  # at a cell whose worker dies


class TimeLimit(BenchError):
    """A cell took longer than `--limit`."""


class WorkerDied(BenchError):
    """Worker processes died in this cell more than once."""


@dataclass(frozen=True)
class Job:
    """The task of a sweep's workers, as plain data that can be sent to another process or node.

    sweep: its identifier, by which attempts are counted. todo: keys of the cells to run. known: names of
    the runs that existed before. limit: minutes per cell. threads: that a worker works in, once the launcher
    has shared out those of the command (None: all cores). places: of the cells in the sweep, as `2/12`, and
    expected: seconds of their fits, by key, as far as they are known. quiet: say warnings alone.
    """

    sweep: str
    selection: Selection
    results: Path
    todo: frozenset[str]
    known: frozenset[str]
    limit: float | None = None
    threads: int | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    quiet: bool = False


def run_worker(job: Job, label: str, gpu: str | None = None) -> None:
    """The main function of a worker process; its output lines begin with the label.

    gpu: the only GPU that the worker sees, unless the environment names one already.

    The first SIGINT stops it and later ones are ignored: a terminal's Ctrl-C arrives in addition to the
    launcher's signal, and must not interrupt a round that is to end with a checkpoint.
    """
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    signal.signal(signal.SIGINT, _interrupt_once)
    reporter = Quiet() if job.quiet else Plain(label, shared=is_terminal(sys.stdout))
    with unfailing(), suppress(KeyboardInterrupt):
        try:
            work(job, reporter, again=False)
        except BenchError as error:  # of the folder, not of a cell; the launcher decides whether to try again
            reporter.say(f"Error: {error}")
            raise SystemExit(1) from error


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def work(job: Job, reporter: CellReporter, again: bool = True) -> None:
    """Run cells of the job that no other process holds, until all have finished or failed somewhere.

    Ctrl-C raises KeyboardInterrupt, in a fit after the round that runs. again: a second raises it at once.
    """
    if job.threads is not None:
        parallel.use(job.threads)
    with interrupts.handled(lambda: _waits(reporter, again), again):
        _work(job, reporter)


def _waits(reporter: CellReporter, again: bool) -> bool:
    """On Ctrl-C: whether a fit will stop by itself, when its round ends; says how long that takes."""
    stage = reporter.stage
    if not stage.fitting:
        return False
    left = stage.round_left()
    time_left = "" if left is None or left < 1 else f" in about {clock_time(left)}"
    more = "; Ctrl-C again stops now" if again else ""
    with suppress(RuntimeError):  # the signal came while a line was being written
        reporter.say(f"  stopping{time_left}, when round {stage.done + 1} of {stage.total} ends{more}")
    return True


def _work(job: Job, reporter: CellReporter) -> None:
    locks = Locks(job.results, job.sweep)
    left = set(job.todo)
    load, waiting = _Loader(job.selection), _Waiting(locks, reporter)
    while left:
        before = len(left)
        for cell, data in load.cells(left):
            with locks.take(cell.key()[:16], *_fit_names(cell, job.results)) as held:
                if ended_run(job, cell) is not None:
                    left.discard(cell.key())
                elif held:
                    _attempt(cell, data, job, locks, reporter)
                    left.discard(cell.key())
                else:
                    waiting.note(cell)
        if lost := left.difference(*load.keys.values()):
            left -= lost
            reporter.say(
                f"skipped: {len(lost)} cells; expected the data that the plan was made with, found others"
            )
        elif left and len(left) == before:
            waiting.say()
            time.sleep(POLL_SECONDS)


class _Waiting:
    """Says once of every process that holds cells which it is waited for."""

    def __init__(self, locks: Locks, reporter: CellReporter) -> None:
        self.locks, self.reporter = locks, reporter
        self.found: dict[str, Cell] = {}  # since `say`: who holds a cell, with the first of its cells
        self.told: set[str] = set()

    def note(self, cell: Cell) -> None:
        """A cell could not be locked."""
        self.found.setdefault(self.locks.holder(), cell)

    def say(self) -> None:
        """Nothing else is left to do: say who is waited for, unless that has been said."""
        for holder in [holder for holder in self.found if holder and holder not in self.told]:
            self.told.add(holder)
            self.reporter.say(f"waiting for {self.found[holder].name}: held by {holder}")
        self.found = {}


class _Loader:
    """Cells with their data, in the order of the selection; only the last task's data stay in memory.

    keys: of the cells of each task, given the data found here; none if these cannot be read.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.keys: dict[str, frozenset[str]] = {}
        self.read = TaskData(selection.data)

    def cells(self, keys: set[str]) -> Iterator[tuple[Cell, Data]]:
        for name in self.selection.tasks:
            if name in self.keys and not self.keys[name] & keys:
                continue
            try:
                data = self.read(name)
            except DataError:
                self.keys[name] = frozenset()  # reported by the plan, or removed since then
                continue
            found = list(cells(self.selection, registry.task(name), data))
            self.keys[name] = frozenset(cell.key() for cell in found)
            yield from ((cell, data) for cell in found if cell.key() in keys)


def _fit_names(cell: Cell, results: Path) -> tuple[str, ...]:
    """Name of the fit that a cell may share with others, locked so that it is trained once.

    Empty if the sources of the fit cannot be read: the cell fails for that.
    """
    try:
        return ((cell.stage(results) or cell.checkpoint(results).parent).name,)
    except BenchError:
        return ()


def ended_run(job: Job, cell: Cell) -> dict[str, Any] | None:
    """The JSON of a cell's run, finished or failed, since the sweep began; None if there is none."""
    for name in cell.runs(job.results):
        if name not in job.known:
            about = store.read_about(job.results, name)
            if about["cell"] == cell.key():
                return about
    return None


def _attempt(cell: Cell, data: Data, job: Job, locks: Locks, reporter: CellReporter) -> None:
    device = torch.device(job.selection.device)
    name = cell.key()[:16]
    _remove_parts(cell, job.results)
    earlier, stopped = locks.begin(name), False
    try:
        if earlier < ATTEMPTS:
            _run_cell(cell, data, job, device, reporter)
            return
        died = WorkerDied(
            f"expected a result, but the worker process died {earlier} times in this cell (killed, "
            "out of memory?); run it with fewer workers: --jobs 1"
        )
        _record(cell, job, device, died, reporter)
    except KeyboardInterrupt:
        stopped = ended_run(job, cell) is None  # which the sweep finds by the attempt that has not ended
        raise
    finally:
        if not stopped:
            locks.end(name)


def _remove_parts(cell: Cell, results: Path) -> None:
    """Delete partial files of a killed process; holding the locks, nobody else is writing them."""
    places = [(results / "raw", f"*-{cell.key()[:8]}*.part")]
    places += [(results / "locks", f"{n}*.part") for n in (cell.key()[:16], *_fit_names(cell, results))]
    with suppress(BenchError):  # where its sources cannot be read, the cell has no fit
        stages = [stage] if (stage := cell.stage(results)) else []
        places += [(folder, "*.part") for folder in (cell.checkpoint(results).parent, *stages)]
    for folder, pattern in places:
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


def _run_cell(cell: Cell, data: Data, job: Job, device: torch.device, reporter: CellReporter) -> None:
    place = job.places.get(cell.key(), "")
    try:
        reporter.say(f"{place} {cell.name}".strip())
        with time_limit(job.limit):
            run.check_memory(cell, data, device)
            _begin(cell, job, place, reporter)
            run.run(cell, data, job.results, device, reporter)
    except KeyboardInterrupt:
        if ended_run(job, cell) is None:
            reporter.say(f"  stopped by Ctrl-C; {_kept(cell, job.results)}")
        raise
    except Exception as error:
        # An error in one cell must not stop the others: it is stored with its traceback.
        _record(cell, job, device, error, reporter)
    finally:
        reporter.begin(Stage())


def _begin(cell: Cell, job: Job, place: str, reporter: CellReporter) -> None:
    """Say where the fit of a cell goes on, and begin its progress there."""
    rounds, found = _rounds(cell), checkpoints.begun(cell.checkpoint(job.results))
    a_round = found.flop / found.rounds if found is not None and found.rounds else 0.0
    expected = job.expected.get(cell.key())
    reporter.begin(Stage(place, OTHER, expected=expected, work=lambda: spent().flop, a_round=a_round))
    if found is not None and found.finished:
        return
    if found is not None:
        reporter.say(f"  fit: resuming at {found.rounds}/{rounds}")
    reporter.progress(FIT, 0 if found is None else found.rounds, rounds)


def _rounds(cell: Cell) -> int:
    return cell.entry.load()(cell.task.network(), cell.settings.method).rounds()


def _kept(cell: Cell, results: Path) -> str:
    """What a cell that was stopped has kept, and where the same command goes on."""
    found = checkpoints.begun(cell.checkpoint(results))
    if found is None:
        return "no round of its fit had ended: the same command starts it again"
    if found.finished:
        return "its fit is saved: the same command evaluates it"
    return f"checkpoint saved at {found.rounds}/{_rounds(cell)}: the same command goes on there"


def _record(cell: Cell, job: Job, device: torch.device, error: Exception, reporter: CellReporter) -> None:
    """Store a failure, unless it came after the cell's run was written: then the cell has finished."""
    if ended_run(job, cell) is not None:
        reporter.say(f"  warning: after the run had been written: {type(error).__name__}: {error}")
        return
    path = run.record_failure(cell, job.results, device, error)
    reporter.say(f"  failed: {type(error).__name__}: {error}\n  wrote {path}")


@contextmanager
def time_limit(minutes: float | None) -> Iterator[None]:
    """Raise TimeLimit inside the block after that many minutes; None: no limit."""
    if minutes is None:
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        raise TimeLimit(
            f"expected the cell to finish within {minutes:g} minutes (--limit), found it still running; "
            "raise the limit: the fit resumes from its last checkpoint"
        )

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, minutes * 60)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
