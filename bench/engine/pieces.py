"""How a CPU's work is cut into pieces, by the work alone, and how gradients of pieces are added.

A piece is one member, or some, on a block of images. It is large enough that a thread is worth waking for
it, and where few members make few pieces, images are split too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.engine import parallel

# Pieces that work is cut into where it can be: what keeps eight cores busy, and two or four evenly.
PIECES = 8
# What a block keeps at least of its images for a backward pass: 50 images of MNIST. A step in two blocks
# costs a core 8 % more than in one, in four 24 % (SGLD, measured).
LEAST_BLOCK = 250_000
# The same of a slice of members: 25 images of MNIST. Smaller ones gain little, and on a busy machine threads
# wait for each other: beside four busy loops a run took 3.9 times as long as idle, with this 3.0 (measured).
LEAST_SLICE = 128_000
# Members of a slice at most, where only logits are asked for: of 1,000 networks every core then has dozens.
LARGEST_SLICE = 8

S = TypeVar("S")
# A loss, and numbers to report beside it.
Found = tuple[Tensor, Sequence[Tensor]]


def image_blocks(members: int, images: int, image_bytes: int) -> list[slice]:
    """Even blocks of the images that each of so many members is given: one where members suffice.

    image_bytes: what one network keeps of one image.
    """
    most = max(1, images * image_bytes // LEAST_BLOCK)
    count = 1
    while count * members < PIECES and 2 * count <= most:  # of a power of two cores have equal shares
        count *= 2
    return parallel.blocks(images, max(1, -(-images // count)))


def member_slices(members: range, images: int, image_bytes: int, largest: int = 1) -> list[slice]:
    """Slices of these members, each with a piece's work; `largest` where single ones have that already."""
    least = -(-LEAST_SLICE // max(1, images * image_bytes))
    size = max(1, least, min(largest, len(members) // (2 * PIECES)))
    return [slice(m, min(m + size, members.stop)) for m in range(members.start, members.stop, size)]


def summed(
    call: Callable[[S], Found], pieces: Sequence[S], parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The sum over pieces of a loss, differentiable in the parameters, and of the numbers reported beside it.

    `call` computes a piece's loss, a scalar, from the parameters, and from nothing else that needs a gradient
    or that another piece changes, such as a generator of random numbers. On a CPU pieces run side by side,
    each one's gradient right after its loss; they are added in the pieces' order. A single piece, and pieces
    on a GPU, are one graph.
    """
    if len(pieces) == 1 or parameters[0].device.type != "cpu" or not torch.is_grad_enabled():
        losses, reported = zip(*(call(piece) for piece in pieces), strict=True)
        return added(losses), _each_added(reported)
    reports: list[Sequence[Tensor]] = []
    return _Summed.apply(call, pieces, reports, *parameters), _each_added(reports)


class _Summed(torch.autograd.Function):
    """Losses of pieces, with their gradients computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Callable[[S], Found],
        pieces: Sequence[S],
        reports: list[Sequence[Tensor]],
        *parameters: Tensor,
    ) -> Tensor:
        def whole(piece: S) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor | None]]:
            with torch.enable_grad():
                loss, reported = call(piece)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            return loss.detach(), [r.detach() for r in reported], gradients

        losses, reported, gradients = zip(*parallel.each(whole, pieces), strict=True)
        reports += reported
        there = ([part for part in parts if part is not None] for parts in zip(*gradients, strict=True))
        ctx.save_for_backward(*(added(parts) if parts else None for parts in there))
        return added(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(None if g is None else g * upstream for g in ctx.saved_tensors))


def _each_added(reports: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [added(same) for same in zip(*reports, strict=True)]


def added(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, in their order."""
    return sum(parts[1:], parts[0])
