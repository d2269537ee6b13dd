"""A whole training step of every registered method, by the engine and the plain way.

The plain way is the same method, with its networks in a loop over members by `torch.func.functional_call`,
PyTorch's linear layers, its Adam as it comes, and operations on PyTorch's own number of threads. What a
method computes beside that, layer operations of its own among it, is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench import registry
from bench.engine import (
    BlockLinear,
    Engine,
    InputOperation,
    LayerOperation,
    Loss,
    Recorded,
    Weights,
    memory,
    single_threaded,
    watch,
)
from bench.engine import work as counting
from bench.engine.ways import count_of
from bench.perf.cases import ENGINE, LOOP, NETWORKS
from bench.registry import MethodEntry
from bench.rng import Streams, stream
from bench.settings import resolve
from bench.training import Method, Minibatches, Split, cross_entropy
from bench.training.optimisers import Adam

PRESET, NETWORK = "quick", "mnist"
STEPS = 3  # of a round at least
# Images to begin with, doubled until they make a round of enough steps.
FEWEST, MOST = 500, 64_000


class PlainEngine(Engine):
    """Networks one after the other, as PyTorch's modules; the same operations are counted."""

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits [M, B, K] on shared images x [B, ...]."""
        graph = torch.is_grad_enabled()
        of_weights = graph and any(w.requires_grad for w in weights.values())
        self.passes.add(count_of(weights), x.shape, of_weights, graph and x.requires_grad)
        return self._loop(weights, [x] * count_of(weights))

    def losses(self, weights: Weights, x: Tensor, y: Tensor, loss: Loss, own: bool = False) -> Tensor:
        """Losses [M], in one graph."""
        count = count_of(weights)
        self.passes.add(count, x.shape[1:] if own else x.shape, True, x.requires_grad)
        return loss(self._loop(weights, x.unbind(0) if own else [x] * count), y)

    def walk(
        self, weights: Weights, x: Tensor, operation: LayerOperation | None, before: InputOperation | None
    ) -> Tensor:
        """One network's logits [B, K], layer after layer."""
        known = {step.name: step for step in self.known_steps()}
        for name, module in self.network.named_modules():
            if name not in known:  # a container
                continue
            step, given = known[name], None
            if before is not None and step.has_weights:
                x = before(step, x)
            if operation is not None and step.has_weights:
                given = operation(step, weights, x)
            if given is None:
                own = {n: weights[f"{name}.{n}"] for n, _ in module.named_parameters()}
                given = functional_call(module, own, (x,))
            x = given
        return x

    def blocks(self, x: Tensor, members: int = 1) -> list[slice]:
        """All images at once."""
        return [slice(0, len(x))]

    def _loop(self, weights: Weights, images: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        # Taken apart once: of w[m] each backward pass would write zeros for all other members.
        members = zip(*(w.unbind(0) for w in weights.values()), strict=True)
        return torch.stack(
            [
                functional_call(self.network, dict(zip(weights, values, strict=True)), (x,))
                for values, x in zip(members, images, strict=True)
            ]
        )


@dataclass
class Fit:
    """A method that has started, and trains round after round.

    steps: of a round. threads: what it trains inside. losses, flop: of its last round.
    """

    method: Method
    steps: int
    threads: Callable[[], AbstractContextManager[None]]
    rounds: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    flop: int = 0

    def round(self) -> None:
        """Train a round, after the last one the first again."""
        before = counting.counted()
        self.losses = self.method.round(self.rounds % self.method.rounds())
        self.flop = counting.counted() - before
        self.rounds += 1

    def flop_per_step(self) -> float:
        """Floating-point operations of a step of the last round, as they are counted for a fit's cost."""
        return self.flop / self.steps


def entries() -> list[MethodEntry]:
    """All registered methods, without variants."""
    return [entry for name, entry in registry.methods().items() if entry.base == name]


def prepare(entry: MethodEntry, device: torch.device) -> dict[str, Fit]:
    """A method's fit by way, on made-up images of MNIST's size, with its settings of the preset quick.

    Rounds are the first ones, where a method has several kinds.
    """
    memory.keep_freed()  # as a fit does
    images = FEWEST
    while (engine := _long_enough(entry, images, device)) is None:
        images *= 2
    return {LOOP: started(entry, images, device, plain=True), ENGINE: engine}


def _long_enough(entry: MethodEntry, images: int, device: torch.device) -> Fit | None:
    """A fit on so many images, if its rounds have enough steps; at most images whatever they have."""
    try:
        fit = started(entry, images, device, plain=False)
    except ValueError:  # a method may ask for longer rounds
        if images >= MOST:
            raise
        return None
    return fit if fit.steps >= STEPS or images >= MOST else None


def started(entry: MethodEntry, images: int, device: torch.device, plain: bool) -> Fit:
    """A method after `start`, with the engine and its optimiser or the plain way."""
    build, shape = NETWORKS[NETWORK]
    kind = entry.load()
    method: Method = kind(build(), resolve(entry, kind.Config, PRESET, NETWORK, {}).method)
    method.device = device
    if plain:
        method.engine = PlainEngine(method.network)
    x = torch.rand(images, *shape, generator=stream(0, "images"))
    y = torch.randint(0, 10, (images,), generator=stream(0, "labels"))
    data = Split("made-up", x, y).to(device)
    method.start(data, data, loss=cross_entropy, rng=Streams(0, "fit"))
    if plain:
        _make_plain(method)
    batches = [part for part in vars(method).values() if isinstance(part, Minibatches)]
    # Without minibatches of this suite nobody knows where a step ends: the round is taken for one.
    steps = len(batches[0]) if batches else 1
    return Fit(method, steps, nullcontext if plain else single_threaded)


class _AsItIs(Recorded):
    """Steps that a GPU does not replay."""

    allowed = False


def _make_plain(method: Method) -> None:
    """Replace what is this suite's own in a method, and in what the method's attributes are made of."""
    for holder in (method, *vars(method).values()):
        for name, part in list(getattr(holder, "__dict__", {}).items()):
            if isinstance(part, Adam):
                setattr(holder, name, _default_adam(part))
            elif isinstance(part, Recorded):
                setattr(holder, name, _AsItIs(part.device, part.generators))
            elif isinstance(part, nn.Module):
                _make_layers_plain(part)


def _default_adam(ours: Adam) -> torch.optim.Adam:
    """PyTorch's Adam of the same parameters and settings, not fused."""
    groups = [
        {"lr": float(group["lr"]), **{n: group[n] for n in ("params", "betas", "eps", "weight_decay")}}
        for group in ours.param_groups
    ]
    return torch.optim.Adam(groups)


def _make_layers_plain(module: nn.Module) -> None:
    """Replace linear layers in blocks by PyTorch's, with the same parameters."""
    for parent in module.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, BlockLinear):
                plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, "meta")
                plain.weight, plain.bias = layer.weight, layer.bias
                watch(plain)
                setattr(parent, name, plain)
