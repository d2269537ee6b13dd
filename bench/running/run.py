"""One cell: load, fit or reuse, sample once, evaluate, write."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench import training
from bench.engine import float32, single_threaded
from bench.errors import BenchError, unknown
from bench.evaluations import DRAWS, EVALUATIONS, Result, Subject, canaries, data_canaries
from bench.records import schema
from bench.rng import Streams
from bench.running import record
from bench.running.cell import Cell
from bench.system import devices
from bench.system.progress import Reporter
from bench.task import Data, Scale
from bench.training import LOSSES, Fit, FitSettings, Method, estimate, limits

# Under this name, which code versions of stored runs contain, so that those stay current.
_write = record.write
TRACES = 10  # trace points per fit if `trace_every` is not set


def possible_sizes(method: Method, sizes: tuple[int, ...], reporter: Reporter) -> tuple[int, ...]:
    """The ensemble sizes that the method has enough members for. Raises BenchError if there are none."""
    limit = method.max_members
    fitting = tuple(s for s in sizes if limit is None or s <= limit)
    if not fitting:
        raise BenchError(
            f"{type(method).__name__} holds {limit} networks, the smallest requested size is {min(sizes)}; "
            f"ask for at most {limit} with --members"
        )
    for size in sizes:
        if size not in fitting:
            reporter.say(f"  skipped: size {size} (the method holds {limit} networks)")
    return fitting


def _draws(method: Method, sizes: tuple[int, ...], evaluations: tuple[str, ...], scale: Scale) -> int:
    """Networks to sample: as many as the evaluations need, or all if the method holds fewer."""
    wanted = max([*sizes, *(DRAWS[name](scale) for name in evaluations if name in DRAWS)])
    return wanted if method.max_members is None else min(wanted, method.max_members)


def check_start(cell: Cell, data: Data, device: torch.device) -> None:
    """Raises BenchError where what the cell's fit starts with would not fit in memory; makes none of it."""
    kind, loss = cell.entry.load(), LOSSES[cell.task.loss]
    splits = (data.train, data.val)
    estimate.check_start(kind, cell.task.network(), cell.settings.method, splits, loss, device)


def check_memory(cell: Cell, data: Data, device: torch.device) -> None:
    """Raises BenchError where a cell's fit, its networks or their predictions would not fit in memory.

    Before training, from what they take at least: what the fit starts with, weights on the device, logits on
    the host.
    """
    check_start(cell, data, device)
    network = cell.task.network().eval()
    method = cell.entry.load()(cell.task.network(), cell.settings.method)
    most = method.max_members
    sizes = tuple(size for size in cell.sizes if most is None or size <= most)
    if not sizes:
        return  # `run` says so
    scale = cell.task.scale(cell.preset).asked(cell.sizes)
    test = data.test.first(scale.images)
    images = len(test) + (len(data.outliers.first(scale.images)) if data.outliers is not None else 0)
    with torch.no_grad():
        outputs = network(test.images[:1]).shape[-1]
    weights = _draws(method, sizes, cell.task.evaluations, scale) * sum(
        w.nbytes for w in network.parameters()
    )
    logits = max(sizes) * images * outputs * 4
    host = torch.device("cpu")
    needed = [(host, weights + logits)] if device == host else [(device, weights), (host, logits)]
    for place, size in needed:
        if size > (room := limits.room(place)):
            raise BenchError(
                f"expected {max(sizes):,} networks and their predictions within the {room / 1e9:,.1f} GB "
                f"that are free ({place.type}), found that they need {size / 1e9:,.1f} GB; "
                "ask for fewer with --members"
            )


def run(cell: Cell, data: Data, results: Path, device: torch.device, reporter: Reporter) -> Path:
    """Compute a cell and write its files; returns the path of the rows."""
    with single_threaded(), float32(tf32=False):  # training may enable TF32 for its rounds
        return _run(cell, data, results, device, reporter)


