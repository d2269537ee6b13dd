"""Layers that a CPU computes best in one pass over memory, compiled from `kernels.cpp` at installation.

Where no compiler was at hand there is no library, `convolves` and `pools` say no, and PyTorch's own
operations do the same, slower.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TYPES = {torch.float32: "float32", torch.float64: "float64"}
# What `kernels.cpp` is compiled for: sides of the kernel, channels of the images, and channels of the
# output in two vectors of eight numbers.
_SIDES, _CHANNELS, _OUTPUTS = ((3, 3), (5, 5)), (1, 3), 16


class _Shape(ctypes.Structure):
    """Of the images: [batch, channels, height, width]; `outputs` of the layer."""

    _fields_ = [(name, ctypes.c_long) for name in ("batch", "channels", "height", "width", "outputs")]


# Arguments of each function after the shape: p a pointer, d a double, l a long.
_FUNCTIONS = {
    "conv_forward": "lpppdpp",
    "conv_backward_weight": "lpdpppp",
    "conv_backward_images": "lpdppp",
    "pool_forward": "pdpp",
    "pool_backward": "dppp",
}
_ARGUMENTS = {"p": ctypes.c_void_p, "d": ctypes.c_double, "l": ctypes.c_long}


@cache
def _functions() -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """The library's functions by name and type; none where it was not built."""
    folder = Path(__file__).parent
    paths = (folder / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES)
    path = next((p for p in paths if p.exists()), None)
    if path is None:
        return {}
    library, found = ctypes.CDLL(str(path)), {}
    for name, arguments in _FUNCTIONS.items():
        for dtype, suffix in _TYPES.items():
            function = getattr(library, f"{name}_{suffix}")
            function.argtypes, function.restype = [_Shape, *(_ARGUMENTS[a] for a in arguments)], None
            found[name, dtype] = function
    return found


def compiled() -> bool:
    """Whether the library was built when this package was installed."""
    return bool(_functions())


def _known(h: Tensor) -> bool:
    return h.device.type == "cpu" and h.dtype in _TYPES and compiled()


def convolves(module: nn.Conv2d, h: Tensor) -> bool:
    """Whether `pooled_convolution` does this layer on h [B, C, H, W]: few channels, no padding."""
    return (
        module.in_channels in _CHANNELS
        and module.kernel_size in _SIDES
        and module.out_channels % _OUTPUTS == 0
        and module.stride == module.dilation == (1, 1)
        and module.padding == (0, 0)
        and min(h.shape[2:]) > module.kernel_size[0]
        and _known(h)
    )


def pools(h: Tensor) -> bool:
    """Whether `pooled` takes h [B, C, H, W]: channels last, in whole vectors, a window at least."""
    return (
        h.shape[1] % _OUTPUTS == 0
        and min(h.shape[2:]) > 1
        and h.is_contiguous(memory_format=torch.channels_last)
        and _known(h)
    )


def pooled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """leaky(max over 2x2 of (x * weight) + bias): x [B, C, H, W], weight [O, C, K, K] -> [B, O, h, w].

    The result is channels-last. Of equal products in a window the first one gets the gradient.
    slope: of the activation below 0; 0 for ReLU, 1 for none.
    """
    return _PooledConvolution.apply(x.contiguous(), weight.contiguous(), bias, slope)


def pooled(h: Tensor, slope: float) -> Tensor:
    """leaky(max over 2x2 of h): h [B, C, H, W] channels-last -> [B, C, H // 2, W // 2], as above."""
    return _Pooled.apply(h, slope)


def _call(name: str, like: Tensor, shape: _Shape, *arguments: Any) -> None:
    values = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    _functions()[name, like.dtype](shape, *values)


def _channels_last(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(
        shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last
    )


class _PooledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
        batch, channels, height, width = x.shape
        outputs, _, side, _ = weight.shape
        pooled_shape = (batch, outputs, (height - side + 1) // 2, (width - side + 1) // 2)
        out = _channels_last(pooled_shape, x)
        winner = _channels_last(pooled_shape, x, torch.uint8) if any(ctx.needs_input_grad) else None

        shape = _Shape(batch, channels, height, width, outputs)
        _call("conv_forward", x, shape, side, x, weight, bias, slope, out, winner)
        if winner is not None:
            # Images are read for the weight's gradient, the weight for theirs.
            images = x if ctx.needs_input_grad[1] else None
            ctx.save_for_backward(images, weight if ctx.needs_input_grad[0] else None, winner)
            ctx.sizes, ctx.slope, ctx.biased = (x.shape, weight.shape), slope, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, winner = ctx.saved_tensors
        upstream = upstream.contiguous(memory_format=torch.channels_last)
        (batch, channels, height, width), size = ctx.sizes
        outputs, side = size[0], size[2]
        shape = _Shape(batch, channels, height, width, outputs)
        of_x = of_weight = of_bias = None
        if weight is not None:
            of_x = upstream.new_empty((batch, channels, height, width))
            _call("conv_backward_images", upstream, shape, side, weight, ctx.slope, winner, upstream, of_x)
        if x is not None:
            of_weight = upstream.new_empty(size)
            of_bias = upstream.new_empty(outputs) if ctx.biased else None
            own = (x, ctx.slope, winner, upstream, of_weight, of_bias)
            _call("conv_backward_weight", upstream, shape, side, *own)
        return of_x, of_weight, of_bias, None


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, slope: float) -> Tensor:
        batch, channels, height, width = h.shape
        out = _channels_last((batch, channels, height // 2, width // 2), h)
        winner = _channels_last(out.shape, h, torch.uint8) if ctx.needs_input_grad[0] else None
        _call("pool_forward", h, _Shape(batch, channels, height, width, 0), h, slope, out, winner)
        if winner is not None:
            ctx.save_for_backward(winner)
            ctx.shape, ctx.slope = h.shape, slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (winner,) = ctx.saved_tensors
        upstream = upstream.contiguous(memory_format=torch.channels_last)
        of_h = _channels_last(ctx.shape, upstream)
        _call("pool_backward", upstream, _Shape(*ctx.shape, 0), ctx.slope, winner, upstream, of_h)
        return of_h, None
