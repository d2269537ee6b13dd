"""Which cells a selection has, which of them are done, and what the rest will cost."""

from __future__ import annotations

import csv
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from bench import registry
from bench.errors import DataError
from bench.records import store
from bench.running.cell import Cell
from bench.settings import parse_sets, resolve
from bench.system.code import NOT_WRITTEN, changed
from bench.task import Data, Task

STATES = ("done", "stale", "failed", "missing")
COSTS = ("fit_seconds", "sample_seconds", "predict_seconds")


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
    device: str = "cpu"


@dataclass(frozen=True)
class Planned:
    """A cell, and whether its rows are there.

    state: `done`, `stale` (done by code that has changed since), `failed` (never done) or `missing`.
    reason: of a stale one, what has changed. seconds: expected for training, drawing and predicting; None
    where nothing comparable has finished.
    """

    cell: Cell
    state: str
    seconds: float | None
    command: str
    reason: str = ""


def check(selection: Selection) -> None:
    """Raises UsageError for anything in the selection that does not exist, before any work."""
    sets = parse_sets(selection.sets, selection.methods)
    for name in selection.tasks:
        task = registry.task(name)
        for method in selection.methods:
            entry = registry.method(method)
            resolve(entry, entry.load().Config, selection.preset, task.train, sets.get(method, {}))


def cells(selection: Selection, task: Task, data: Data) -> Iterator[Cell]:
    """The cells of one task. Raises UsageError for a setting that does not exist."""
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
    """Every cell of the selection in the order of a run, and what is wrong with a task's data, by task."""
    check(selection)
    history = History.read(results)
    found: list[Planned] = []
    unreadable: dict[str, str] = {}
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
        if text.rpartition("=")[0].rpartition(".")[0] == cell.entry.name:
            words += ["--set", text]
    if selection.data is not None and not cell.task.embedded:
        words += ["--data", str(selection.data)]
    return shlex.join([*words, "--results", str(results)])


@dataclass
class History:
    """What the runs of a results folder say: which cells are done, and what they took.

    codes: code version of the newest finished run, by cell key. failed: keys of cells that only failed.
    """

    results: Path
    codes: Mapping[str, str]
    failed: frozenset[str]
    costs: Mapping[tuple[str, ...], float]
    _current: dict[tuple[str, ...], str] = field(default_factory=dict)

    @classmethod
    def read(cls, results: Path) -> History:
        """The history in a folder; empty where there is none."""
        codes: dict[str, str] = {}
        failed: set[str] = set()
        seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for run, about in store.runs(results).items():
            if about["failure"]:
                failed.add(about["cell"])
                continue
            codes[about["cell"]] = about["code"]
            for group, spent in _costs(results / "raw" / f"{run}.csv"):
                seconds[group].append(spent)
        means = {group: fmean(values) for group, values in seconds.items()}
        return cls(results, codes, frozenset(failed - set(codes)), means)

    def state(self, cell: Cell) -> str:
        """One of `STATES`."""
        key = cell.key()
        if key in self.codes:
            return "done" if self.codes[key] == self._code(cell) else "stale"
        return "failed" if key in self.failed else "missing"

    def reason(self, cell: Cell) -> str:
        """Which definitions a stale cell's run had otherwise, new or not at all."""
        before = store.read_code(self.results, self.codes[cell.key()])
        if before is None:
            return NOT_WRITTEN
        return f"changed: {changed(before.definitions, cell.definitions())}"

    def _code(self, cell: Cell) -> str:
        # Some hundred definitions make a code version, the same for all seeds.
        key = (cell.entry.target, cell.task.name, cell.preset)
        if key not in self._current:
            self._current[key] = cell.code()
        return self._current[key]

    def seconds(self, cell: Cell) -> float | None:
        """Mean cost of finished cells of its method, settings and task, else of the nearest there are."""
        config = cell.settings.digest()
        for group in _groups(cell.entry.name, cell.task.name, cell.task.train, cell.preset, config):
            if group in self.costs:
                return self.costs[group]
        return None


def _costs(path: Path) -> Iterator[tuple[tuple[str, ...], float]]:
    """What a run took, under each group that a cell may be compared by."""
    lines = path.read_text("utf-8").splitlines()
    # Few of a run's rows are costs, and of many runs all are read: no parsing of the rest.
    found = csv.DictReader([lines[0], *(line for line in lines if ",cost," in line)])
    rows = [row for row in found if row["metric"] in COSTS]
    if not rows:
        return
    spent = sum(float(row["value"]) for row in rows)
    first = rows[0]
    for group in _groups(first["method"], first["task"], first["train"], first["preset"], first["config"]):
        yield group, spent


def _groups(method: str, task: str, train: str, preset: str, config: str) -> list[tuple[str, ...]]:
    """What cells may be compared by, the nearest first; each once."""
    places = dict.fromkeys((task, train))
    near = [(method, place, preset, settings) for settings in (config, "") for place in places]
    return [*near, (train, preset)]


def lines(planned: Sequence[Planned]) -> Iterator[str]:
    """A line a cell: state, cost, and its name where it is done, else the command that runs it.

    A stale cell's command ends in a comment that says what has changed.
    """
    for item in planned:
        text = item.cell.name if item.state == "done" else item.command
        reason = f"  # {item.reason}" if item.reason else ""
        yield f"{item.state:<7}  {duration(item.seconds):>8}  {text}{reason}"


def summary(planned: Sequence[Planned]) -> str:
    """How many cells are in which state, and what those that are not done will cost."""
    counts = ", ".join(f"{sum(item.state == state for item in planned)} {state}" for state in STATES)
    costs = [item.seconds for item in planned if item.state in ("failed", "missing")]
    known = [seconds for seconds in costs if seconds is not None]
    unknown = f", {len(costs) - len(known)} without an estimate" if len(known) < len(costs) else ""
    return f"{counts} · to run: about {duration(sum(known))}{unknown}"


def duration(seconds: float | None) -> str:
    """A duration in the unit that suits it; a question mark where it is unknown."""
    if seconds is None:
        return "?"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
