"""A stored run, made again and compared with what it left: `bench verify`."""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from bench import registry
from bench.errors import BenchError, UsageError, nearest
from bench.records import store
from bench.registry import PRESETS
from bench.running.agreement import (
    SAME_FIT,
    TRAINED_AGAIN,
    Comparison,
    Tolerance,
    compare_arrays,
    compare_rows,
    read_rows,
)
from bench.running.cell import Cell
from bench.running.data import TaskData
from bench.running.locks import Locks
from bench.running.run import run as run_cell
from bench.settings import from_document
from bench.system import provenance
from bench.system.progress import Reporter
from bench.task import Data

# What must be as it was for the same bits: each decides the order in which numbers are added, or the code.
MACHINE = ("device", "device_name", "threads", "torch", "numpy", "scipy", "torchattacks")
SHOWN = 5  # differing rows that a report prints


@dataclass
class Verdict:
    """What came of running a run again.

    reasons: why the same bits were not asked for (none: they were). reused: the stored fit was. error:
    why there is no comparison. same_code: so that rows which one run alone has are differences.
    """

    run: str
    comparison: Comparison = field(default_factory=Comparison)
    tolerance: Tolerance | None = None
    reasons: list[str] = field(default_factory=list)
    same_code: bool = True
    reused: bool = False
    error: str = ""

    @property
    def ok(self) -> bool:
        """The run is what it was, as far as can be asked."""
        alone = self.comparison.missing or self.comparison.added
        return not (self.error or self.comparison.differing or (self.same_code and alone))

    def lines(self) -> Iterator[str]:
        """One line, and below it the first differences of a run that differs."""
        if self.error:
            yield f"error    {self.run}: {self.error}"
            return
        c = self.comparison
        parts = [f"{'ok' if self.ok else 'differs':<7}  {self.run}", f"{c.rows} rows, {c.arrays} arrays"]
        if self.tolerance is None:
            parts.append("bit for bit")
        else:
            parts.append(f"within {self.tolerance}: {'; '.join(self.reasons)}")
        parts.append("no difference" if c.largest is None else f"largest difference: {c.largest}")
        parts.append("fit reused" if self.reused else "fit trained again")
        if c.missing or c.added:
            parts.append(f"{len(c.missing)} missing, {len(c.added)} additional")
        yield " · ".join(parts)
        if self.ok:
            return
        found = [str(d) for d in c.differing]
        if self.same_code:
            found += [f"{name}: expected, not found" for name in c.missing]
            found += [f"{name}: not expected, found" for name in c.added]
        yield from (f"  {text}" for text in found[:SHOWN])
        if len(found) > SHOWN:
            yield f"  and {len(found) - SHOWN} more"


def names(results: Path, text: str) -> list[str]:
    """Names of runs: several separated by commas, or `all`. Raises UsageError for one that is not there."""
    known = sorted(path.stem for path in (results / "raw").glob("*.csv"))
    if not known:
        raise UsageError(f"expected runs in {results / 'raw'}, found none; give their folder with --results")
    if text == "all":
        return known
    asked = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in asked:
        if name not in known:
            hint = nearest(name, known) or f"{len(known)} lie in {results / 'raw'}"
            raise UsageError(f"unknown run {name!r}; {hint}")
    if not asked:
        raise UsageError(f"expected the name of a run or all, found {text!r}; they lie in {results / 'raw'}")
    return asked


def verify(
    results: Path,
    runs: Sequence[str],
    root: Path | None,
    reporter: Reporter,
    cells: int | None = None,
    seed: int = 0,
) -> list[Verdict]:
    """Run stored runs again and compare them; nothing is written into `<results>/raw`.

    root: the data folder. cells: how many are drawn at random, by `seed` (None: all). Runs that failed
    are left out. A run that cannot be compared is a verdict with its error.
    """
    abouts: dict[str, dict[str, Any]] = {}
    verdicts: list[Verdict] = []
    for run in runs:
        try:
            abouts[run] = store.read_about(results, run)
        except BenchError as error:
            verdicts.append(Verdict(run, error=str(error)))
    for run in [run for run, about in abouts.items() if about["failure"]]:
        reporter.say(f"left out {run}: failed when it was made ({abouts.pop(run)['failure'].get('type')})")
    chosen = sorted(abouts)
    if cells is not None:
        chosen = random.Random(seed).sample(chosen, min(cells, len(chosen)))
    chosen.sort(key=lambda run: _task(results, run))  # whose data are then read once
    read = TaskData(root)
    for verdict in verdicts:
        reporter.say("\n".join(verdict.lines()))
    for run in chosen:
        try:
            verdict = _verify(results, run, abouts[run], read, reporter)
        except Exception as error:
            # Whatever is wrong with one run must not cost the others: its line says so.
            kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
            verdict = Verdict(run, error=f"{kind}{error}")
        reporter.say("\n".join(verdict.lines()))
        verdicts.append(verdict)
    return verdicts


def _task(results: Path, run: str) -> str:
    """The task of a run by its first row; empty where that cannot be read, of which its turn will tell."""
    with (results / "raw" / f"{run}.csv").open(encoding="utf-8", errors="replace") as file:
        lines = [file.readline(store.MAX_ABOUT_BYTES) for _ in range(2)]
    try:
        return (next(csv.DictReader(lines), None) or {}).get("task") or ""
    except csv.Error:
        return ""


