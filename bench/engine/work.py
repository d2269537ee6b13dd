"""What work costs: wall seconds, CPU seconds of all threads, and floating-point operations, by counting.

Counted are the products in layers with weights, 2 operations a multiply-add: once forward, once for the
gradient of the weights, once for that of the inputs, where a graph for them is made. The networks of an
`Engine` are counted by their shapes, whatever operations do the work, and so are the layers of modules that
are watched. The count is therefore the same on every device and for any number of threads; graphs that are
made again to save memory, and ways that are timed, add nothing.

Not counted: activations, pooling, normalisation, losses, optimisers, random numbers, and products outside
such layers but for those by `product`. Nor is the gradient of a gradient.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

_lock = threading.RLock()
_counted = 0


@dataclass(frozen=True)
class Cost:
    """seconds: wall time. cpu_seconds: of all threads of this process. flop: floating-point operations."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    flop: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds, self.flop + other.flop
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds - other.seconds, self.cpu_seconds - other.cpu_seconds, self.flop - other.flop
        )


def spent() -> Cost:
    """What this process has spent so far; differences of two calls are costs of what lies between."""
    return Cost(time.perf_counter(), time.process_time(), counted())


def counted() -> int:
    """Floating-point operations counted so far in this process, by all threads."""
    return _counted


def add(flop: int) -> None:
    """Count operations."""
    global _counted
    with _lock:
        _counted += flop


def multiply_adds(network: nn.Module, image: Sequence[int]) -> tuple[int, ...]:
    """Multiply-adds of one image's forward pass, by layer in order of their calls.

    network: without buffers; nothing is computed, its weights are not read.
    """
    found: list[int] = []

    def note(module: nn.Module, _: Any, out: Tensor) -> None:
        found.append(_products(module, out))

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, LAYERS)]
    try:
        weights = {n: torch.empty(p.shape, device="meta") for n, p in network.named_parameters()}
        functional_call(network, weights, (torch.empty((1, *image), device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


class Passes:
    """Counts the passes of networks of one shape."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._layers: dict[tuple[int, ...], tuple[int, ...]] = {}  # by shape of an image

    def add(
        self, networks: int, images: Sequence[int], of_weights: bool, of_images: bool, products: int = 1
    ) -> None:
        """Count a pass of some networks on images of this shape, [B, ...], and of gradients.

        of_weights, of_images: which gradients it is made for. products: that layers do, each of the usual
        size.
        """
        count, *image = images
        with _lock:
            layers = self._layers.get(tuple(image))
            if layers is None:
                layers = self._layers[tuple(image)] = multiply_adds(self.network, image)
        forward = sum(layers)
        passes = forward * (1 + of_weights)
        if of_images:
            passes += forward
        elif of_weights:
            passes += sum(layers[1:])  # nobody asks for the gradient of what the first layer reads
        add(2 * products * networks * count * passes)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b, for a [N, K] and b [K, D], counted with the gradients that it is made for."""
    graph = torch.is_grad_enabled()
    passes = 1 + (graph and a.requires_grad) + (graph and b.requires_grad)
    add(2 * passes * len(a) * b.numel())
    return a @ b


def watch(part: nn.Module) -> None:
    """Count what a module's convolutions and linear layers do, whenever they are called."""
    for module in part.modules():
        if isinstance(module, LAYERS) and _called not in module._forward_hooks.values():
            module.register_forward_hook(_called)


def _called(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
    if out.is_meta:  # shapes alone
        return
    passes = 1
    if torch.is_grad_enabled():
        weight = module._parameters.get("weight")  # none where it is computed from others that train
        passes += weight is None or weight.requires_grad
        passes += bool(given) and given[0].requires_grad
    add(2 * passes * _products(module, out))


def _products(module: nn.Module, out: Tensor) -> int:
    """Multiply-adds of a layer's output: for each of its numbers, those of an input that it reads."""
    if isinstance(module, nn.Linear):
        return out.numel() * module.in_features
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return out.numel() * module.in_channels // module.groups * prod(module.kernel_size)
