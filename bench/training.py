"""The loop every method shares: rounds, batches, checkpoints, traces, NaN and collapse watched."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import diversity, limits
from bench.engine import Loss, float32, memory
from bench.errors import BenchError
from bench.records import row
from bench.rng import Streams
from bench.task import NOISE_SD, Split

if TYPE_CHECKING:
    from bench.method import Method

CHECKPOINT_SECONDS = 60.0  # between two checkpoints: one of HyperGAN's is 200 MB
PADDING = 4  # of augmentation: pixels that a crop may shift by, as the paper's code had it on CIFAR
# Below this relative spread of the weights and with no disagreement, draws are one network.
COLLAPSED_SPREAD = 1e-3


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each member in nats: logits [M, B, K], y [B] or [M, B] -> [M]."""
    labels = y if y.dim() == 2 else y.expand(logits.shape[0], -1)
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


def mse(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each member: outputs [M, B, D], y [B, D] or [M, B, D] -> [M]."""
    return (outputs - y).square().flatten(1).mean(1)


def gaussian(outputs: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of each member in nats, mean over examples: -ln N(y; f(x), 3^2).

    (y - f)^2 / (2 sd^2) + ln(sd sqrt(2 pi)), sd the noise of the regression (`bench.task.NOISE_SD`),
    so that N times it is the negative log-likelihood of the data. outputs [M, B, 1], y [B, 1] or
    [M, B, 1] -> [M].
    """
    return mse(outputs, y) / (2 * NOISE_SD**2) + math.log(NOISE_SD * math.sqrt(2 * math.pi))


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "gaussian": gaussian}


def crops(height: int, width: int, padding: int = PADDING) -> Tensor:
    """Where each pixel comes from, for every shifted crop of an image and its mirror image.

    Returns [2 (2 padding + 1)^2, height * width] positions in the flattened image, in the order
    vertical shift, horizontal shift, mirrored or not; height * width stands for black outside of it.
    """
    place = torch.arange(height * width).view(height, width)
    place = F.pad(place, (padding,) * 4, value=height * width)
    windows = place.unfold(0, height, 1).unfold(1, width, 1)  # [9, 9, height, width] for padding 4
    return torch.stack([windows, windows.flip(-1)], 2).flatten(0, 2).flatten(1)


def take(images: Tensor, places: Tensor) -> Tensor:
    """Images [B, C, H, W] whose pixels come from these places [B, H W], as `crops` has them."""
    with_black = F.pad(images.flatten(2), (0, 1))
    index = places.unsqueeze(1).expand(-1, images.shape[1], -1)
    return with_black.gather(2, index).view(images.shape)