def _verify(results: Path, run: str, about: dict[str, Any], read: TaskData, reporter: Reporter) -> Verdict:
    expected = read_rows(results / "raw" / f"{run}.csv")
    arrays = store.read_arrays(results, run)
    cell, data = _rebuild(next(iter(expected.values())), about, read)
    environment = about["environment"]
    watch = _Watch(reporter)
    with _threads(environment.get("threads")), tempfile.TemporaryDirectory(prefix="bench-verify-") as folder:
        fit = cell.checkpoint(results)
        device = _device(environment.get("device"))
        if not fit.exists():
            cell = replace(cell, device=device.type)  # what is trained here is a fit of this device
            reporter.say(f"{run}: trains again, expected its fit in {fit.parent}, found none")
        # Rows go elsewhere, the fit is the stored one: a link for one folder of two.
        (results / "checkpoints").mkdir(parents=True, exist_ok=True)
        (Path(folder) / "checkpoints").symlink_to((results / "checkpoints").resolve(), True)
        name = (cell.stage(results) or fit.parent).name
        with Locks(results, uuid4().hex).take(name) as held:
            if not held:
                raise BenchError(
                    f"expected fit {name} to be free, found a process at work on it; verify later"
                )
            path = run_cell(cell, data, Path(folder), device, watch)
        now = store.read_about(Path(folder), path.stem)
        reasons = departures(about, now)
        tolerance = (SAME_FIT if watch.reused else TRAINED_AGAIN) if reasons else None
        found = Comparison()
        compare_rows(expected, read_rows(path), tolerance, found)
        compare_arrays(arrays, store.read_arrays(Path(folder), path.stem), tolerance, found)
    return Verdict(run, found, tolerance, reasons, about["code"] == now["code"], watch.reused)


def departures(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why two runs of a cell need not be the same bits, from their JSON; none where they must be."""
    before, after = recorded["environment"], now["environment"]
    reasons = [
        f"{name} was {before.get(name, 'not written down')}, is {after.get(name, 'none')}"
        for name in MACHINE
        if before.get(name) != after.get(name)
    ]
    if recorded["code"] != now["code"]:
        reasons.append(f"code was {recorded['code']}, is {now['code']}")
    if after.get("device") == "cuda":
        reasons.append("a GPU adds in no fixed order")
    return reasons


def _rebuild(row: Mapping[str, str], about: Mapping[str, Any], read: TaskData) -> tuple[Cell, Data]:
    """The cell that a run is of, with its data, from one of its rows and its JSON."""
    for kind, known in (("method", registry.methods()), ("task", registry.tasks()), ("preset", PRESETS)):
        if row[kind] not in known:
            raise BenchError(
                f"expected a {kind} that is registered, found {row[kind]!r}; install its package, or use the "
                f"code that made the run (commit {about.get('commit') or 'unknown'})"
            )
    entry, task = registry.method(row["method"]), registry.task(row["task"])
    try:
        settings = from_document(entry.load().Config, about["config"])
    except BenchError as error:
        raise BenchError(f"{error} (commit {about.get('commit') or 'unknown'})") from error
    data = read(row["task"])
    _check_data(about.get("checksums"), data.checksums)
    sizes = about.get("sizes")
    if not (isinstance(sizes, list) and sizes and all(type(size) is int and size > 0 for size in sizes)):
        raise BenchError(f"expected ensemble sizes in its JSON, found {sizes!r}; run the cell again")
    checksums = tuple(sorted(data.checksums.items()))
    identity = (row["preset"], int(row["seed"]), tuple(sizes))
    read_now = (checksums, data.fitted_on(), data.asked_of())
    cell = Cell(entry, task, *identity, settings, *read_now, row["device"])
    if cell.key() != about["cell"]:
        raise BenchError(
            f"expected the cell {about['cell'][:8]} that its JSON names, found {cell.key()[:8]} ({cell.name} "
            "with its settings and sizes): its files are not of one run, or cells have another key since; "
            "run the cell again"
        )
    return cell, data


def _check_data(recorded: Any, now: Mapping[str, str]) -> None:
    """Raises BenchError where the data read are not those of the run."""
    if not isinstance(recorded, dict):
        raise BenchError(
            f"expected checksums of its data in its JSON, found {recorded!r}; run the cell again"
        )
    other = [name for name in sorted({*recorded, *now}) if recorded.get(name) != now.get(name)]
    if other:
        first = other[0]
        raise BenchError(
            f"expected data of checksum {str(recorded.get(first))[:12]} ({first}), found "
            f"{str(now.get(first))[:12]} ({len(other)} of {len({*recorded, *now})} files differ); "
            "give the data that it was made from with --data"
        )


@contextmanager
def _threads(count: Any) -> Iterator[None]:
    """As many threads of PyTorch as a run had; the present number where that is not known."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count if type(count) is int and count > 0 else before)
        provenance.environment.cache_clear()  # it holds the number of threads
        yield
    finally:
        torch.set_num_threads(before)
        provenance.environment.cache_clear()


def _device(recorded: Any) -> torch.device:
    """The device of a run, or a CPU where there is none of its kind: that is a reason for tolerance."""
    return torch.device("cuda" if recorded == "cuda" and torch.cuda.is_available() else "cpu")


class _Watch:
    """Shows how far a run is, and keeps whether it trained: a fit that is read back has no rounds to show."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.reused = reporter, True

    def say(self, text: str) -> None:
        # What a run says of its accuracy and of where it wrote its rows is of no use here.
        if text.lstrip().startswith("warning"):
            self.reporter.say(text)

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        self.reused = self.reused and label != "fit"
        self.reporter.progress(label, done, total, detail)
