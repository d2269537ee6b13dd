"""Convolutions of all members at once, for a GPU, each derivative by the way that was measured to be fastest.

A library is at its best with few groups of many channels; ours are many groups of few, for which it starts a
kernel each. Products with image patches, or a convolution with the kernel turned round, compute the same, and
which is faster hangs on the shape: the ways are timed when a shape is first met, and the choice is kept.

Shapes: M members, B images, h [B, C, H, W] shared by all or [B, M C, H, W] with own maps; weight
[M, O, C, kh, kw]; out [B, M O, H', W'], without bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.engine.shortage import shortage, total_bytes

# What patches or their derivatives may take of memory, also as a share of what the GPU has.
PATCH_BYTES, PATCH_SHARE = 4 * 2**30, 1 / 16
COPIES_BYTES = 2**28  # of the weights, once an image, for a product of all images and members at once
LEAST_WORK = 2e7  # multiply-adds; of less a call costs more than its kernel
GAIN = 0.9  # of the library's time that another way may take: its results are the ones that others have
RUNS = 3

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # stride, padding, dilation
Ways = Mapping[str, Callable[[], Tensor]]
LIBRARY = "library"

_chosen: dict[tuple[Any, ...], str] = {}


def convolve(h: Tensor, weight: Tensor, how: Geometry, own: bool) -> Tensor:
    """Convolutions of all members, differentiable once in maps and weights; see above for shapes."""
    return _Convolution.apply(h, weight, how, own)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, how: Geometry, own: bool) -> Tensor:
        ctx.how, ctx.own, ctx.shape = how, own, h.shape
        # Maps are read for the weights' gradient alone, which an attack does not ask for.
        ctx.save_for_backward(h if ctx.needs_input_grad[1] else None, weight)
        return fastest("forward", outputs(h, weight, how, own), (h, weight), how, own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        h, weight = ctx.saved_tensors
        how, own, upstream = ctx.how, ctx.own, upstream.contiguous()
        of_h = of_weight = None
        if ctx.needs_input_grad[0]:
            ways = map_gradients(upstream, weight, ctx.shape, how, own)
            of_h = fastest("maps", ways, (upstream, weight), how, own)
        if h is not None:
            ways = weight_gradients(upstream, h, weight.shape, how, own)
            of_weight = fastest("weights", ways, (upstream, h, weight), how, own)
        return of_h, of_weight, None, None


def pool(module: nn.MaxPool2d, h: Tensor) -> Tensor:
    """Max-pooling of maps [B, C, H, W]; where windows do not overlap, no graph keeps the maps."""
    size, stride = _pair(module.kernel_size), _pair(module.stride)
    plain = _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1) and not module.ceil_mode
    return _Pooled.apply(h, size) if size == stride and plain else module(h)


class _Pooled(torch.autograd.Function):
    """Pooling whose gradient goes to the entries that won; PyTorch's own looks for each entry's windows."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, size: tuple[int, ...]) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return fastest("pool", largest(h, size), (h,), (size, (0, 0), (1, 1)), False)
        out, winners = F.max_pool2d(h, size, return_indices=True)
        ctx.size, ctx.shape = size, h.shape
        ctx.save_for_backward(winners)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (winners,) = ctx.saved_tensors
        return F.max_unpool2d(upstream, winners, ctx.size, output_size=ctx.shape[2:]), None


def largest(h: Tensor, size: tuple[int, ...]) -> Ways:
    """Ways to the largest entry of each window; the library's writes its position too, in 64 bits."""
    ways: dict[str, Callable[[], Tensor]] = {LIBRARY: lambda: F.max_pool2d(h, size)}
    high, wide = (n // s for n, s in zip(h.shape[2:], size, strict=True))
    if h.device.type == "cuda" and h.numel() >= LEAST_WORK:
        whole = h[..., : high * size[0], : wide * size[1]]
        windows = whole.unflatten(-1, (wide, size[1])).unflatten(-3, (high, size[0]))
        ways["reduction"] = lambda: windows.amax((-3, -1))
    return ways


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def fastest(kind: str, ways: Ways, tensors: tuple[Tensor, ...], how: Geometry, own: bool) -> Tensor:
    """The result of the way that was fastest on these shapes; measured where they are new, on a GPU."""
    if len(ways) == 1 or tensors[0].device.type != "cuda":
        return ways[LIBRARY]()
    precise = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    key = (kind, how, own, precise, *((t.shape, t.dtype, t.device) for t in tensors))
    if key not in _chosen:
        if torch.cuda.is_current_stream_capturing():
            return ways[LIBRARY]()  # nothing can be timed now
        _chosen[key] = choose(ways)
    return ways[_chosen[key]]()


def choose(ways: Ways) -> str:
    """The name of the way that takes the least time; the library's, where it is nearly as fast."""
    taken = {name: milliseconds(call) for name, call in ways.items()}
    best = min(taken, key=lambda name: taken[name])
    return best if taken[best] < GAIN * taken[LIBRARY] else LIBRARY


def milliseconds(call: Callable[[], Tensor]) -> float:
    """Least time of a few calls on a GPU, after one to warm up; infinite where there is no room for it."""
    try:
        call()
        found = []
        for _ in range(RUNS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end))
        return min(found)
    except RuntimeError as error:
        if not shortage(error):
            raise
        return float("inf")


