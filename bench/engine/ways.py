"""Ways to evaluate stacked networks; each computes the same logits and gradients.

A way has three parts. `prepare` lays weights out in memory, once for all images; `enter` does what
all members share on an image batch, once; `run` evaluates the members on what was entered. All are
differentiable. Shapes: x [B, ...] shared by all members, or [M, B, ...] with own images; weights by
name [M, *shape]; logits [M, B, K].
"""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench.engine.convolution import convolve, pool
from bench.engine.steps import Step, activation_bytes

Weights = Mapping[str, Tensor]
# A layer's own operation: (step, this member's weights by name, input) -> output, or None for the usual.
LayerOperation = Callable[[Step, Weights, Tensor], Tensor | None]
# What a layer with weights is given instead of its input: (step, input) -> input.
InputOperation = Callable[[Step, Tensor], Tensor]


@dataclass(frozen=True)
class Entered:
    """An image batch after `enter`: shared by all members, or own images of each."""

    data: Tensor
    own: bool


def count_of(weights: Weights) -> int:
    """How many members stacked weights hold."""
    return next(iter(weights.values())).shape[0]


def members_of(weights: Weights, members: slice) -> dict[str, Tensor]:
    """Stacked weights of some members, as views."""
    return {name: w[members] for name, w in weights.items()}


class Way(ABC):
    """How stacked networks of one shape are evaluated.

    concurrent: members may run side by side in threads.
    """

    concurrent: ClassVar[bool] = False

    def prepare(self, weights: Weights) -> Weights:
        """The same weights, laid out as `run` reads them fastest."""
        return weights

    @abstractmethod
    def enter(self, x: Tensor, own: bool) -> Entered: ...

    @abstractmethod
    def run(self, weights: Weights, entered: Entered) -> Tensor: ...

    def kept_bytes(self, network: nn.Module, image: Tensor) -> int:
        """Bytes that one network keeps of one image [C, H, W] for the gradient of the image."""
        return activation_bytes(network, image.shape, image.element_size())


def geometry(module: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Stride, padding and dilation of a convolution."""
    assert not isinstance(module.padding, str)  # plan.read passes such layers on
    return module.stride, module.padding, module.dilation


class Batched(Way):
    """All members in one call a layer, as grouped convolutions and batched products, for a GPU.

    Activations are [B, M C, H, W] up to the flattening and [M, B, F] after it. A bias is added after pooling,
    to a quarter of the numbers: the largest of a window is the same entry.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.before = [s for s in steps if s.kind == "normalise"]
        self.steps = tuple(s for s in steps if s.kind != "normalise")

    def enter(self, x: Tensor, own: bool) -> Entered:
        flat = x.flatten(0, 1) if own else x
        for step in self.before:
            flat = step.module(flat)
        return Entered(flat.unflatten(0, x.shape[:2]) if own else flat, own)

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        members = count_of(weights)
        h, stacked = entered.data, entered.own
        if stacked and h.dim() == 5:  # [M, B, C, H, W] -> [B, M C, H, W]
            h = h.transpose(0, 1).flatten(1, 2)
        bias: Tensor | None = None  # of a convolution, still to be added
        for step in self.steps:
            module = step.module
            if bias is not None and step.kind != "pool":
                h, bias = h + bias, None
            if isinstance(module, nn.Conv2d):
                # The first layer sees shared images: one dense convolution serves all members.
                h = convolve(h, weights[f"{step.name}.weight"], geometry(module), stacked)
                if (found := weights.get(f"{step.name}.bias")) is not None:
                    bias = found.flatten()[:, None, None]
                stacked = True
            elif isinstance(module, nn.Linear):
                h = torch.matmul(h, weights[f"{step.name}.weight"].transpose(1, 2))
                if (found := weights.get(f"{step.name}.bias")) is not None:
                    h = h + found.unsqueeze(1)
                stacked = True
            elif step.kind == "flatten" and stacked and h.dim() == 4:
                h = h.unflatten(1, (members, -1)).transpose(0, 1).flatten(2)  # [M, B, F]
            elif isinstance(module, nn.MaxPool2d):
                h = pool(module, h)
            elif step.kind != "flatten" or h.dim() == 4:
                h = module(h)
        return h if bias is None else h + bias


class Vmap(Way):
    """`torch.func.functional_call` under `vmap`: any network without buffers, and slower."""

    concurrent = True

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._copies: dict[int, nn.Module] = {}

    def _copy(self) -> nn.Module:
        """This thread's own network: for the time of a call weights stand in it."""
        thread = threading.get_ident()
        if thread not in self._copies:
            self._copies[thread] = copy.deepcopy(self.network)
        return self._copies[thread]

    def enter(self, x: Tensor, own: bool) -> Entered:
        return Entered(x, own)

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        network = self._copy()

        def one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(network, parameters, (x,))

        return vmap(one, in_dims=(0, 0 if entered.own else None))(dict(weights), entered.data)
