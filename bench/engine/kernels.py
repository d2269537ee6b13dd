"""Convolutions that pool and activate, and pooling: a CPU's own kernels, compiled at installation.

The full map of a convolution is never written: four products of a window stay in registers and one number
leaves. Gradients take the quarter of the multiply-adds that pooling leaves. Where no compiler was at hand
there is no library, `convolves` and `pools` say no, and PyTorch's own operations do the same, slower.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_TYPES = {torch.float32: "float32", torch.float64: "float64"}
# What the library is compiled for: sides of the kernel, channels of images, and channels of other maps in
# vectors of up to 16 numbers.
_SIDES, _CHANNELS, _WHOLE = ((3, 3), (5, 5)), (1, 3), 16
# Rounds of at most 24 chains of multiply-adds, about a millisecond, and how often: the best one counts.
_PEAK_ROUNDS, _PEAK_REPEATS = 100_000, 10


class _Shape(ctypes.Structure):
    """Of the images: [batch, channels, height, width]; `outputs` of the layer."""

    _fields_ = [(name, ctypes.c_long) for name in ("batch", "channels", "height", "width", "outputs")]


# Arguments of each function after the level and the shape: p a pointer, d a double, l a long.
_FUNCTIONS = {
    **{f"{layer}_forward": "lpppdpp" for layer in ("first", "later")},
    **{f"{layer}_backward_weight": "lpdpppp" for layer in ("first", "later")},
    **{f"{layer}_backward_inputs": "lpdppp" for layer in ("first", "later")},
    "pool_forward": "pdpp",
    "pool_backward": "dppp",
}
_ARGUMENTS = {"p": ctypes.c_void_p, "d": ctypes.c_double, "l": ctypes.c_long}


@cache
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    paths = (folder / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES)
    path = next((p for p in paths if p.exists()), None)
    return None if path is None else ctypes.CDLL(str(path))


@cache
def _functions() -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """The library's functions by name and type; none where it was not built."""
    library, found = _library(), {}
    for name, arguments in _FUNCTIONS.items() if library is not None else ():
        for dtype, suffix in _TYPES.items():
            function = getattr(library, f"{name}_{suffix}")
            types = [ctypes.c_long, _Shape, *(_ARGUMENTS[a] for a in arguments)]
            function.argtypes, function.restype = types, None
            found[name, dtype] = function
    return found


def compiled() -> bool:
    """Whether the library was built when this package was installed."""
    return bool(_functions())


@cache
def level() -> int:
    """Which form of each function runs: 2 for AVX-512, 1 for AVX2, 0 for any processor."""
    library = _library()
    return 0 if library is None else library.highest_level()


def peak_gflop_per_s() -> float | None:
    """Multiply-adds in float32 that one core does at most, from registers, in GFLOP/s (2 a multiply-add).

    The best of a few runs of a millisecond, in this thread; None where the library was not built.
    """
    library = _library()
    if library is None:
        return None
    numbers, operations = (ctypes.c_float * 16)(0.5, 1.0), ctypes.c_double()
    rates = []
    for _ in range(_PEAK_REPEATS):
        begun = time.perf_counter()
        library.multiply_adds(
            ctypes.c_long(level()), ctypes.c_long(_PEAK_ROUNDS), numbers, ctypes.byref(operations)
        )
        rates.append(operations.value / (time.perf_counter() - begun) / 1e9)
        numbers[0], numbers[1] = 0.5, 1.0  # the sums were written here
    return max(rates)


def _known(h: Tensor) -> bool:
    return h.device.type == "cpu" and h.dtype in _TYPES and compiled()


def convolves(module: nn.Conv2d, h: Tensor) -> bool:
    """Whether `pooled_convolution` does this layer on h [B, C, H, W].

    It does those without padding, of few channels or whole vectors of them.
    """
    return (
        (module.in_channels in _CHANNELS or module.in_channels % _WHOLE == 0)
        and module.kernel_size in _SIDES
        and module.out_channels % _WHOLE == 0
        and module.groups == 1
        and module.stride == module.dilation == (1, 1)
        and module.padding == (0, 0)
        and min(h.shape[2:]) > module.kernel_size[0]
        and _known(h)
    )


def pools(h: Tensor) -> bool:
    """Whether `pooled` takes h [B, C, H, W]: channels last, in whole vectors, a window at least."""
    return (
        h.shape[1] % _WHOLE == 0
        and min(h.shape[2:]) > 1
        and h.is_contiguous(memory_format=torch.channels_last)
        and _known(h)
    )


def pooled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """leaky(max over 2x2 of (x * weight) + bias): x [B, C, H, W], weight [O, C, K, K] -> [B, O, h, w].

    The result is channels-last. Of equal products in a window the first one gets the gradient.
    slope: of the activation below 0; 0 for ReLU, 1 for none.
    """
    layout = _layout(x)
    return _PooledConvolution.apply(
        x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), bias, slope
    )


def pooled(h: Tensor, slope: float) -> Tensor:
    """leaky(max over 2x2 of h): h [B, C, H, W] channels-last -> [B, C, H // 2, W // 2], as above."""
    return _Pooled.apply(h, slope)


def _call(name: str, like: Tensor, shape: _Shape, *arguments: Any) -> None:
    values = (a.data_ptr() if isinstance(a, Tensor) else a for a in arguments)
    _functions()[name, like.dtype](level(), shape, *values)


def _layout(x: Tensor) -> torch.memory_format:
    """How inputs and weights of a layer lie in memory: images by planes, later maps channels last."""
    return torch.contiguous_format if x.shape[1] in _CHANNELS else torch.channels_last


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
        of_x, *of_others, _ = ctx.needs_input_grad
        winner = _channels_last(pooled_shape, x, torch.uint8) if of_x or any(of_others) else None

        layer = "first" if channels in _CHANNELS else "later"
        shape = _Shape(batch, channels, height, width, outputs)
        _call(f"{layer}_forward", x, shape, side, x, weight, bias, slope, out, winner)
        if winner is not None:
            # Inputs are read for the weight's gradient, the weight for theirs.
            ctx.save_for_backward(x if any(of_others) else None, weight if of_x else None, winner)
            ctx.sizes, ctx.slope, ctx.biased = (x.shape, weight.shape), slope, bias is not None
            ctx.layer, ctx.layout = layer, _layout(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, winner = ctx.saved_tensors
        upstream = upstream.contiguous(memory_format=torch.channels_last)
        size, kernel = ctx.sizes
        outputs, _, side, _ = kernel
        shape, layer = _Shape(*size, outputs), ctx.layer
        of_x = of_weight = of_bias = None
        if weight is not None:
            of_x = torch.empty(size, dtype=upstream.dtype, memory_format=ctx.layout)
            given = (side, weight, ctx.slope, winner, upstream)
            _call(f"{layer}_backward_inputs", upstream, shape, *given, of_x)
        if x is not None:
            of_weight = torch.empty(kernel, dtype=upstream.dtype, memory_format=ctx.layout)
            of_bias = upstream.new_empty(outputs) if ctx.biased else None
            given = (side, x, ctx.slope, winner, upstream)
            _call(f"{layer}_backward_weight", upstream, shape, *given, of_weight, of_bias)
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
