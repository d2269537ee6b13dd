"""Stacked networks evaluated fast and in bounded memory: logits, losses, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.engine import parallel, steps
from bench.engine.memberloop import MemberLoop
from bench.engine.shortage import free_bytes, shortage
from bench.engine.steps import Step
from bench.engine.ways import Batched, Entered, LayerOperation, Vmap, Way, Weights
from bench.engine.work import Passes
from bench.networks import shapes

# Images a CPU walk takes at once: what the MNIST network's first layer leaves of them, 18 KiB an image,
# stays in cache. Measured on two cores: fewer leave the cores waiting between operations.
IMAGES_CPU = 100
# Members that a core takes at once: few, so that none idles for long at the end. Never by the number of cores:
# gradients are added slice by slice.
SLICE_CPU, SLICES_CPU = 8, 16
# Graphs of members are kept up to this size together on a CPU; those of further members are made again. It
# admits 614 networks x 100 MNIST images; the process grows by 3.6 times as much (measured).
GRAPH_BYTES = 300 * 2**20
# The same on a GPU, as a share of the memory that is free: the backward pass needs some too.
GRAPH_SHARE_GPU = 0.5
# Activations of one call on a GPU; a quarter of the smallest card that a reader is likely to have.
CALL_BYTES_GPU = 2 * 2**30

T = TypeVar("T")
Loss = Callable[[Tensor, Tensor], Tensor]  # logits [M, B, K], labels [B] or [M, B] -> [M]


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
        if self._way is not None:
            return self._way
        if self.steps is None:
            return Vmap(self.network)
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
        self.passes.add(_count(weights), x.shape, of_weights, graph and x.requires_grad)
        if of_weights:
            way = self.way(x.device)
            return way.run(weights, way.enter(x, False))
        if graph and x.requires_grad:
            kept = self.kept(weights, x)
            try:
                return _InputGradient.apply(self, dict(weights), x, kept)
            except RuntimeError as error:
                if kept == 0 or not shortage(error):
                    raise
            return _InputGradient.apply(self, dict(weights), x, 0)
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
        self.passes.add(_count(weights), x.shape[1:] if own else x.shape, True, x.requires_grad)
        names = list(weights)
        return _Losses.apply(self, names, x, y, loss, own, *(weights[n] for n in names))

    def single(self, weights: Weights, x: Tensor, operation: LayerOperation, products: int = 1) -> Tensor:
        """One network's logits [B, K] where layers with weights do `operation`; differentiable.

        For training that needs its own layer operation, such as local reparameterisation; a layer for
        which it returns None does what it always does. weights: by name [*shape], whatever the operation
        wants. products: of the layer's size that the operation does, for the count of operations; 2 for a
        mean and a variance. Raises ValueError for a network with layers that the walk does not know.
        """
        way, graph = MemberLoop(self.known_steps()), torch.is_grad_enabled()
        self.passes.add(1, x.shape, graph, graph and x.requires_grad, products)
        return way.walk(weights, way.enter(x, False).data, operation)

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
        return min(_count(weights), size // max(1, self.image_bytes(x[0]) * x.shape[0]))

    def _run(self, weights: Weights, x: Tensor) -> Tensor:
        """Logits in chunks: of images, and for each of them of members."""
        way = self.way(x.device)
        weights = way.prepare(weights)

        def logits(images: slice) -> Tensor:
            entered = way.enter(x[images], False)
            call = partial(_run_members, way, weights, entered)
            return torch.cat(self._each(range(_count(weights)), x[images], call))

        return torch.cat(self._each_part(x, logits), 1)

    def _images(self, x: Tensor) -> int:
        """Images of one call."""
        if x.device.type == "cpu":
            return IMAGES_CPU
        return max(1, CALL_BYTES_GPU // self.image_bytes(x[0]))

    def _each_part(self, x: Tensor, call: Callable[[slice], T]) -> list[T]:
        """The results of `call` for slices of the images, in order; memory as in `_each`."""
        return _in_order(range(len(x)), self._images(x), call)

    def _each(
        self, members: range, x: Tensor, call: Callable[[slice], T], size: int | None = None
    ) -> list[T]:
        """The results of `call` for slices of these members, in order.

        On a CPU slices run side by side, of `size` members or a few; on a GPU
        one after the other, of as many members as fit.
        """
        total, end = len(members), members.stop
        if x.device.type == "cpu":
            concurrent = self.way(x.device).concurrent
            size = size or min(SLICE_CPU, max(1, total // SLICES_CPU))
            slices = [slice(m, min(m + size, end)) for m in range(members.start, end, size)]
            return parallel.each(call, slices) if concurrent else [call(part) for part in slices]
        fit = CALL_BYTES_GPU // max(1, self.image_bytes(x[0]) * x.shape[0])
        return _in_order(members, max(1, fit), call) if total else []


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


def _run_members(way: Way, weights: Weights, entered: Entered, members: slice) -> Tensor:
    return way.run(_members(weights, members), entered)


def _graphs(members: slice, device: torch.device) -> list[slice]:
    """A slice in parts that have one graph each: single members on a CPU, where it stays in cache."""
    if device.type != "cpu":
        return [members]
    return [slice(m, m + 1) for m in range(members.start, members.stop)]


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
        entered = None if own else way.enter(x, False)
        own_labels = y.dim() > 1 and own
        ctx.of_images = ctx.needs_input_grad[2]
        gradients = [torch.empty_like(v) for v in (x, *values)[0 if ctx.of_images else 1 :]]

        def call(members: slice) -> Tensor:
            with torch.enable_grad():
                leaves = [v[members].detach().requires_grad_() for v in values]
                images = x[members].detach().requires_grad_(ctx.of_images) if own else x
                seen = way.enter(images, True) if entered is None else entered
                logits = way.run(dict(zip(names, leaves, strict=True)), seen)
                found = loss(logits, y[members] if own_labels else y)
                wanted = [images, *leaves] if ctx.of_images else leaves
                parts = torch.autograd.grad(found.sum(), wanted)
            for gradient, part in zip(gradients, parts, strict=True):
                gradient[members] = part
            return found.detach()

        losses = torch.cat(engine._each(range(_count(weights)), x[0] if own else x, call, size=1))
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [g * upstream.view(-1, *[1] * (g.dim() - 1)) for g in ctx.saved_tensors]
        of_x = scaled.pop(0) if ctx.of_images else None
        return (None, None, of_x, None, None, None, *scaled)


# Of one slice of members: for each graph the input it starts from, the logits it ends in, its members.
Graphs = list[tuple[Tensor, Tensor, slice]]


class _InputGradient(torch.autograd.Function):
    """Logits with the gradient of shared images, from one graph a member.

    Graphs of the first members are kept from the forward pass, as many as fit; those of the others are
    made again, one at a time: constant memory in M.
    """

    @staticmethod
    def forward(ctx: Any, engine: Engine, weights: Weights, x: Tensor, kept: int) -> Tensor:
        way, count = engine.way(x.device), _count(weights)
        weights = way.prepare(weights)
        ctx.engine, ctx.weights, ctx.graphs = engine, weights, {}
        ctx.save_for_backward(x)

        def logits(images: slice) -> Tensor:
            part = x[images]
            entered = way.enter(part, False)

            def graphs(members: slice) -> Graphs:
                return [_graph(way, weights, entered, one) for one in _graphs(members, x.device)]

            found = ctx.graphs[images.start] = engine._each(range(kept), part, graphs)
            run = partial(_run_members, way, weights, entered)
            others = engine._each(range(kept, count), part, run)
            return torch.cat([*(out.detach() for each in found for _, out, _ in each), *others])

        return torch.cat(engine._each_part(x, logits), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        engine, weights = ctx.engine, ctx.weights
        (x,) = ctx.saved_tensors
        way = engine.way(x.device)

        def gradient(images: slice) -> Tensor:
            part, wanted = x[images], upstream[:, images]
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                entered = way.enter(leaf, False)

            def pull(graphs: Iterable[tuple[Tensor, Tensor, slice]]) -> Tensor:
                parts = (torch.autograd.grad(out, start, wanted[m])[0] for start, out, m in graphs)
                total = next(parts)  # nobody else's: later parts may be added in place
                for each in parts:
                    total += each
                return total

            def remade(members: slice) -> Tensor:
                return pull(_graph(way, weights, entered, one) for one in _graphs(members, x.device))

            # A second backward pass, or a part of another size, finds no graphs and makes its own.
            held: list[Graphs] = ctx.graphs.pop(images.start, [])
            if held and len(held[0][0][1][0]) != len(part):
                held = []
            first = sum(m.stop - m.start for each in held for *_, m in each)
            totals = parallel.each(pull, held) + engine._each(range(first, _count(weights)), part, remade)
            return torch.autograd.grad(entered.data, leaf, sum(totals[1:], totals[0]))[0]

        gradients = engine._each_part(x, gradient)
        ctx.graphs = {}
        return None, None, torch.cat(gradients), None


def _graph(way: Way, weights: Weights, entered: Entered, members: slice) -> tuple[Tensor, Tensor, slice]:
    """A graph of its own from what has entered to these members' logits."""
    with torch.enable_grad():
        start = entered.data.detach().requires_grad_()
        return start, _run_members(way, weights, replace(entered, data=start), members), members
