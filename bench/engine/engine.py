"""Stacked networks evaluated fast and in bounded memory: logits, losses, gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.engine import parallel, steps
from bench.engine.gradients import InputGradient, Loss, Losses
from bench.engine.memberloop import MemberLoop
from bench.engine.pieces import LARGEST_SLICE, PIECES, image_blocks, member_slices
from bench.engine.shortage import free_bytes, shortage
from bench.engine.steps import Step
from bench.engine.ways import (
    Batched,
    InputOperation,
    LayerOperation,
    Vmap,
    Way,
    Weights,
    count_of,
    members_of,
)
from bench.engine.work import Passes
from bench.networks import shapes

# Images a CPU walk takes at once: what the MNIST network's first layer leaves of them, 18 KiB an image,
# stays in cache. Measured: fewer spend more of their time on calls.
IMAGES_CPU = 100
# Graphs of members are kept up to this size together on a CPU; those of further members are made again. It
# admits 614 networks x 100 MNIST images; the process grows by 3.6 times as much (measured).
GRAPH_BYTES = 300 * 2**20
# The same on a GPU, as a share of the memory that is free: the backward pass needs some too.
GRAPH_SHARE_GPU = 0.5
# Activations of one call on a GPU; a quarter of the smallest card that a reader is likely to have.
CALL_BYTES_GPU = 2 * 2**30

T = TypeVar("T")


class Engine:
    """Evaluates M networks of one shape on B images, with or without gradients.

    network: the target network, without buffers; its own weights are not used.
    way: how; chosen by device where None. graph_bytes: the largest graph kept for input gradients; where
    None, `GRAPH_BYTES` on a CPU and half of the free memory on a GPU.
    """

    def __init__(self, network: nn.Module, way: Way | None = None, graph_bytes: int | None = None) -> None:
        self.network = network
        self.shapes = shapes(network)
        self.steps = steps.read(network)
        self.passes = Passes(network)
        self.graph_bytes = graph_bytes
        self._way = way
        self._bytes: dict[tuple[torch.Size, torch.dtype, str], int] = {}

    def way(self, device: torch.device) -> Way:
        """The way for this device: member by member on a CPU, all at once on a GPU."""
        if self._way is None and self.steps is None:
            self._way = Vmap(self.network)
        if self._way is not None:
            return self._way
        assert self.steps is not None
        return MemberLoop(self.steps) if device.type == "cpu" else Batched(self.steps)

    def logits(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits [M, B, K] of every member on shared images x [B, ...].

        Differentiable in x in bounded memory: the backward pass recomputes, one by one, the graphs of
        members beyond those whose graphs fit `graph_bytes`. Differentiable in the weights through one
        graph; `losses` is the bounded way to train.
        """
        self.check(weights, x)
        graph = torch.is_grad_enabled()
        of_weights = graph and any(w.requires_grad for w in weights.values())
        self.passes.add(count_of(weights), x.shape, of_weights, graph and x.requires_grad)
        if of_weights:
            way = self.way(x.device)
            return way.run(weights, way.enter(x, False))
        if graph and x.requires_grad:
            kept = self.kept(weights, x)
            try:
                return InputGradient.apply(self, dict(weights), x, kept)
            except RuntimeError as error:
                if kept == 0 or not shortage(error):
                    raise
            return InputGradient.apply(self, dict(weights), x, 0)
        with torch.no_grad():
            return self._run(weights, x)

    def losses(self, weights: Weights, x: Tensor, y: Tensor, loss: Loss, own: bool = False) -> Tensor:
        """Loss [M] of every member, differentiable in the weights, in memory of one call.

        x: [B, ...] shared, or [M, B, ...] where own; y: [B] or [M, B]. Own images that require a gradient
        get theirs from the same pass. Members are independent, so each one's gradient is computed right
        after its forward pass, while its activations are in cache; the backward pass only scales what is
        stored. Raises ValueError for shared images that require a gradient: `logits` has it.
        """
        if x.requires_grad and not own:
            raise ValueError("expected own images [M, B, ...] for a gradient, found shared ones; use logits")
        self.check(weights, x[0] if own else x)
        self.passes.add(count_of(weights), x.shape[1:] if own else x.shape, True, x.requires_grad)
        names = list(weights)
        return Losses.apply(self, names, x, y, loss, own, *(weights[n] for n in names))

    def single(
        self,
        weights: Weights,
        x: Tensor,
        operation: LayerOperation | None = None,
        before: InputOperation | None = None,
        products: int = 1,
    ) -> Tensor:
        """One network's logits [B, K] where layers with weights do `operation`; differentiable.

        For training that needs its own layer operation, such as local reparameterisation; where it returns
        None, and without it, a layer does what it always does. before: what a layer with weights is given
        instead of its input, such as a masked one. weights: by name [*shape], whatever the operation wants.
        products: of the layer's size that the operation does, for the count of operations; 2 for a mean and a
        variance. Raises ValueError for a network with layers that the walk does not know.
        """
        graph = torch.is_grad_enabled()
        self.passes.add(1, x.shape, graph, graph and x.requires_grad, products)
        return self.walk(weights, x, operation, before)

    def walk(
        self, weights: Weights, x: Tensor, operation: LayerOperation | None, before: InputOperation | None
    ) -> Tensor:
        """What `single` does, without counting it."""
        way = MemberLoop(self.known_steps())
        return way.walk(weights, way.enter(x, False).data, operation, before)

    def known_steps(self) -> tuple[Step, ...]:
        """The network's layers in the order of the walk; ValueError where it holds one that is not known."""
        if self.steps is None:
            raise ValueError(
                "expected a Sequential of convolution, linear, (leaky) ReLU, max-pool and flatten "
                f"layers, found {type(self.network).__name__}; write the network with those"
            )
        return self.steps

    def check(self, weights: Weights, x: Tensor) -> None:
        """Raises ValueError, naming the layer, where weights or images do not fit the network."""
        strange = sorted(set(weights) ^ set(self.shapes))
        if strange:
            raise ValueError(f"expected weights named {list(self.shapes)}, found another set: {strange}")
        members = count_of(weights)
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
        """Bytes that one network keeps for the backward pass to one image [C, H, W]."""
        key = (image.shape, image.dtype, image.device.type)
        if key not in self._bytes:
            self._bytes[key] = self.way(image.device).kept_bytes(self.network, image)
        return self._bytes[key]

    def kept(self, weights: Weights, x: Tensor) -> int:
        """Members whose graphs on these images stay within `graph_bytes` together."""
        size = self.graph_bytes
        if size is None:
            on_cpu = x.device.type == "cpu"
            size = GRAPH_BYTES if on_cpu else int(GRAPH_SHARE_GPU * free_bytes(x.device))
        return min(count_of(weights), size // max(1, self.image_bytes(x[0]) * x.shape[0]))

    def _run(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits in chunks: of images, and for each of them of members."""
        way = self.way(x.device)
        weights = way.prepare(weights)

        def logits(images: slice) -> Tensor:
            entered = way.enter(x[images], False)
            members = range(count_of(weights))
            parts = self.each_slice(members, x[images], lambda m: way.run(members_of(weights, m), entered))
            return torch.cat(parts)

        return torch.cat(self.each_part(count_of(weights), x, logits), 1)

    def each_part(self, members: int, x: Tensor, call: Callable[[slice], T]) -> list[T]:
        """The results of `call` for slices of the images, in order.

        On a CPU one after the other, since members run side by side; or at once, where members are too few.
        On a GPU as many as fit, as in `each_slice`.
        """
        if x.device.type != "cpu":
            return _in_order(range(len(x)), max(1, CALL_BYTES_GPU // self.image_bytes(x[0])), call)
        parts = [
            slice(start + part.start, start + part.stop)
            for start in range(0, max(1, len(x)), IMAGES_CPU)
            for part in self.blocks(x[start : start + IMAGES_CPU], members)
        ]
        return self._at_once(call, parts) if members < PIECES else [call(part) for part in parts]

    def blocks(self, x: Tensor, members: int = 1) -> list[slice]:
        """Even blocks of images [B, ...] for pieces of a step of so many networks; all images on a GPU.

        On a CPU they follow from the work alone: few networks on many images give several blocks.
        """
        if x.device.type != "cpu" or not (len(x) and self.way(x.device).concurrent):
            return [slice(0, len(x))]
        return image_blocks(members, len(x), self.image_bytes(x[0]))

    def each_slice(
        self, members: range, x: Tensor, call: Callable[[slice], T], largest: int = LARGEST_SLICE
    ) -> list[T]:
        """The results of `call` for slices of these members, in order.

        On a CPU slices run side by side, of `largest` members at most unless these have little to do; on a
        GPU one after the other, of as many members as fit.
        """
        size = self.image_bytes(x[0]) if len(x) else 1
        if x.device.type == "cpu":
            return self._at_once(call, member_slices(members, len(x), size, largest))
        fit = CALL_BYTES_GPU // max(1, size * x.shape[0])
        return _in_order(members, max(1, fit), call) if members else []

    def each_piece(self, members: int, x: Tensor, call: Callable[[slice, slice], T]) -> list[list[T]]:
        """The results of `call` for slices of members, and of each for blocks of its images x [B, ...].

        As in `each_slice`; on a CPU images are split where members are too few.
        """
        blocks = self.blocks(x, members)
        if len(blocks) == 1:
            found = self.each_slice(range(members), x, lambda part: call(part, blocks[0]), 1)
            return [[one] for one in found]
        pieces = [(slice(m, m + 1), images) for m in range(members) for images in blocks]
        each = parallel.each(lambda piece: call(*piece), pieces)
        return [each[i : i + len(blocks)] for i in range(0, len(each), len(blocks))]

    def _at_once(self, call: Callable[[slice], T], parts: Sequence[slice]) -> list[T]:
        """The results of `call` for slices on a CPU, side by side where the way allows that."""
        if not self.way(torch.device("cpu")).concurrent:
            return [call(part) for part in parts]
        return parallel.each(call, parts)


def _in_order(items: range, size: int, call: Callable[[slice], T]) -> list[T]:
    """The results of `call` for slices of `size`, one after the other; at least one slice.

    A call that runs out of a GPU's memory is repeated with half the items, and so are those that follow;
    the next time around everything is tried whole again. One of a single item raises its error.
    """
    results: list[T] = []
    start, size = items.start, min(size, max(1, len(items)))
    while start < items.stop or not results:
        try:
            results.append(call(slice(start, min(start + size, items.stop))))
        except RuntimeError as error:
            if size == 1 or not shortage(error):
                raise
            size //= 2
        else:
            start += size
    return results
