"""`bench tune`: candidates of a method's search space are tried, short fits first, and one is chosen.

Successive halving with two rungs (Jamieson & Talwalkar 2016): fits of a ninth of the preset's length have a
third of the budget, fits of two thirds the rest. Short fits prefer settings that learn fast, whatever they
reach in the end, so the preset's own settings are always among the long ones, with the best of the others.
Lengths are fixed shares, so that a trial does not depend on the machine's speed: the budget only decides how
many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from bench import registry, training
from bench.engine import float32, parallel, single_threaded, spent
from bench.errors import BenchError
from bench.evaluations import data_canaries
from bench.records import runs, schema, store, tuning
from bench.running import candidates, record, trials
from bench.running.candidates import Candidate, Search
from bench.running.locks import Locks
from bench.running.plan import Selection, cells
from bench.running.trials import Score, Trial
from bench.settings import parse_sets
from bench.system.progress import Reporter
from bench.task import Data
from bench.training import LOSSES, FitSettings

# A budget of two fits pays for six candidates of a ninth and for two of two thirds. After a third, settings
# that learn slowly are still behind: HyperGAN with alpha 1 on MNIST beats alpha 0.25 at the end alone.
RUNGS = (Fraction(1, 9), Fraction(2, 3))
SHORT = Fraction(1, 3)  # of the budget, for the first rung
FEWEST = 2  # candidates of a rung, whatever they cost
MOST = 64  # candidates in all: very short fits would make thousands of files


@dataclass(frozen=True)
class Tried:
    """A trial that has ended. cpu_seconds: of fit and score."""

    run: str
    candidate: Candidate
    length: Fraction
    score: Score
    cpu_seconds: float
    rows: list[dict[str, Any]]

    def value(self, metric: str, members: int | None = None) -> float | None:
        """The value of a metric, of the largest ensemble unless members are given; None without one."""
        found = [r for r in self.rows if r["metric"] == metric and not r.get("layer")]
        found = [r for r in found if members in (None, r.get("members"))]
        return max(found, key=lambda r: r.get("members") or 0)["value"] if found else None


@dataclass(frozen=True)
class Outcome:
    """What a tuning chose. ranked: the longest trial of every candidate, the best first."""

    search: Search
    ranked: list[Tried]
    cpu_seconds: float
    lines: str

    @property
    def chosen(self) -> Tried:
        return self.ranked[0]


@dataclass
class _Tuning:
    search: Search
    data: Data  # of which train and val are used
    cell: Trial  # with the preset's settings
    results: Path
    device: torch.device
    reporter: Reporter
    locks: Locks
    cpu_seconds: float = 0.0

    def rung(self, proposed: Iterator[Candidate], length: Fraction, until: float) -> list[Tried]:
        """Trials of one length, as many as fit into the budget until it has been spent, at least two."""
        found: list[Tried] = []
        longest = 0.0
        for candidate in proposed:
            if len(found) >= FEWEST and (self.cpu_seconds + longest > until or len(found) == MOST):
                break
            tried = self._try(candidate, length)
            self.cpu_seconds += tried.cpu_seconds
            longest = max(longest, tried.cpu_seconds)
            found.append(tried)
        return found

    def _try(self, candidate: Candidate, length: Fraction) -> Tried:
        settings = self.search.shortened(candidate, length)
        identity = {f.name: getattr(self.cell, f.name) for f in fields(Trial)}
        trial = Trial(**identity | {"settings": settings})
        # Another tuning in the folder may be at the same trial: it is waited for, and its result is read.
        with self.locks.wait(trial.key()[:16], self.reporter.say):
            tried = self._stored(trial, candidate, length) or self._computed(trial, candidate, length)
        self.reporter.say(_line(tried, self.search))
        return tried

    def _stored(self, trial: Trial, candidate: Candidate, length: Fraction) -> Tried | None:
        """The trial as an earlier tuning has stored it with this code; None where it has to be computed."""
        folder = tuning.folder(self.results)
        names = trial.runs(folder)
        if not names:
            return None
        try:
            run = runs.check(folder, names[-1])
        except BenchError as error:
            self.reporter.say(f"left out: {error}")
            return None
        if run.about["code"] != trial.code():
            return None
        frame = run.rows.astype(object)
        frame = frame.where(frame.notna(), None)
        rows = [dict(zip(schema.COLUMNS, line, strict=True)) for line in frame.itertuples(index=False)]
        return _tried(names[-1], candidate, length, rows, store.read_arrays(folder, names[-1]))

    def _computed(self, trial: Trial, candidate: Candidate, length: Fraction) -> Tried:
        begun = spent()
        rows: list[dict[str, Any]] = []
        arrays, failure = {}, None
        try:
            with single_threaded(), float32(tf32=False):
                method = trial.entry.load()(trial.task.network(), trial.settings.method)
                fit = training.fit(method, self.data.train, self.data.val, self._fit_settings(trial))
                result = trials.scored(method, self.data.val, trial.seed)
            rows, arrays = result.rows, result.arrays
            rows.append(schema.row("fit_seconds", fit.cost.seconds, evaluation="tune"))
            rows.append(schema.row("fit_cpu_seconds", fit.cost.cpu_seconds, evaluation="tune"))
        except Exception as error:  # a candidate may diverge, or not fit in memory
            rows = [schema.row("failed", 1.0, evaluation="tune")]
            failure = record.described(error, self.results)
        cost = (spent() - begun).cpu_seconds
        rows.append(schema.row("trial_cpu_seconds", cost, evaluation="tune"))
        rows = [r | {"variant": f"length {length}"} for r in rows]
        more = {"candidate": candidate.number, "origin": candidate.origin, "length": str(length)}
        path = record.write(trial, tuning.folder(self.results), rows, arrays, self.device, failure, more=more)
        return _tried(path.stem, candidate, length, rows, arrays)

    def _fit_settings(self, trial: Trial) -> FitSettings:
        def progress(done: int, total: int, losses: dict[str, float]) -> None:
            self.reporter.progress("trial", done, total)

        return FitSettings(
            seed=trial.seed,
            loss=LOSSES[trial.task.loss],
            device=self.device,
            tf32=trial.settings.loop.tf32,
            progress=progress,
        )


def tune(
    selection: Selection,
    results: Path,
    device: torch.device,
    reporter: Reporter,
    *,
    budget: float,
    threads: int | None = None,
) -> Outcome:
    """Try candidates of a method on a task for a budget of CPU seconds, and choose one by `trials.ranked`.

    Trials are runs in `<results>/tuning`; one that is there, made by this code, is read and counts with the
    time that it took. Raises BenchError for a method without a search space, and if all trials failed.
    """
    if threads is not None:
        parallel.use(threads)
    (name,), (task_name,) = selection.methods, selection.tasks
    task, entry = registry.task(task_name), registry.method(name)
    sets = parse_sets(selection.sets, selection.methods).get(name, {})
    search = candidates.search(entry, selection.preset, task.train, sets)
    data = task.load(selection.data)
    # Not a look at test data, even whether they are in order.
    data_canaries.check(replace(data, test=data.val, outliers=None), reporter.say)
    cell = next(cells(selection, task, data))
    trial = Trial(**{f.name: getattr(cell, f.name) for f in fields(cell)})
    locks = Locks(tuning.folder(results), uuid4().hex)
    if warning := locks.check():
        reporter.say(f"warning: {warning}")
    run = _Tuning(search, data, trial, results, device, reporter, locks)
    first = run.rung(search.candidates(trial.seed), RUNGS[0], budget * float(SHORT))
    order = _ordered(first)
    # The preset's own settings, then the best others: half of all go on.
    finalists = [first[0], *(t for t in order if t is not first[0])][: max(FEWEST, math.ceil(len(first) / 2))]
    best = (t.candidate for t in finalists)
    second = _ordered(run.rung(best, RUNGS[1], budget))
    longer = {t.candidate.number for t in second}
    ranked = [*second, *(t for t in order if t.candidate.number not in longer)]
    if ranked[0].score.nll is None:
        raise BenchError(
            f"{name} on {task_name}: expected a trial that ends, found {len(ranked)} that failed; "
            f"see {tuning.folder(results) / 'raw'}"
        )
    comment = f"# bench tune {name} --task {task_name} --budget {budget:g}: {ranked[0].run}"
    outcome = Outcome(search, ranked, run.cpu_seconds, search.toml(ranked[0].candidate, comment))
    _write_chosen(outcome, trial, results, budget)
    return outcome


def _write_chosen(outcome: Outcome, cell: Trial, results: Path, budget: float) -> None:
    document = {
        "chosen": outcome.chosen.run,
        "ranked": [
            {"run": t.run, "rank": i, "settings": outcome.search.differing(t.candidate.settings)}
            for i, t in enumerate(outcome.ranked, start=1)
        ],
        "lines": outcome.lines,
        "budget_cpu_seconds": budget,
        "cpu_seconds": outcome.cpu_seconds,
    }
    place = "" if cell.device == "cpu" else f"-{cell.device}"
    stem = f"{cell.entry.name}-{cell.task.train}-{cell.preset}-s{cell.seed}{place}"
    known, name, count = tuning.chosen(results), stem, 1
    while name in known and _on_other_data(results, known[name]["chosen"], cell):
        count += 1
        name = f"{stem}-{count}"
    tuning.write_chosen(results, name, document)


def _on_other_data(results: Path, run: str, cell: Trial) -> bool:
    """Whether a tuning that chose this run read other data: no file of the cell's, or one that differs."""
    try:
        read = store.read_about(tuning.folder(results), run).get("checksums")
    except BenchError:
        return False
    now = dict(cell.checksums)
    if not isinstance(read, dict):
        return True
    shared = read.keys() & now.keys()
    return not shared or any(read[file] != now[file] for file in shared)


