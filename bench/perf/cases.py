"""Stacked networks evaluated, trained and attacked by each way: a plain loop, vmap, the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench import networks
from bench.engine import Engine, Weights, work
from bench.networks import shapes
from bench.rng import stream
from bench.training import cross_entropy

LOOP, VMAP, ENGINE = "loop", "vmap", "engine"
# vmap keeps every member's activations (20 GiB for 1,000 x 100): from here on it is left out.
VMAP_MEMBERS = 1000
# Cases that show how the engine grows with members; other ways would take minutes and say nothing new.
ENGINE_ALONE = ("predict-mnist-1000x1000", "attack-mnist-3000x100")
NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "mnist": (networks.mnist, (1, 28, 28)),
    "cifar": (networks.cifar, (3, 32, 32)),
}


@dataclass(frozen=True)
class Case:
    """One piece of work: `kind` of `members` networks on `batch` images each."""

    kind: str
    network: str
    members: int
    batch: int
    own: bool = False

    @property
    def name(self) -> str:
        stem = f"{self.kind}-{self.network}-{self.members}x{self.batch}"
        return stem + {"train": "-own" if self.own else "-shared"}.get(self.kind, "")

    def flop(self) -> float:
        """Floating-point operations: 2 per multiply-add, once for predict, 2x attack, 3x train."""
        passes = {"predict": 1, "attack": 2, "train": 3}[self.kind]
        return 2.0 * passes * self.members * self.batch * multiply_adds(self.network)


CASES = {
    "predict": (
        Case("predict", "mnist", 100, 1000),
        Case("predict", "cifar", 100, 1000),
        Case("predict", "mnist", 1000, 1000),
    ),
    "train": (
        Case("train", "mnist", 32, 100),
        Case("train", "cifar", 32, 100),
        Case("train", "mnist", 10, 100, own=True),
        Case("train", "cifar", 10, 100, own=True),
    ),
    "attack": (
        Case("attack", "mnist", 10, 100),
        Case("attack", "mnist", 100, 100),
        Case("attack", "mnist", 1000, 100),
        Case("attack", "mnist", 3000, 100),
        Case("attack", "cifar", 100, 100),
    ),
}


def multiply_adds(network: str) -> int:
    """Multiply-adds of one image's forward pass, of convolutions and linear layers alone."""
    build, shape = NETWORKS[network]
    return sum(work.multiply_adds(build(), shape))


def prepare(case: Case, device: torch.device) -> dict[str, Callable[[], Any]]:
    """The case's work by way: calls that take nothing and do all of it."""
    build, shape = NETWORKS[case.network]
    network = build()
    weights = {
        name: (torch.randn(case.members, *s, generator=stream(0, name)) / max(1, s[1:].numel()) ** 0.5).to(
            device
        )
        for name, s in shapes(network).items()
    }
    lead = (case.members, case.batch) if case.own else (case.batch,)
    x = torch.rand(*lead, *shape, generator=stream(0, "images")).to(device)
    y = torch.randint(0, 10, lead, generator=stream(0, "labels")).to(device)
    engine = Engine(network)
    calls: dict[str, Callable[[], Any]] = {
        LOOP: partial(_LOOP[case.kind], network, weights, x, y, case.own),
        VMAP: partial(_VMAP[case.kind], network, weights, x, y, case.own),
        ENGINE: partial(_ENGINE[case.kind], engine, weights, x, y, case.own),
    }
    if case.members >= VMAP_MEMBERS:
        del calls[VMAP]
    return {ENGINE: calls[ENGINE]} if case.name in ENGINE_ALONE else calls


def _leaves(weights: Weights) -> dict[str, Tensor]:
    return {name: w.detach().requires_grad_() for name, w in weights.items()}


def _input_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


@torch.no_grad()
def _engine_predict(engine: Engine, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Tensor:
    return engine.logits(weights, x)


def _engine_train(engine: Engine, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Any:
    leaves = _leaves(weights)
    losses = engine.losses(leaves, x, y, cross_entropy, own=own)
    return torch.autograd.grad(losses.sum(), list(leaves.values()))


def _engine_attack(engine: Engine, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Tensor:
    return _input_gradient(lambda leaf: F.cross_entropy(engine.logits(weights, leaf).mean(0), y), x)


def _vmap_logits(network: nn.Module, weights: Weights, x: Tensor, own: bool) -> Tensor:
    def one(parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(network, parameters, (images,))

    return vmap(one, in_dims=(0, 0 if own else None))(dict(weights), x)


@torch.no_grad()
def _vmap_predict(network: nn.Module, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Tensor:
    return _vmap_logits(network, weights, x, own)


def _vmap_train(network: nn.Module, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Any:
    leaves = _leaves(weights)
    losses = cross_entropy(_vmap_logits(network, leaves, x, own), y)
    return torch.autograd.grad(losses.sum(), list(leaves.values()))


def _vmap_attack(network: nn.Module, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Tensor:
    return _input_gradient(
        lambda leaf: F.cross_entropy(_vmap_logits(network, weights, leaf, own).mean(0), y), x
    )


def _member(weights: Weights, m: int) -> dict[str, Tensor]:
    return {name: w[m] for name, w in weights.items()}


def _count(weights: Weights) -> int:
    return len(next(iter(weights.values())))


@torch.no_grad()
def _loop_predict(network: nn.Module, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Tensor:
    return torch.stack([functional_call(network, _member(weights, m), (x,)) for m in range(_count(weights))])


def _loop_train(network: nn.Module, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Any:
    gradients = []
    for m in range(_count(weights)):
        leaves = _leaves(_member(weights, m))
        logits = functional_call(network, leaves, (x[m] if own else x,))
        loss = F.cross_entropy(logits, y[m] if own else y)
        gradients.append(torch.autograd.grad(loss, list(leaves.values())))
    return gradients


def _loop_attack(network: nn.Module, weights: Weights, x: Tensor, y: Tensor, own: bool) -> Tensor:
    """One graph up to 100 networks; beyond, fused logits first, then member by member."""
    members = _count(weights)
    if members < VMAP_MEMBERS:

        def loss(leaf: Tensor) -> Tensor:
            logits = [functional_call(network, _member(weights, m), (leaf,)) for m in range(members)]
            return F.cross_entropy(torch.stack(logits).mean(0), y)

        return _input_gradient(loss, x)
    fused = _loop_predict(network, weights, x, y, own).mean(0).requires_grad_()
    (upstream,) = torch.autograd.grad(F.cross_entropy(fused, y), fused)
    leaf, total = x.detach().requires_grad_(), torch.zeros_like(x)
    for m in range(members):
        logits = functional_call(network, _member(weights, m), (leaf,))
        total += torch.autograd.grad(logits, leaf, upstream / members)[0]
    return total


_LOOP: dict[str, Callable[..., Any]] = {
    "predict": _loop_predict, "train": _loop_train, "attack": _loop_attack,
}  # fmt: skip
_VMAP: dict[str, Callable[..., Any]] = {
    "predict": _vmap_predict, "train": _vmap_train, "attack": _vmap_attack,
}  # fmt: skip
_ENGINE: dict[str, Callable[..., Any]] = {
    "predict": _engine_predict, "train": _engine_train, "attack": _engine_attack,
}  # fmt: skip
