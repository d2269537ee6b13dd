"""The cells of a selection, which of them are done, and the estimated cost of the rest."""

from __future__ import annotations

import csv
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from textwrap import wrap
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
WIDTH = 80  # of a line of a plan, where the name of its cell allows it


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
class Expected:
    """What a cell is expected to cost: training, sampling and prediction, and training alone.

    measured: on finished cells of the same method, settings, task or train key, preset and device; else
    guessed, from other cells or from a probe of the network's speed.
    """

    seconds: float
    fit_seconds: float
    measured: bool = False

    def __str__(self) -> str:
        return ("" if self.measured else "~") + duration(self.seconds)


@dataclass(frozen=True)
class Planned:
    """A cell and its state.

    state: `done`, `stale` (done by code that has changed since), `failed` (never done) or `missing`.
    reason: what has changed, if stale. cost: None where nothing has run and the guess was not asked for.
    """

    cell: Cell
    state: str
    cost: Expected | None
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


def plan(
    selection: Selection, results: Path, guess: Callable[[Cell, Data], Expected | None] = lambda *_: None
) -> tuple[list[Planned], dict[str, str]]:
    """All cells of the selection in the order of a run, and error messages by name.

    Named are tasks whose data cannot be read, and methods and tasks that cannot be loaded. guess: what a cell
    costs where no comparable one has finished.
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
            found.append(Planned(cell, state, history.expected(cell) or guess(cell, data), text, reason))
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
    _estimates: dict[tuple[Any, ...], Expected | None] = field(default_factory=dict)

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

    def expected(self, cell: Cell) -> Expected | None:
        """Mean cost of finished cells with its method, settings and task, else of the most similar ones.

        Of runs on the cell's data alone: none has read a file that here has another content.
        """
        config, read = cell.settings.digest(), cell.checksums
        own = (cell.entry.name, cell.task.name, cell.task.train, cell.preset, cell.device, config)
        if (asked := (own, read)) not in self._estimates:
            same = [spent for spent in self.costs if spent.on(dict(read))]
            means = (_mean(same, group, config in group) for group in _groups(*own))
            self._estimates[asked] = next((mean for mean in means if mean is not None), None)
        return self._estimates[asked]


@dataclass(frozen=True)
class Spent:
    """What a finished run cost, the groups of comparable cells it is in, and checksums of what it read."""

    groups: Sequence[tuple[str, ...]]
    read: Mapping[str, str]
    seconds: float
    fit_seconds: float

    def on(self, read: Mapping[str, str]) -> bool:
        """Whether no file that both have read had another content."""
        return all(read.get(name, checksum) == checksum for name, checksum in self.read.items())


def _mean(costs: Sequence[Spent], group: tuple[str, ...], measured: bool) -> Expected | None:
    """The mean cost of the runs of a group; None where there are none."""
    found = [spent for spent in costs if group in spent.groups]
    if not found:
        return None
    return Expected(fmean(s.seconds for s in found), fmean(s.fit_seconds for s in found), measured)


def _costs(text: str, read: Mapping[str, str]) -> Iterator[Spent]:
    """The cost of a run from its CSV; nothing for a run without. read: checksums of what it has read."""
    lines = text.splitlines()
    # Only the few cost rows are parsed, since all runs of a folder are read.
    found = csv.DictReader([lines[0], *(line for line in lines if ",cost," in line)])
    rows = [row for row in found if row["metric"] in COSTS]
    if not rows:
        return
    spent = sum(float(row["value"]) for row in rows)
    fit = sum(float(row["value"]) for row in rows if row["metric"] == "fit_seconds")
    columns = ("method", "task", "train", "preset", "device", "config")
    yield Spent(_groups(*(rows[0][column] for column in columns)), read, spent, fit)


def _groups(
    method: str, task: str, train: str, preset: str, device: str, config: str
) -> list[tuple[str, ...]]:
    """Groups of comparable cells, the most similar first, without duplicates."""
    places = dict.fromkeys((task, train))
    near = [(method, place, preset, device, settings) for settings in (config, "") for place in places]
    return [*near, (train, preset, device)]


def header(selection: Selection, results: Path) -> str:
    """What all lines of a plan have in common, and the names of their columns."""
    seeds = f"seed {selection.seeds[0]}" if len(selection.seeds) == 1 else f"{len(selection.seeds)} seeds"
    common = f"{selection.preset} · {seeds} · {selection.device} · {results}"
    about = "cost: training and prediction, without attacks; ~ guessed, others measured"
    return f"{common}\n{about}\n\n{'state':<7}  {'cost':>9}  cell"


def lines(planned: Sequence[Planned]) -> Iterator[str]:
    """One line a cell: state, cost and name, without what `header` says of all; then why cells are stale."""
    several = len({item.cell.seed for item in planned}) > 1
    for item in planned:
        cell = item.cell
        seed = f" · seed {cell.seed}" if several else ""
        cost = "?" if item.cost is None else str(item.cost)
        yield f"{item.state:<7}  {cost:>9}  {cell.entry.name} · {cell.task.name}{seed}"
    reasons = Counter(item.reason for item in planned if item.reason)
    for reason, count in reasons.items():
        text = f"{count} stale: {reason}"
        yield from wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def summary(planned: Sequence[Planned]) -> str:
    """The number of cells in each state, and the estimated cost of those that are failed or missing."""
    found = Counter(item.state for item in planned)
    counts = ", ".join(f"{found[state]} {state}" for state in STATES)
    return f"{counts} · to run: {_cost(planned, 'failed', 'missing')}{_again(planned)}"


def _cost(planned: Sequence[Planned], *states: str) -> str:
    """The estimated cost of the cells in these states, as text."""
    costs = [item.cost for item in planned if item.state in states]
    known = [cost.seconds for cost in costs if cost is not None]
    parts = [f"about {duration(sum(known))}"] if known else []
    if len(known) < len(costs):
        parts.append(f"{len(costs) - len(known)} without an estimate")
    return ", ".join(parts) or "nothing"


def _again(planned: Sequence[Planned]) -> str:
    stale = any(item.state == "stale" for item in planned)
    return f" · with --stale also {_cost(planned, 'stale')}" if stale else ""


def duration(seconds: float) -> str:
    """A duration in a suitable unit."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