def _ordered(found: list[Tried]) -> list[Tried]:
    by_run = {t.run: t for t in found}
    return [by_run[run] for run in trials.ranked({t.run: t.score for t in found})]


def _tried(
    run: str, candidate: Candidate, length: Fraction, rows: list[dict[str, Any]], arrays: dict[str, Any]
) -> Tried:
    (cost,) = (r["value"] for r in rows if r["metric"] == "trial_cpu_seconds")
    return Tried(run, candidate, length, trials.score(rows, arrays), cost, rows)


def _line(tried: Tried, search: Search) -> str:
    """One trial in a line: number, length, what was measured, cost and settings."""
    settings = ", ".join(f"{n}={v}" for n, v in search.differing(tried.candidate.settings).items())
    parts = [f"candidate {tried.candidate.number}", f"length {tried.length}"]
    if tried.score.nll is None:
        parts.append("failed")
    else:
        parts.append(f"NLL {tried.score.mean:.4f}")
        shown = (("disagreement", None, "{:.4f}"), ("output_sd", None, "{:.2f}"))
        values = [(n.replace("_", " "), tried.value(n, m), form) for n, m, form in shown]
        parts += [f"{name} {form.format(value)}" for name, value, form in values if value is not None]
        single, fused = tried.value("accuracy", 1), tried.value("accuracy")
        if single is not None and fused is not None:
            parts.append(f"accuracy {single:.2%} / {fused:.2%}")
    return " · ".join([*parts, f"{tried.cpu_seconds:.0f} CPU s", settings or "as the preset"])


def lines(outcome: Outcome) -> Iterator[str]:
    """What was tried, ranked, what was chosen and why, and the lines for the method's file."""
    yield "Trials, the best first (NLL and disagreement on validation images):"
    for rank, tried in enumerate(outcome.ranked, start=1):
        yield f"{rank:>3}  {_line(tried, outcome.search)}"
    yield (
        f"Chosen: candidate {outcome.chosen.candidate.number} ({outcome.chosen.candidate.origin}), of the "
        "longer trials within noise of the lowest NLL the one whose networks disagree most. "
        f"{outcome.cpu_seconds:.0f} CPU seconds."
    )
    yield outcome.lines
