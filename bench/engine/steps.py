"""Reads a target network into the short list of steps that the engine knows how to stack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bench.networks import Normalise, shapes

WEIGHTED = ("conv", "linear")  # kinds of layers with weights


@dataclass(frozen=True)
class Step:
    """One layer of the walk: its kind, its name in the network and the module that holds its settings."""

    kind: str
    name: str
    module: nn.Module

    @property
    def has_weights(self) -> bool:
        return self.kind in WEIGHTED


def read(network: nn.Module) -> tuple[Step, ...] | None:
    """The network's layers in order, pooling moved before a monotone activation, or None.

    Max-pooling and a non-decreasing activation commute, and pooling first leaves a quarter of the
    elements to activate. None says that the network holds a layer, or a setting of one, that is not
    known here; `torch.func` evaluates such networks, correctly and slower.
    """
    steps: list[Step] = []
    for name, module in _leaves(network):
        kind = _kind(module)
        if kind is None or (kind in WEIGHTED and any(s.module is module for s in steps)):
            return None  # not known, or weights that two layers share under the name of the first
        if kind == "pool" and steps and steps[-1].kind == "activation":
            steps.insert(-1, Step(kind, name, module))
        else:
            steps.append(Step(kind, name, module))
    first = next((i for i, s in enumerate(steps) if s.kind != "normalise"), len(steps))
    if any(s.kind == "normalise" for s in steps[first:]):
        return None  # normalisation inside the network is not shared by all members
    return tuple(steps)


def activation_bytes(network: nn.Module, image: torch.Size, itemsize: int) -> int:
    """Bytes that one network keeps for the backward pass of one image.

    Counted by a forward pass on the meta device: every layer's output, and for max-pooling its
    64-bit indices too.
    """
    total = 0

    def add(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        total += out.numel() * (itemsize + (8 if isinstance(module, nn.MaxPool2d) else 0))

    hooks = [m.register_forward_hook(add) for _, m in _leaves(network) if not _is_view(m)]
    try:
        from torch.func import functional_call

        meta = {n: torch.empty(s, device="meta") for n, s in shapes(network).items()}
        functional_call(network, meta, (torch.empty((1, *image), device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return total


def _is_view(module: nn.Module) -> bool:
    # Activations after pooling overwrite their input, flattening at most copies the smallest map.
    return isinstance(module, (nn.Flatten, nn.LeakyReLU, nn.ReLU))


def _leaves(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in the order of evaluation: only nested `Sequential`s guarantee one."""
    if not isinstance(network, nn.Sequential):
        yield prefix.rstrip("."), network
        return
    # `named_children` would leave out a module that stands in two places, such as one activation for all.
    for name, child in zip(dict(network._modules), network, strict=True):
        yield from _leaves(child, f"{prefix}{name}.")


def _kind(module: nn.Module) -> str | None:
    match module:
        case nn.Conv2d():
            simple = module.groups == 1 and module.padding_mode == "zeros"
            return "conv" if simple and not isinstance(module.padding, str) else None
        case nn.Linear():
            return "linear"
        case nn.LeakyReLU() if module.negative_slope >= 0:
            return "activation"
        case nn.ReLU():
            return "activation"
        case nn.MaxPool2d():
            return None if module.return_indices else "pool"
        case nn.Flatten():
            return "flatten" if (module.start_dim, module.end_dim) == (1, -1) else None
        case Normalise():
            return "normalise"
    return None
