"""Stacked networks evaluated fast and in bounded memory: logits, losses, gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.engine import plan
from bench.engine.ways import Batched, Entered, LayerOperation, MemberLoop, Vmap, Way, Weights
from bench.networks import shapes

# Images a CPU walk takes at once without gradients: the first layer's output of the MNIST network,
# 72 KiB an image, then stays in a few MiB of cache. Measured on two cores: 50 beat 25 and 32 by a tenth.
IMAGES_CPU = 50
# The same with a graph, where 50 beat 25 by a sixth.
IMAGES_CPU_GRADIENT = 50
# A graph over all members is kept up to this size, recomputed member by member beyond it. It admits
# 100 networks x 100 MNIST images (1.33 GiB).
GRAPH_BYTES = 3 * 2**29
# Activations of one call on a GPU; a quarter of the smallest card that a reader is likely to have.
CALL_BYTES_GPU = 2 * 2**30

T = TypeVar("T")
Loss = Callable[[Tensor, Tensor], Tensor]  # logits [M, B, K], labels [B] or [M, B] -> [M]


class Engine:
    """Evaluates M networks of one shape on B images, with or without gradients.

    network: the target network, without buffers; its own weights are not used.
    way: how; chosen by device where None. graph_bytes: the largest graph kept for input gradients.
    """

    def __init__(self, network: nn.Module, way: Way | None = None, graph_bytes: int = GRAPH_BYTES) -> None:
        self.network = network
        self.shapes = shapes(network)
        self.steps = plan.read(network)
        self.graph_bytes = graph_bytes
        self._way = way
        self._bytes: dict[tuple[torch.Size, int], int] = {}
        self._members_gpu: int | None = None  # lowered when a call ran out of memory

    def way(self, device: torch.device) -> Way:
        """The way for this device: member by member on a CPU, all at once on a GPU."""
        if self._way is not None:
            return self._way
        if self.steps is None:
            return Vmap(self.network)
        return MemberLoop(self.steps) if device.type == "cpu" else Batched(self.steps)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits [M, B, K] of every member on shared images x [B, ...].

        Differentiable in x in bounded memory: where the graph of all members would exceed
        `graph_bytes`, the backward pass recomputes it member by member. Differentiable in the
        weights through one graph; `losses` is the bounded way to train.
        """
        self.check(weights, x)
        if torch.is_grad_enabled() and any(w.requires_grad for w in weights.values()):
            return self._run(weights, x, x.shape[0])
        if torch.is_grad_enabled() and x.requires_grad:
            if self.fits(weights, x):
                return self._run(weights, x, IMAGES_CPU_GRADIENT)
            return _Recomputed.apply(self, dict(weights), x)
        with torch.no_grad():
            return self._run(weights, x, IMAGES_CPU)

    def losses(self, weights: Weights, x: Tensor, y: Tensor, loss: Loss, own: bool = False) -> Tensor:
        """Loss [M] of every member, differentiable in the weights, in memory of one call.

        x: [B, ...] shared, or [M, B, ...] where own; y: [B] or [M, B]. Members are independent, so
        each one's gradient is computed right after its forward pass, while its activations are in
        cache; the backward pass only scales what is stored.
        """
        self.check(weights, x[0] if own else x)
        names = list(weights)
        return _Losses.apply(self, names, x, y, loss, own, *(weights[n] for n in names))

    def single(self, weights: Weights, x: Tensor, operation: LayerOperation) -> Tensor:
        """One network's logits [B, K] where layers with weights do `operation`; differentiable.

        For training that needs its own layer operation, such as local reparameterisation.
        weights: by name [*shape], whatever the operation wants. Raises ValueError for a network
        with layers that the walk does not know.
        """
        if self.steps is None:
            raise ValueError(
                "expected a Sequential of convolution, linear, (leaky) ReLU, max-pool and flatten "
                f"layers, found {type(self.network).__name__}; write the network with those"
            )
        loop = MemberLoop([s for s in self.steps if s.kind != "normalise"])
        for step in self.steps:
            if step.kind == "normalise":
                x = step.module(x)
        return loop.walk(weights, x, operation=operation)

    def check(self, weights: Weights, x: Tensor) -> None:
        """Raises ValueError, naming the layer, where weights or images do not fit the network."""
        strange = sorted(set(weights) ^ set(self.shapes))
        if strange:
            raise ValueError(f"expected weights named {list(self.shapes)}, found another set: {strange}")
        members = _count(weights)
        for name, shape in self.shapes.items():
            found = weights[name]
            if found.shape != (members, *shape):
                raise ValueError(f"{name}: expected {[members, *shape]}, found {list(found.shape)}")
            if found.device != x.device:
                raise ValueError(
                    f"{name}: expected weights on {x.device} as the images, found {found.device}"
                )
        if self.steps is not None:
            self._check_images(x)

    def _check_images(self, x: Tensor) -> None:
        assert self.steps is not None
        first = next((s for s in self.steps if s.has_weights), None)
        if first is None:
            return
        if isinstance(first.module, nn.Conv2d):
            channels, fits = first.module.in_channels, x.dim() == 4
            if not fits or x.shape[1] != channels:
                raise ValueError(
                    f"{first.name}: expected images [B, {channels}, H, W], found {list(x.shape)}"
                )
        elif isinstance(first.module, nn.Linear) and x[0].numel() != first.module.in_features:
            raise ValueError(
                f"{first.name}: expected inputs of {first.module.in_features} numbers, found {list(x.shape)}"
            )

    def image_bytes(self, image: Tensor) -> int:
        """Bytes that one network keeps for the backward pass of one image."""
        key = (image.shape, image.element_size())
        if key not in self._bytes:
            self._bytes[key] = plan.activation_bytes(self.network, *key)
        return self._bytes[key]

    def fits(self, weights: Weights, x: Tensor) -> bool:
        """Whether one graph over all members on these images stays within `graph_bytes`."""
        return self.image_bytes(x[0]) * x.shape[0] * _count(weights) <= self.graph_bytes

    def _run(self, weights: Weights, x: Tensor, images: int) -> Tensor:
        """Logits in chunks: of images, and for each of them of members."""
        parts = []
        way = self.way(x.device)
        weights = way.prepare(weights)
        for part in x.split(self._images(x, images)):
            entered = way.enter(part, False)
            parts.append(torch.cat(self._each(weights, part, partial(_run_members, way, weights, entered))))
        return torch.cat(parts, 1)

    def _images(self, x: Tensor, on_cpu: int) -> int:
        """Images of one call."""
        if x.device.type == "cpu":
            return on_cpu
        return max(1, CALL_BYTES_GPU // self.image_bytes(x[0]))

    def _each(
        self, weights: Weights, x: Tensor, call: Callable[[slice], T], size: int | None = None
    ) -> list[T]:
        """The results of `call` for slices of members, of `size` or as many as fit on a GPU.

        A call that runs out of a GPU's memory is repeated with half as many members.
        """
        total = _count(weights)
        if x.device.type != "cpu":
            fit = CALL_BYTES_GPU // max(1, self.image_bytes(x[0]) * x.shape[0])
            size = max(1, min(total, fit, self._members_gpu or total))
        results: list[T] = []
        start, size = 0, size or total
        while start < total:
            try:
                results.append(call(slice(start, min(start + size, total))))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size = self._members_gpu = size // 2
                continue
            start += size
        return results


def _run_members(way: Way, weights: Weights, entered: Entered, members: slice) -> Tensor:
    return way.run(_members(weights, members), entered)


def _count(weights: Weights) -> int:
    return next(iter(weights.values())).shape[0]


def _members(weights: Weights, members: slice) -> dict[str, Tensor]:
    return {name: w[members] for name, w in weights.items()}


class _Losses(torch.autograd.Function):
    """Losses of the members with their gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        engine: Engine,
        names: list[str],
        x: Tensor,
        y: Tensor,
        loss: Loss,
        own: bool,
        *values: Tensor,
    ) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        way = engine.way(x.device)
        # Own images enter member by member, so that what entering makes of them is still in cache.
        entered = None if own else way.enter(x, False)
        own_labels = y.dim() > 1 and own
        gradients = [torch.empty_like(v) for v in values]

        def call(members: slice) -> Tensor:
            with torch.enable_grad():
                leaves = [v[members].detach().requires_grad_() for v in values]
                seen = way.enter(x[members], True) if entered is None else entered
                logits = way.run(dict(zip(names, leaves, strict=True)), seen)
                found = loss(logits, y[members] if own_labels else y)
                parts = torch.autograd.grad(found.sum(), leaves)
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[members] = part
            return found.detach()

        losses = torch.cat(engine._each(weights, x[0] if own else x, call, size=1))
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (g * upstream.view(-1, *[1] * (g.dim() - 1)) for g in ctx.saved_tensors)
        return (None, None, None, None, None, None, *scaled)


class _Recomputed(torch.autograd.Function):
    """Logits whose input gradient is recomputed member by member: constant memory in M."""

    @staticmethod
    def forward(ctx: Any, engine: Engine, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        ctx.engine, ctx.weights = engine, weights
        ctx.save_for_backward(x)
        return engine._run(weights, x, IMAGES_CPU)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        engine, weights = ctx.engine, ctx.weights
        (x,) = ctx.saved_tensors
        way = engine.way(x.device)
        weights = way.prepare(weights)
        size = engine._images(x, IMAGES_CPU_GRADIENT)
        gradients = []
        for part, wanted in zip(x.split(size), upstream.split(size, 1), strict=True):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                entered = way.enter(leaf, False)
                shared = replace(entered, data=entered.data.detach().requires_grad_())
            total = torch.zeros_like(shared.data)

            def call(members: slice, shared=shared, wanted=wanted, total=total) -> None:
                with torch.enable_grad():
                    logits = _run_members(way, weights, shared, members)
                total.add_(torch.autograd.grad(logits, shared.data, wanted[members])[0])

            engine._each(weights, part, call, size=1)
            gradients.append(torch.autograd.grad(entered.data, leaf, total)[0])
        return None, None, torch.cat(gradients)