class Minibatches:
    """Minibatches of a split that lies in memory, on its device, without a loader process.

    batch: images per network. networks: how many share an epoch, each seeing its own slice. A
    remainder that fills no step is left out of this epoch; the next epoch has another order. A split
    smaller than one step gives one smaller step.

    Where the split asks for augmentation, every image that is shown is one of the 162 of `crops`,
    chosen by the generator that gave the order; networks that share images share the choice.
    """

    def __init__(self, split: Split, batch: int, networks: int = 1) -> None:
        self.split, self.networks = split, networks
        self.batch = max(1, min(batch, len(split) // networks))
        self.steps = max(1, len(split) // (self.batch * networks))
        self.crops: Tensor | None = None
        if split.augment:
            self.crops = crops(*split.images.shape[2:]).to(split.images.device)

    def __len__(self) -> int:
        return self.steps

    def epoch(self, rng: torch.Generator, own: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass of all networks together: x [K, B, ...] where own, else [B, ...]."""
        size = self.batch * self.networks
        for index in self._order(rng).split(size)[: self.steps]:
            x, y = self._read(index, [rng])
            if own:
                x, y = (t.unflatten(0, (self.networks, -1)) for t in (x, y))
            yield x, y

    def epochs(self, rngs: Sequence[torch.Generator]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass of every network by itself, each in its own order: x [M, B, ...], y [M, B]."""
        orders = torch.stack([self._order(rng) for rng in rngs])
        for step in range(self.steps):
            index = orders[:, step * self.batch : (step + 1) * self.batch]
            x, y = self._read(index.flatten(), rngs)
            yield x.unflatten(0, index.shape), y.unflatten(0, index.shape)

    def _read(self, index: Tensor, rngs: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Images and labels at these positions; an equal share of the images for each generator."""
        x, y = self.split.images[index], self.split.labels[index]
        if self.crops is None:
            return x, y
        share = len(index) // len(rngs)
        chosen = torch.cat([torch.randint(len(self.crops), (share,), generator=rng) for rng in rngs])
        return take(x, self.crops[chosen.to(x.device)]), y

    def _order(self, rng: torch.Generator) -> Tensor:
        return torch.randperm(len(self.split), generator=rng).to(self.split.images.device)


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Adam:
    """Adam in its fused form: one pass over memory instead of one per operation."""
    return torch.optim.Adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def anneal(optimiser: torch.optim.Optimizer, lr: float, step: int, steps: int) -> None:
    """Set the learning rate of this step: lr (1 + cos(pi step / steps)) / 2.

    A function of the step alone, so that a resumed fit needs no scheduler's state.
    """
    for group in optimiser.param_groups:
        group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))


class Independent:
    """Networks that train at once on stacked weights, each as it would alone.

    Adam acts on each number by itself, and the gradient of a sum of losses is each network's own.

    first: the weights that network m starts from, for m below `networks`. steps: of the whole fit, over
    which lr is annealed. What trains is registered with the method.
    """

    def __init__(
        self,
        method: Method,
        networks: int,
        first: Callable[[int], Mapping[str, Tensor]],
        lr: float,
        steps: int,
        decay: float = 0.0,
    ) -> None:
        self.lr, self.steps = lr, steps
        shapes = method.engine.shapes
        holder = nn.ParameterList(
            nn.Parameter(torch.empty((networks, *shape), device=method.device)) for shape in shapes.values()
        )
        self.weights: dict[str, Tensor] = dict(zip(shapes, holder, strict=True))
        method.trains("weights", holder)
        self.optimiser = adam(holder.parameters(), lr, weight_decay=decay)
        method.trains("optimiser", self.optimiser)
        # Registered before they are filled: networks that do not fit in memory are refused at once.
        for m in range(networks):
            for name, value in first(m).items():
                self.weights[name].detach()[m] = value

    def minimise(self, losses: Tensor, step: int) -> None:
        """One step of every network, the `step`-th of the fit, on losses [M]."""
        anneal(self.optimiser, self.lr, step, self.steps)
        self.optimiser.zero_grad()
        losses.sum().backward()
        self.optimiser.step()

    def permuted(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Weights of as many networks as generators: a permutation without replacement.

        From the first generator alone, so that a larger draw begins with a smaller one.
        """
        count = len(next(iter(self.weights.values())))
        order = torch.randperm(count, generator=rngs[0])[: len(rngs)]
        return {name: w.detach()[order.to(w.device)] for name, w in self.weights.items()}


@dataclass(frozen=True)
class FitSettings:
    """How a fit runs, apart from the method's own settings.

    trace_every: rounds between traces (0: none). trace_members, trace_images: how much a trace
    evaluates. path: checkpoint file, None for none. stage: folder of rounds that variants share, None
    for none. progress: called after each round with the number of rounds done, of all, and the
    round's losses.
    """

    seed: int
    loss: Loss = cross_entropy
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    trace_every: int = 0
    trace_members: int = 100
    trace_images: int = 1000
    path: Path | None = None
    stage: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    tf32: bool = False
    progress: Callable[[int, int, dict[str, float]], None] = lambda done, rounds, losses: None


@dataclass
class Fit:
    """What a fit leaves beside the trained method: its cost, its trace, and whether it was stored."""

    seconds: float = 0.0
    rounds: int = 0
    trace: list[dict[str, Any]] = field(default_factory=list)
    reused: bool = False


def fit(method: Method, train: Split, val: Split, settings: FitSettings) -> Fit:
    """Train a method; a fit that was killed goes on from its last checkpoint and ends the same.

    Raises BenchError where a loss is no longer a number, and where memory does not suffice: before
    training for what `start` makes, gradients and optimisers included.
    """
    with limits.explained(type(method).__name__, method.config):
        return _fit(method, train, val, settings)


def _fit(method: Method, train: Split, val: Split, settings: FitSettings) -> Fit:
    memory.keep_freed()
    method.device, method.stage_folder = settings.device, settings.stage
    rng = Streams(settings.seed, "fit")
    train_there, val_there = train.to(settings.device), val.to(settings.device)
    with limits.Guard(type(method).__name__, method.config):
        method.start(train_there, val_there, loss=settings.loss, rng=rng)
    result = Fit()
    if settings.path is not None and settings.path.exists():
        about = method.load(settings.path)
        result = Fit(about["seconds"], about["rounds"], about["trace"], about["finished"])
        if result.reused:
            return result
    written = time.perf_counter()
    total = method.rounds()
    while result.rounds < total:
        begun = time.perf_counter()
        with float32(settings.tf32):
            losses = method.round(result.rounds)
        check_finite(method, f"round {result.rounds}", losses)
        # A round that a variant made before costs what it cost then.
        spent = time.perf_counter() - begun
        result.seconds += method.borrowed_seconds.get(result.rounds, spent)
        result.rounds += 1
        if settings.trace_every and (result.rounds % settings.trace_every == 0 or result.rounds == total):
            result.trace += trace(method, val, result.rounds, losses, settings)
        settings.progress(result.rounds, total, losses)
        due = time.perf_counter() - written > settings.checkpoint_seconds
        if settings.path is not None and due and result.rounds < total:
            _save(method, settings.path, result)
            written = time.perf_counter()
    if settings.path is not None:
        _save(method, settings.path, result, finished=True)
    return result


def _save(method: Method, path: Path, result: Fit, finished: bool = False) -> None:
    about = {"seconds": result.seconds, "rounds": result.rounds, "trace": result.trace}
    method.save(path, about, finished=finished)


def check_finite(method: Method, where: str, losses: dict[str, float], setting: str = "lr") -> None:
    """Raises BenchError where a loss is no longer a number, naming the place and the setting to lower.

    where: round, or epoch and step. A method whose step is not called `lr` checks for itself.
    """
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

    Networks come from a stream of their own, so that looking changes nothing.
    """
    members = settings.trace_members
    if method.max_members is not None:
        members = min(members, method.max_members)
    ensemble = method.sample(members, settings.seed, "trace")
    common = {"evaluation": "trace", "epoch": done, "members": members}
    rows = [row(name, value, **common) for name, value in losses.items()]
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
