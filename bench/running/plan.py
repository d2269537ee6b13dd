"""The cells of a selection, which of them are done, and the estimated cost of the rest."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import registry
from bench.errors import BenchError, DataError, UsageError
from bench.records import runs, store
from bench.running.cell import Cell
from bench.settings import parse_sets, resolve
from bench.system.code import NOT_STORED, changed
from bench.task import Data, Task

STATES = ("done", "stale", "failed", "missing")
COSTS = ("fit_seconds", "sample_seconds", "predict_seconds")


@dataclass(frozen=True)
class Selection:
    """What a command selects. members: ensemble sizes, None for the task's."""

    methods: Sequence[str]
    tasks: Sequence[str]
    preset: str = "quick"
    seeds: Sequence[int] = (0,)
    members: tuple[int, ...] | None = None
    sets: Sequence[str] = ()
    data: Path | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Planned:
    """A cell and its state.

    state: `done`, `stale` (done by code that has changed since), `failed` (never done) or `missing`.
    reason: what has changed, if stale. seconds: expected for training, sampling and predicting; None
    if no comparable cell has finished.
    """

    cell: Cell
    state: str
    seconds: float | None
    command: str
    reason: str = ""


def usable(selection: Selection) -> tuple[Selection, dict[str, str]]:
    """The selection without methods and tasks that cannot be loaded, and why these cannot, by name.

    Raises UsageError for an unknown name or an invalid setting, before any work, and BenchError if no method
    or no task is left.
    """
    sets = parse_sets(selection.sets, selection.methods)
    broken: dict[str, str] = {}
    tasks = _loaded(selection.tasks, registry.task, broken)
    methods = _loaded(selection.methods, lambda name: registry.method(name).load(), broken)
    if not (tasks and methods):
        raise BenchError("; ".join(broken.values()))
    for task in tasks.values():
        for name, method in methods.items():
            resolve(registry.method(name), method.Config, selection.preset, task.train, sets.get(name, {}))
    kept = [text for text in selection.sets if _addressed(text) not in broken]
    return replace(selection, methods=list(methods), tasks=list(tasks), sets=kept), broken


def _loaded(names: Sequence[str], load: Callable[[str], Any], broken: dict[str, str]) -> dict[str, Any]:
    """What is registered under each name; one that cannot be loaded is added to `broken`."""
    found = {}
    for name in names:
        try:
            found[name] = load(name)
        except UsageError:
            raise
        except BenchError as error:
            broken[name] = str(error)
    return found


def _addressed(text: str) -> str:
    """The method of a `METHOD.KEY=VALUE`."""
    return text.partition("=")[0].rpartition(".")[0]


def cells(selection: Selection, task: Task, data: Data) -> Iterator[Cell]:
    """The cells of one task. Raises UsageError for an invalid setting."""
    sets = parse_sets(selection.sets, selection.methods)
    sizes = selection.members or task.scale(selection.preset).sizes
    read = (tuple(sorted(data.checksums.items())), data.fitted_on(), data.asked_of())
    for name in selection.methods:
        entry = registry.method(name)
        config = entry.load().Config
        settings = resolve(entry, config, selection.preset, task.train, sets.get(name, {}))
        for seed in selection.seeds:
            identity = (entry, task, selection.preset, seed, tuple(sorted(sizes)), settings)
            yield Cell(*identity, *read, selection.device)


def plan(selection: Selection, results: Path) -> tuple[list[Planned], dict[str, str]]:
    """All cells of the selection in the order of a run, and error messages by name.

    Named are tasks whose data cannot be read, and methods and tasks that cannot be loaded.
    """
    selection, unreadable = usable(selection)
    history = History.read(results)
    found: list[Planned] = []
    for name in selection.tasks:
        task = registry.task(name)
        try:
            data = task.load(selection.data)
        except DataError as error:
            unreadable[name] = str(error)
            continue
        for cell in cells(selection, task, data):
            state = history.state(cell)
            text = command(cell, selection, results) + (" --stale" if state == "stale" else "")
            reason = history.reason(cell) if state == "stale" else ""
            found.append(Planned(cell, state, history.seconds(cell), text, reason))
    return found, unreadable


def command(cell: Cell, selection: Selection, results: Path) -> str:
    """The command line that runs one cell of the selection."""
    words = ["bench", "run", "--method", cell.entry.name, "--task", cell.task.name]
    words += ["--preset", cell.preset, "--seed", str(cell.seed)]
    words += ["--device", cell.device]
    if selection.members:
        words += ["--members", ",".join(map(str, selection.members))]
    for text in selection.sets:
        if _addressed(text) == cell.entry.name:
            words += ["--set", text]
    if selection.data is not None and not cell.task.embedded:
        words += ["--data", str(selection.data)]
    return shlex.join([*words, "--results", str(results)])


