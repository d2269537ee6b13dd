"""The loop every method shares: rounds, batches, checkpoints, traces, NaN and collapse watched."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.engine import Cost, Loss, float32, memory, single_threaded, spent
from bench.errors import BenchError
from bench.metrics import diversity
from bench.records.schema import row
from bench.rng import Streams
from bench.system import interrupts
from bench.task import Split, fitted_on
from bench.training import checkpoint, limits
from bench.training.losses import cross_entropy
from bench.training.method import Method

CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at most: long fits too are to lose no more
# Below this relative spread of the weights and with no disagreement, draws are one network.
COLLAPSED_SPREAD = 1e-3


@dataclass(frozen=True)
class FitSettings:
    """How a fit runs, apart from the method's own settings.

    trace_every: rounds between traces (0: none). trace_members, trace_images: how much a trace
    evaluates. path: checkpoint file, None for none. stage: folder of rounds that variants share, None
    for none. identity, stage_identity: what else than method, settings, seed, device and data makes their
    files this fit's, as JSON. checkpoint_every: seconds between checkpoints, None for as `checkpoint.Pace`
    has it. progress: called after each round with the number of rounds done, of all, and
    the round's losses.
    """

    seed: int
    loss: Loss = cross_entropy
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    trace_every: int = 0
    trace_members: int = 100
    trace_images: int = 1000
    path: Path | None = None
    stage: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    stage_identity: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_every: float | None = None
    tf32: bool = False
    progress: Callable[[int, int, dict[str, float]], None] = lambda done, rounds, losses: None
    pace: checkpoint.Pace = field(default_factory=checkpoint.Pace)

    @property
    def checkpoint_seconds(self) -> float:
        """Seconds after the last checkpoint from which one is due at the end of a round."""
        if interrupts.asked():
            return 0.0
        if self.checkpoint_every is not None:
            return self.checkpoint_every
        return CHECKPOINT_SECONDS if self.path is None else self.pace.seconds(self.path, CHECKPOINT_SECONDS)


@dataclass
class Fit:
    """What a fit leaves beside the trained method: its cost, its trace, and whether it was stored.

    cost: of the rounds, without traces and checkpoints; one that was stopped adds up.
    """

    cost: Cost = field(default_factory=Cost)
    rounds: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)
    reused: bool = False


def fit(method: Method, train: Split, val: Split, settings: FitSettings) -> Fit:
    """Train a method; a fit that was killed goes on from its last checkpoint and ends the same.

    Ctrl-C (`bench.system.interrupts`) ends it after a round, with a checkpoint, by KeyboardInterrupt. Raises
    BenchError where a loss is no longer a number, where the checkpoint is another fit's, and where memory
    does not suffice: before training for what `start` makes, gradients and optimisers included.
    """
    with limits.explained(type(method).__name__, method.config), single_threaded():
        return _fit(method, train, val, settings)


def _fit(method: Method, train: Split, val: Split, settings: FitSettings) -> Fit:
    memory.keep_freed()
    method.device, method.stage_folder = settings.device, settings.stage
    method.stage_identity = settings.stage_identity
    identity = _identity(method, train, val, settings) if settings.path is not None else {}
    rng = Streams(settings.seed, "fit")
    train_there, val_there = train.to(settings.device), val.to(settings.device)
    with limits.Guard(type(method).__name__, method.config):
        method.start(train_there, val_there, loss=settings.loss, rng=rng)
    result = Fit()
    if settings.path is not None and settings.path.exists():
        about = method.load(settings.path, identity)
        result = Fit(Cost(**about["cost"]), about["rounds"], about["trace"], about["finished"])
        if result.reused:
            return result
    written = time.perf_counter()
    total = method.rounds()
    while result.rounds < total and not method.rested():
        begun = spent()
        with float32(settings.tf32):
            losses = method.round(result.rounds)
        check_finite(method, f"round {result.rounds}", losses)
        # A round that a variant made before costs what it cost then.
        own = spent() - begun
        result.cost += method.borrowed.get(result.rounds, own)
        result.rounds += 1
        last = result.rounds == total or method.rested()
        if settings.trace_every and (result.rounds % settings.trace_every == 0 or last):
            result.trace += trace(method, val, result.rounds, losses, settings)
        settings.progress(result.rounds, total, losses)
        due = time.perf_counter() - written > settings.checkpoint_seconds
        if settings.path is not None and due and not last:
            _save(method, settings.path, identity, result)
            written = time.perf_counter()
    if settings.path is not None:
        _save(method, settings.path, identity, result, finished=True)
    return result


def _identity(method: Method, train: Split, val: Split, settings: FitSettings) -> dict[str, Any]:
    """Whose fit a checkpoint is; what `settings` name is not computed again."""
    found: dict[str, Any] = {}
    if "data" not in settings.identity:
        found["data"] = fitted_on(train, val)
    found |= {"class": type(method).__name__, "settings": dataclasses.asdict(method.config)}
    return found | {"seed": settings.seed, "device": settings.device.type, **settings.identity}


def _save(
    method: Method, path: Path, identity: Mapping[str, Any], result: Fit, finished: bool = False
) -> None:
    """Write a checkpoint; then stop, where Ctrl-C has asked for that."""
    about = {"identity": identity, "cost": dataclasses.asdict(result.cost), "rounds": result.rounds}
    method.save(path, {**about, "trace": result.trace}, finished=finished)
    if interrupts.asked():
        raise KeyboardInterrupt  # which the user has pressed before


def check_finite(method: Method, where: str, losses: dict[str, float], setting: str = "lr") -> None:
    """Raises BenchError where a loss is no longer a number, naming the place and the setting to lower.

    where: round, or epoch and step. A method whose step is not called `lr` checks for itself. Raises
    TypeError for losses that are no floats: rows and checkpoints could not hold them.
    """
    strange = {name: type(value).__name__ for name, value in losses.items() if not isinstance(value, float)}
    if strange:
        raise TypeError(
            f"{type(method).__name__}, {where}: expected losses as floats, found {strange}; "
            "return loss.item() or float(loss)"
        )
    broken = {name: value for name, value in losses.items() if not math.isfinite(value)}
    if broken:
        raise BenchError(
            f"{type(method).__name__}, {where}: expected finite losses, found {broken}; "
            f"lower the learning rate with --set <method>.{setting}=..."
        )


def trace(
    method: Method, val: Split, done: int, losses: dict[str, float], settings: FitSettings
) -> list[dict[str, Any]]:
    """Rows of one look at the method in training: losses, validation accuracy, spread, disagreement.

    Networks come from a stream of their own, so that looking changes nothing. Losses alone where the method
    has nothing to draw yet.
    """
    members = settings.trace_members
    if method.max_members is not None:
        members = min(members, method.max_members)
    common = {"evaluation": "trace", "epoch": done, "members": members}
    rows = [row(name, value, **common) for name, value in losses.items()]
    if not method.ready():
        return rows
    ensemble = method.sample(members, settings.seed, "trace")
    spread = diversity.weight_statistics(ensemble.weights)
    for layer, values in spread.items():
        rows += [row(metric, value, layer=layer, **common) for metric, value in values.items()]
    part = val.first(settings.trace_images)
    on_part = common | {"dataset": val.name, "examples": len(part)}
    differing = 1.0
    if part.labels.dtype == torch.int64:
        probabilities = ensemble.probabilities(part.images)
        predictions = probabilities.argmax(-1)
        differing = diversity.disagreement(predictions.numpy())
        right = (predictions == part.labels).double().mean().item()
        fused = (probabilities.double().mean(0).argmax(-1) == part.labels).double().mean().item()
        rows.append(row("disagreement", differing, **on_part))
        rows.append(row("accuracy", right, **on_part | {"members": 1}))
        if members > 1:  # of one network it is the row before
            rows.append(row("accuracy", fused, **on_part))
    if members > 1 and differing == 0 and all(v["weight_spread"] < COLLAPSED_SPREAD for v in spread.values()):
        warnings.warn(
            f"{type(method).__name__}, round {done}: {members} drawn networks are one network; "
            "entropy and diversity will say nothing",
            stacklevel=2,
        )
    return rows