def outputs(h: Tensor, weight: Tensor, how: Geometry, own: bool) -> Ways:
    """Ways to the convolutions themselves. Shared images have patches once for all members."""
    flat, groups = weight.flatten(0, 1), len(weight) if own else 1
    ways: dict[str, Callable[[], Tensor]] = {LIBRARY: lambda: F.conv2d(h, flat, None, *how, groups)}
    side = _side(h.shape, weight.shape, how)
    if own and len(h) * weight.numel() * weight.element_size() > COPIES_BYTES:
        return ways
    if not _worth(len(h), weight.shape, side, how, h, patches_of=groups):
        return ways

    def product() -> Tensor:
        right = patches(h, weight.shape, how).flatten(2, 4).flatten(3).flatten(0, 1)
        left = (weight if own else flat).flatten(-3)
        left = left.expand(len(h), *left.shape)
        return torch.bmm(left.flatten(0, 1) if own else left, right).view(len(h), -1, *side)

    ways["patches"] = product
    return ways


def map_gradients(upstream: Tensor, weight: Tensor, shape: torch.Size, how: Geometry, own: bool) -> Ways:
    """Ways to the gradient of h, of this shape."""
    members, (height, width) = len(weight), weight.shape[3:]
    (stride, padding, dilation), groups = how, members if own else 1

    def library() -> Tensor:
        like = upstream.new_empty(shape)  # of which only the shape is read
        return _library(upstream, like, weight, how, groups, [True, False, False])[0]

    ways: dict[str, Callable[[], Tensor]] = {LIBRARY: library}
    if not _worth(len(upstream), weight.shape, upstream.shape[2:], how, upstream, patches_of=groups):
        return ways

    def turned() -> Tensor:
        kernel = weight.flip(-1, -2)  # [M, O, C, kh, kw]
        kernel = kernel.transpose(1, 2).flatten(0, 1) if own else kernel.flatten(0, 1).transpose(0, 1)
        around = (height - 1 - padding[0], width - 1 - padding[1])
        return F.conv2d(upstream, kernel, None, 1, around, 1, groups)

    def folded() -> Tensor:
        left = weight.flatten(0, 1).flatten(1).t()
        columns = torch.bmm(left.expand(len(upstream), *left.shape), upstream.flatten(2))  # [B, C kh kw, L]
        return F.fold(columns, tuple(shape[2:]), (height, width), dilation, padding, stride)

    if stride == (1, 1) and padding[0] < height and padding[1] < width:
        ways["turned kernel"] = turned
    if not own:
        ways["folded patches"] = folded
    return ways


def weight_gradients(upstream: Tensor, h: Tensor, shape: torch.Size, how: Geometry, own: bool) -> Ways:
    """Ways to the gradient of weights of this shape."""
    groups = shape[0] if own else 1

    def library() -> Tensor:
        like = upstream.new_empty(shape)
        return _library(upstream, h, like, how, groups, [False, True, False])[1].view(shape)

    ways: dict[str, Callable[[], Tensor]] = {LIBRARY: library}
    if not _worth(len(h), shape, upstream.shape[2:], how, h, patches_of=groups):
        return ways

    def by_image() -> Tensor:
        right = patches(h, shape, how).flatten(2, 4).flatten(3).transpose(2, 3)  # [B, 1 or M, L, C kh kw]
        left = upstream.unflatten(1, (right.shape[1], -1)).flatten(3)  # [B, 1 or M, O, L]
        each = torch.bmm(left.flatten(0, 1), right.flatten(0, 1))
        return each.unflatten(0, right.shape[:2]).sum(0).view(shape)

    ways["patches, image by image"] = by_image
    return ways


def patches(h: Tensor, weight: torch.Size, how: Geometry) -> Tensor:
    """A view of what each output reads: [B, 1 or M, C, kh, kw, H', W']; without dilation.

    Not `F.unfold`, which starts a kernel for every image.
    """
    (stride, padding, _), (channels, height, width) = how, weight[2:]
    if any(padding):
        h = F.pad(h, (padding[1], padding[1], padding[0], padding[0]))
    found = h.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # [B, C or M C, H', W', kh, kw]
    return found.unflatten(1, (-1, channels)).permute(0, 1, 2, 5, 6, 3, 4)


def _library(
    upstream: Tensor, h: Tensor, weight: Tensor, how: Geometry, groups: int, wanted: list[bool]
) -> tuple[Tensor, ...]:
    stride, padding, dilation = how
    return torch.ops.aten.convolution_backward(
        upstream, h, weight.flatten(0, 1), None, stride, padding, dilation, False, [0, 0], groups, wanted
    )


def _side(h: torch.Size, weight: torch.Size, how: Geometry) -> tuple[int, ...]:
    """Height and width of the output."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(h[2:], weight[3:], *how, strict=True)
    )


def _worth(
    images: int, weight: torch.Size, side: tuple[int, ...], how: Geometry, like: Tensor, patches_of: int
) -> bool:
    """Whether ways beside the library's are worth measuring: enough work, no dilation, room for patches.

    patches_of: members that have patches of their own, or 1 for shared ones.
    """
    if like.device.type != "cuda" or how[2] != (1, 1):
        return False
    # weight: [M, O, C, kh, kw]
    reads = images * side[0] * side[1] * weight[2:].numel()
    size = reads * patches_of * like.element_size()
    room = min(PATCH_BYTES, PATCH_SHARE * total_bytes(like.device))
    return reads * weight[:2].numel() >= LEAST_WORK and size <= room
