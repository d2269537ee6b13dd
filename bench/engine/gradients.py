"""Gradients of stacked networks in bounded memory: of losses in weights, of logits in shared images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.engine import parallel
from bench.engine.pieces import added
from bench.engine.ways import Entered, Way, Weights, count_of, members_of

T = TypeVar("T")
Loss = Callable[[Tensor, Tensor], Tensor]  # logits [M, B, K], labels [B] or [M, B] -> [M]


class Engine(Protocol):
    """What is needed of the engine: a way, and work cut into slices of members, of images, and of both."""

    def way(self, device: torch.device) -> Way: ...

    def each_slice(self, members: range, x: Tensor, call: Callable[[slice], T]) -> list[T]: ...

    def each_part(self, members: int, x: Tensor, call: Callable[[slice], T]) -> list[T]: ...

    def each_piece(self, members: int, x: Tensor, call: Callable[[slice, slice], T]) -> list[list[T]]: ...


class Losses(torch.autograd.Function):
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
        way = engine.way(x.device)
        entered = None if own else way.enter(x, False)
        own_labels = y.dim() > 1 and own
        ctx.of_images = ctx.needs_input_grad[2]
        of_images = torch.empty_like(x) if ctx.of_images else None
        shared = x[0] if own else x

        def call(members: slice, images: slice) -> tuple[Tensor, list[Tensor]]:
            """Losses of members on a block of their images, times its share of all, and their gradients."""
            with torch.enable_grad():
                leaves = [v[members].detach().requires_grad_() for v in values]
                if entered is None:
                    block = x[members, images].detach().requires_grad_(ctx.of_images)
                    seen = way.enter(block, True)
                else:
                    block, seen = x, replace(entered, data=entered.data[images])
                logits = way.run(dict(zip(names, leaves, strict=True)), seen)
                found = loss(logits, y[members, images] if own_labels else y[images])
                if len(shared[images]) < len(shared):
                    found = found * (len(shared[images]) / len(shared))
                parts = list(torch.autograd.grad(found.sum(), [block, *leaves] if ctx.of_images else leaves))
            if of_images is not None:
                of_images[members, images] = parts.pop(0)
            return found.detach(), parts

        found = engine.each_piece(len(values[0]), shared, call)
        losses = torch.cat([added([loss for loss, _ in blocks]) for blocks in found])
        slices = (
            [added(same) for same in zip(*(parts for _, parts in blocks), strict=True)] for blocks in found
        )
        gradients = [torch.cat(parts) for parts in zip(*slices, strict=True)]
        if of_images is not None:
            gradients.insert(0, of_images)
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


class InputGradient(torch.autograd.Function):
    """Logits with the gradient of shared images, from one graph a member.

    Graphs of the first members are kept from the forward pass, as many as fit; those of the others are
    made again, one at a time: constant memory in M.
    """

    @staticmethod
    def forward(ctx: Any, engine: Engine, weights: Weights, x: Tensor, kept: int) -> Tensor:
        way, count = engine.way(x.device), count_of(weights)
        weights = way.prepare(weights)
        ctx.engine, ctx.weights, ctx.graphs = engine, weights, {}
        ctx.save_for_backward(x)

        def logits(images: slice) -> Tensor:
            part = x[images]
            entered = way.enter(part, False)

            def graphs(members: slice) -> Graphs:
                return [_graph(way, weights, entered, one) for one in _graphs(members, x.device)]

            found = ctx.graphs[images.start] = engine.each_slice(range(kept), part, graphs)
            others = engine.each_slice(
                range(kept, count), part, lambda m: way.run(members_of(weights, m), entered)
            )
            return torch.cat([*(out.detach() for each in found for _, out, _ in each), *others])

        return torch.cat(engine.each_part(count, x, logits), 1)

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
            totals = parallel.each(pull, held)
            totals += engine.each_slice(range(first, count_of(weights)), part, remade)
            return torch.autograd.grad(entered.data, leaf, added(totals))[0]

        gradients = engine.each_part(count_of(weights), x, gradient)
        ctx.graphs = {}
        return None, None, torch.cat(gradients), None


def _graph(way: Way, weights: Weights, entered: Entered, members: slice) -> tuple[Tensor, Tensor, slice]:
    """A graph of its own from what has entered to these members' logits."""
    with torch.enable_grad():
        start = entered.data.detach().requires_grad_()
        return start, way.run(members_of(weights, members), replace(entered, data=start)), members


def _graphs(members: slice, device: torch.device) -> list[slice]:
    """A slice in parts that have one graph each: single members on a CPU, where it stays in cache."""
    if device.type != "cpu":
        return [members]
    return [slice(m, m + 1) for m in range(members.start, members.stop)]