def _run(cell: Cell, data: Data, results: Path, device: torch.device, reporter: Reporter) -> Path:
    devices.reset_peak_memory(device)
    method = cell.entry.load()(cell.task.network(), cell.settings.method)
    sizes = possible_sizes(method, cell.sizes, reporter)
    for name in cell.task.evaluations:  # before hours of training
        if name not in EVALUATIONS:
            raise unknown("evaluation", name, list(EVALUATIONS))
    checked = data_canaries.check(data, reporter.say)
    fit = _fit(cell, method, data, results, device, reporter)
    started = time.perf_counter()
    scale = cell.task.scale(cell.preset).asked(cell.sizes)
    drawn = method.sample(_draws(method, sizes, cell.task.evaluations, scale), cell.seed)
    sampled = time.perf_counter() - started
    ensemble = drawn[: max(sizes)]
    subject = Subject(ensemble, data, scale, sizes, drawn, _predicting(reporter), reporter.say)
    found = Result(rows=[*checked, *fit.trace, canaries.batch_dependence(subject)])
    for name in cell.task.evaluations:
        part = EVALUATIONS[name](subject, Streams(cell.seed, name))
        found.rows += part.rows
        found.arrays |= part.arrays
    found.rows += _costs(fit, sampled, subject, device)
    path = _write(cell, results, found.rows, found.arrays, device, classes=subject.classes)
    reporter.say(_summary(found, sizes))
    reporter.say(f"  wrote {path}")
    return path


def record_failure(cell: Cell, results: Path, device: torch.device, error: BaseException) -> Path:
    """Write the row of a failed cell, which does not count as done."""
    rows = [schema.row("failed", 1.0) | {"unit": type(error).__name__}]
    return _write(cell, results, rows, {}, device, record.described(error, results))


def _fit(
    cell: Cell, method: Method, data: Data, results: Path, device: torch.device, reporter: Reporter
) -> Fit:
    rounds: list[int] = []

    def progress(done: int, total: int, losses: dict[str, float]) -> None:
        rounds.append(done)
        detail = " · ".join(f"{name} {value:.4g}" for name, value in losses.items())
        reporter.progress("fit", done, total, detail)

    settings = FitSettings(
        seed=cell.seed,
        loss=LOSSES[cell.task.loss],
        device=device,
        trace_every=cell.settings.loop.trace_every or math.ceil(method.rounds() / TRACES),
        trace_members=max(cell.sizes),
        path=cell.checkpoint(results),
        stage=cell.stage(results),
        identity=cell.identity(),
        stage_identity=cell.stage_identity() or {},
        tf32=cell.settings.loop.tf32,
        progress=progress,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category=UserWarning)
        fit = training.fit(method, data.train, data.val, settings)
    for text in dict.fromkeys(str(w.message) for w in caught):
        reporter.say(f"  warning: {text}")
    assert settings.path is not None
    if fit.reused:
        reporter.say(f"  fit: reusing {settings.path.parent.name} (trained in {fit.cost.seconds:.1f} s)")
    else:
        resumed = "" if len(rounds) == fit.rounds else f", resumed after {fit.rounds - len(rounds)}"
        reused = f", {len(method.borrowed)} of them reused" if method.borrowed else ""
        reporter.say(f"  fit: {fit.rounds} rounds{resumed}{reused}, {fit.cost.seconds:.1f} s")
    return fit


def _predicting(reporter: Reporter) -> Callable[[str, int, int], None]:
    return lambda name, done, total: reporter.progress(f"predict {name}", done, total)


def _costs(fit: Fit, sampled: float, subject: Subject, device: torch.device) -> list[dict[str, Any]]:
    members = len(subject.ensemble)
    drawn = len(subject.drawn)
    common = {"evaluation": "cost"}
    predicted = {**common, "members": members, "examples": subject.predicted}
    return [
        schema.row("fit_seconds", fit.cost.seconds, **common),
        schema.row("fit_cpu_seconds", fit.cost.cpu_seconds, **common),
        schema.row("fit_gflop", fit.cost.flop / 1e9, **common),
        schema.row("sample_seconds", sampled, members=drawn, **common),
        schema.row("predict_seconds", subject.seconds, **predicted),
        schema.row("predict_cpu_seconds", subject.cpu_seconds, **predicted),
        schema.row("peak_memory_bytes", devices.peak_memory_bytes(device), members=members, **common),
    ]


def _summary(found: Result, sizes: tuple[int, ...]) -> str:
    """The main results of a run in one line."""
    chosen = {"accuracy": "accuracy", "auroc": "AUROC", "disagreement": "disagreement", "rmse": "RMSE"}
    parts = []
    for metric, label in chosen.items():
        rows = [r for r in found.rows if r["metric"] == metric and not r.get("variant")]
        rows = [r for r in rows if r["evaluation"] != "trace" and "severity" not in r]
        if metric == "accuracy":
            parts += [f"{label} of {r['members']}: {r['value']:.2%}" for r in rows]
        else:
            parts += [f"{label}: {r['value']:.3f}" for r in rows if r["members"] == max(sizes)]
    return "  " + " · ".join(parts)