@dataclass
class History:
    """Which cells of a results folder are done, and what they cost.

    codes: code version of the newest finished run, by cell key. failed: keys of cells with failed runs only.
    costs: of finished runs.
    """

    results: Path
    codes: Mapping[str, str]
    failed: frozenset[str]
    costs: Sequence[Spent]
    _current: dict[tuple[str, ...], str] = field(default_factory=dict)
    _estimates: dict[tuple[Any, ...], float | None] = field(default_factory=dict)

    @classmethod
    def read(cls, results: Path) -> History:
        """The history of a results folder, which need not exist; damaged runs are left out."""
        codes: dict[str, str] = {}
        failed: set[str] = set()
        costs: list[Spent] = []
        found = runs.find(results, parse=False)
        found.warn()
        for run in found.runs.values():
            about = run.about
            if about["failure"]:
                failed.add(about["cell"])
                continue
            codes[about["cell"]] = about["code"]
            read = about.get("checksums")
            costs += _costs(run.data.decode(), read if isinstance(read, dict) else {})
        return cls(results, codes, frozenset(failed - set(codes)), costs)

    def state(self, cell: Cell) -> str:
        """One of `STATES`."""
        key = cell.key()
        if key in self.codes:
            return "done" if self.codes[key] == self._code(cell) else "stale"
        return "failed" if key in self.failed else "missing"

    def reason(self, cell: Cell) -> str:
        """The definitions that have changed, been added or been removed since a stale cell's run."""
        try:
            before = store.read_code(self.results, self.codes[cell.key()])
        except BenchError as error:
            return str(error)
        if before is None:
            return NOT_STORED
        return f"changed: {changed(before.definitions, cell.definitions())}"

    def _code(self, cell: Cell) -> str:
        # Cached: a code version hashes hundreds of definitions and is the same for all seeds.
        key = (cell.entry.target, cell.task.name, cell.preset)
        if key not in self._current:
            self._current[key] = cell.code()
        return self._current[key]

    def seconds(self, cell: Cell) -> float | None:
        """Mean cost of finished cells with its method, settings and task, else of the most similar ones.

        Of runs on the cell's data alone: none has read a file that here has another content.
        """
        config, read = cell.settings.digest(), cell.checksums
        groups = _groups(cell.entry.name, cell.task.name, cell.task.train, cell.preset, config)
        if (asked := (tuple(groups), read)) not in self._estimates:
            same = [spent for spent in self.costs if spent.on(dict(read))]
            by_group = ([s.seconds for s in same if group in s.groups] for group in groups)
            self._estimates[asked] = next((fmean(found) for found in by_group if found), None)
        return self._estimates[asked]


@dataclass(frozen=True)
class Spent:
    """What a finished run cost, the groups of comparable cells it is in, and checksums of what it read."""

    groups: Sequence[tuple[str, ...]]
    read: Mapping[str, str]
    seconds: float

    def on(self, read: Mapping[str, str]) -> bool:
        """Whether no file that both have read had another content."""
        return all(read.get(name, checksum) == checksum for name, checksum in self.read.items())


def _costs(text: str, read: Mapping[str, str]) -> Iterator[Spent]:
    """The cost of a run from its CSV; nothing for a run without. read: checksums of what it has read."""
    lines = text.splitlines()
    # Only the few cost rows are parsed, since all runs of a folder are read.
    found = csv.DictReader([lines[0], *(line for line in lines if ",cost," in line)])
    rows = [row for row in found if row["metric"] in COSTS]
    if not rows:
        return
    spent = sum(float(row["value"]) for row in rows)
    first = rows[0]
    groups = _groups(first["method"], first["task"], first["train"], first["preset"], first["config"])
    yield Spent(groups, read, spent)


def _groups(method: str, task: str, train: str, preset: str, config: str) -> list[tuple[str, ...]]:
    """Groups of comparable cells, the most similar first, without duplicates."""
    places = dict.fromkeys((task, train))
    near = [(method, place, preset, settings) for settings in (config, "") for place in places]
    return [*near, (train, preset)]


def lines(planned: Sequence[Planned]) -> Iterator[str]:
    """One line per cell: state, cost, and its name if done, else the command that runs it.

    A stale cell's command ends in a comment that says what has changed.
    """
    for item in planned:
        text = item.cell.name if item.state == "done" else item.command
        reason = f"  # {item.reason}" if item.reason else ""
        yield f"{item.state:<7}  {duration(item.seconds):>8}  {text}{reason}"


def summary(planned: Sequence[Planned]) -> str:
    """The number of cells in each state, and the estimated cost of those that are failed or missing."""
    counts = ", ".join(f"{sum(item.state == state for item in planned)} {state}" for state in STATES)
    return f"{counts} · to run: {_cost(planned, 'failed', 'missing')}{_again(planned)}"


def _cost(planned: Sequence[Planned], *states: str) -> str:
    """The estimated cost of the cells in these states, as text."""
    costs = [item.seconds for item in planned if item.state in states]
    known = [seconds for seconds in costs if seconds is not None]
    parts = [f"about {duration(sum(known))}"] if known else []
    if len(known) < len(costs):
        parts.append(f"{len(costs) - len(known)} without an estimate")
    return ", ".join(parts) or "nothing"


def _again(planned: Sequence[Planned]) -> str:
    stale = any(item.state == "stale" for item in planned)
    return f" · with --stale also {_cost(planned, 'stale')}" if stale else ""


def duration(seconds: float | None) -> str:
    """A duration in a suitable unit; a question mark if it is unknown."""
    if seconds is None:
        return "?"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
