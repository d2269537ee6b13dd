"""`bench verify`: repeat a stored run and compare the results."""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from bench import registry
from bench.engine import parallel
from bench.errors import BenchError, UsageError, nearest
from bench.records import runs as stored
from bench.records import store
from bench.registry import PRESETS
from bench.running.agreement import (
    RETRAINED,
    SAME_FIT,
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
from bench.system.progress import Reporter
from bench.task import Data

# Must be unchanged for bit-for-bit agreement: each may change the order of summation, or the code.
MACHINE = ("device", "device_name", "torch", "numpy", "scipy", "scikit-learn", "torchattacks")
# The same of the kernels (`bench.system.machine.kernels`), which older runs do not record.
KERNELS = (
    "processor_model", "instructions", "torch_instructions", "numpy_instructions", "own_kernels", "blas",
    "libc", "kernel_settings",
)  # fmt: skip
MAX_LINES = 5  # differences printed per run


@dataclass
class Verdict:
    """The result of repeating a run.

    reasons: why bit-for-bit agreement was not required (empty: it was). unrecorded: what may change bits and
    is not known of the stored run. reused: the stored fit was used. error: why there is no comparison.
    same_code: then rows that only one run has count as differences.
    """

    run: str
    comparison: Comparison = field(default_factory=Comparison)
    tolerance: Tolerance | None = None
    reasons: list[str] = field(default_factory=list)
    same_code: bool = True
    reused: bool = False
    error: str = ""
    unrecorded: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the run was reproduced, within the tolerance."""
        alone = self.comparison.missing or self.comparison.added
        return not (self.error or self.comparison.differing or (self.same_code and alone))

    def lines(self) -> Iterator[str]:
        """One line, followed by the first differences if the run was not reproduced."""
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
        if self.unrecorded:
            parts.append(f"not recorded then, may differ: {', '.join(self.unrecorded)}")
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
        yield from (f"  {text}" for text in found[:MAX_LINES])
        if len(found) > MAX_LINES:
            yield f"  and {len(found) - MAX_LINES} more"


def names(results: Path, text: str, reporter: Reporter) -> list[str]:
    """Names of runs, separated by commas, or `all`. Raises UsageError for an unknown one.

    Files that are no run are named.
    """
    known, strays = stored.names(results)
    for line in strays:
        reporter.say(f"left out: {line}")
    if not known:
        raise UsageError(
            f"expected runs in {results / 'raw'}, found none; give the results folder with --results"
        )
    if text == "all":
        return known
    asked = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in asked:
        if name not in known:
            hint = nearest(name, known) or f"{results / 'raw'} holds {len(known)}"
            raise UsageError(f"unknown run {name!r}; {hint}")
    if not asked:
        raise UsageError(f"expected the name of a run or all, found {text!r}; runs are in {results / 'raw'}")
    return asked


def verify(
    results: Path,
    runs: Sequence[str],
    root: Path | None,
    reporter: Reporter,
    cells: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> list[Verdict]:
    """Repeat stored runs and compare the results; nothing is written to `<results>/raw`.

    root: the data folder. cells: the number of runs sampled at random, with `seed` (None: all). Failed runs
    are skipped. threads: how many to use (None: all cores); a run may have used another number. The verdict
    of a run that cannot be compared holds the error.
    """
    if threads is not None:
        parallel.use(threads)
    abouts: dict[str, dict[str, Any]] = {}
    verdicts: list[Verdict] = []
    for run in runs:
        try:
            abouts[run] = store.read_about(results, run)
        except BenchError as error:
            verdicts.append(Verdict(run, error=str(error)))
    for run in [run for run, about in abouts.items() if about["failure"]]:
        reporter.say(f"skipped {run}: a failed run ({abouts.pop(run)['failure'].get('type')})")
    chosen = sorted(abouts)
    if cells is not None:
        chosen = random.Random(seed).sample(chosen, min(cells, len(chosen)))
    chosen.sort(key=lambda run: _task(results, run))  # so that each task's data are read once
    read = TaskData(root)
    for verdict in verdicts:
        reporter.say("\n".join(verdict.lines()))
    for run in chosen:
        try:
            verdict = _verify(results, run, abouts[run], read, reporter)
        except Exception as error:
            # An error in one run must not stop the others: it becomes a verdict.
            kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
            verdict = Verdict(run, error=f"{kind}{error}")
        reporter.say("\n".join(verdict.lines()))
        verdicts.append(verdict)
    return verdicts


def _task(results: Path, run: str) -> str:
    """The task of a run by its first row; empty if that cannot be read, which is reported later."""
    with (results / "raw" / f"{run}.csv").open(encoding="utf-8", errors="replace") as file:
        lines = [file.readline(store.MAX_ABOUT_BYTES) for _ in range(2)]
    try:
        return (next(csv.DictReader(lines), None) or {}).get("task") or ""
    except csv.Error:
        return ""


def _verify(results: Path, run: str, about: dict[str, Any], read: TaskData, reporter: Reporter) -> Verdict:
    expected = read_rows(results, run)
    arrays = store.read_arrays(results, run)
    cell, data = _rebuild(next(iter(expected.values())), about, read)
    watch = _FitWatcher(reporter)
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as folder:
        fit = cell.checkpoint(results)
        device = _device(about["environment"].get("device"))
        own = fit.exists()  # else a fit that is reused is another device's
        if not own:
            cell = replace(cell, device=device.type)  # it is trained on this device
            reporter.say(f"{run}: training again; expected its fit in {fit.parent}, found none")
        # Rows are written to the temporary folder; fits are those of the results folder, by a link.
        (results / "checkpoints").mkdir(parents=True, exist_ok=True)
        (Path(folder) / "checkpoints").symlink_to((results / "checkpoints").resolve(), True)
        name = (cell.stage(results) or fit.parent).name
        locks = Locks(results, uuid4().hex)
        with locks.take(name) as held:
            if not held:
                holder = locks.holder() or "another process"
                raise BenchError(
                    f"expected fit {name} to be unlocked, found it held by {holder}; verify later"
                )
            path = run_cell(cell, data, Path(folder), device, watch)
        now = store.read_about(Path(folder), path.stem)
        reasons = departures(about, now)
        tolerance = (SAME_FIT if watch.reused and own else RETRAINED) if reasons else None
        found = Comparison()
        compare_rows(expected, read_rows(Path(folder), path.stem), tolerance, found)
        compare_arrays(arrays, store.read_arrays(Path(folder), path.stem), tolerance, found)
    same_code, missing = about["code"] == now["code"], unrecorded(about)
    return Verdict(run, found, tolerance, reasons, same_code, watch.reused and own, unrecorded=missing)


def departures(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why two runs of a cell need not agree bit for bit, from their JSON; empty if they must."""
    before, after = recorded["environment"], now["environment"]
    reasons = [
        f"{name} was {before.get(name, 'not recorded')}, is {after.get(name, 'none')}"
        for name in (*MACHINE, *(n for n in KERNELS if n in before))
        if before.get(name) != after.get(name)
    ]
    if recorded["code"] != now["code"]:
        reasons.append(f"code was {recorded['code']}, is {now['code']}")
    if after.get("device") == "cuda":
        reasons.append("a GPU sums in no fixed order")
    return reasons


def unrecorded(recorded: Mapping[str, Any]) -> list[str]:
    """Of what chooses kernels, the names that a run's JSON does not give: an older run's are not known."""
    return [name for name in KERNELS if name not in recorded["environment"]]


def _rebuild(row: Mapping[str, str], about: Mapping[str, Any], read: TaskData) -> tuple[Cell, Data]:
    """The cell of a run and its data, from one of its rows and its JSON."""
    for kind, known in (("method", registry.methods()), ("task", registry.tasks()), ("preset", PRESETS)):
        if row[kind] not in known:
            raise BenchError(
                f"expected a registered {kind}, found {row[kind]!r}; install its package, or use the "
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
            f"expected cell {about['cell'][:8]}, as in its JSON, found {cell.key()[:8]} ({cell.name} "
            "with its settings and sizes): its files belong to different runs, or the definition of the key "
            "has changed; run the cell again"
        )
    return cell, data


def _check_data(recorded: Any, now: Mapping[str, str]) -> None:
    """Raises BenchError if the data differ from those of the run."""
    if not isinstance(recorded, dict):
        raise BenchError(
            f"expected checksums of its data in its JSON, found {recorded!r}; run the cell again"
        )
    other = [name for name in sorted({*recorded, *now}) if recorded.get(name) != now.get(name)]
    if other:
        first = other[0]
        raise BenchError(
            f"expected data with checksum {str(recorded.get(first))[:12]} ({first}), found "
            f"{str(now.get(first))[:12]} ({len(other)} of {len({*recorded, *now})} files differ); "
            "give the original data with --data"
        )


def _device(recorded: Any) -> torch.device:
    """The device of a run, or the CPU if it is not available: then a tolerance applies."""
    return torch.device("cuda" if recorded == "cuda" and torch.cuda.is_available() else "cpu")


class _FitWatcher:
    """Shows a run's progress and records whether it trained: a stored fit reports no rounds."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self.reused = reporter, True

    def say(self, text: str) -> None:
        # Messages on accuracy and on files of the temporary folder would be misleading here.
        if text.lstrip().startswith("warning"):
            self.reporter.say(text)

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        self.reused = self.reused and label != "fit"
        self.reporter.progress(label, done, total, detail)
