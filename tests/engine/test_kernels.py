"""The compiled kernels do what PyTorch's operations do, in every form that this processor runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.benchmark import Timer

from bench.engine import kernels
from bench.rng import stream

SLOPE = 0.1
built = pytest.mark.skipif(not kernels.compiled(), reason="the kernels were not compiled")
LEVELS = range(kernels.level() + 1)
# Channels, outputs, side of the kernel, images' height and width, images.
LAYERS = [
    (1, 32, 5, 28, 28, 2),
    (3, 16, 3, 32, 32, 2),
    (3, 48, 5, 9, 8, 3),
    (1, 16, 3, 4, 5, 1),
    (32, 32, 5, 12, 12, 3),
    (16, 32, 3, 15, 15, 2),
    (32, 64, 3, 6, 6, 17),  # more than are added up at once
    (48, 48, 5, 6, 9, 2),  # windows of more outputs than a word has bits
    (16, 16, 3, 4, 7, 1),
]


def layer(channels, outputs, side, height, width, images, dtype, bias=True):
    """Inputs, weight and bias, all of which require a gradient."""
    rng = stream(0, "layer")
    shapes = [(images, channels, height, width), (outputs, channels, side, side), (outputs,)]
    found = [torch.randn(shape, generator=rng, dtype=dtype) for shape in shapes[: 3 if bias else 2]]
    return [tensor.requires_grad_() for tensor in found]


def by_torch(x, weight, bias=None, slope=SLOPE):
    return F.leaky_relu(F.max_pool2d(F.conv2d(x, weight, bias), 2), slope)


def by_kernels(x, weight, bias=None, slope=SLOPE):
    return kernels.pooled_convolution(x, weight, bias, slope)


def module(channels, outputs, side, **settings):
    return nn.Conv2d(channels, outputs, side, device="meta", **settings)


@built
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", LAYERS, ids=str)
def test_layers_and_all_their_gradients_agree_with_pytorch(monkeypatch, sizes, bias, dtype, level):
    monkeypatch.setattr(kernels, "level", lambda: level)
    leaves = layer(*sizes, dtype, bias)
    assert kernels.convolves(module(*sizes[:3]), leaves[0])
    expected, found = by_torch(*leaves), by_kernels(*leaves)
    upstream = torch.randn(found.shape, generator=stream(1), dtype=dtype)
    pairs = [(found, expected)]
    pairs += zip(*(torch.autograd.grad(out, leaves, upstream) for out in (found, expected)), strict=True)
    with torch.no_grad():
        pairs.append((by_kernels(*leaves), expected))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for one, other in pairs:
        assert one.shape == other.shape
        assert (one - other).norm() <= tolerance * other.norm()


@built
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sizes", LAYERS, ids=str)
def test_the_first_of_equal_entries_gets_the_gradient(monkeypatch, sizes, level):
    monkeypatch.setattr(kernels, "level", lambda: level)
    # Small integers add up without rounding, so that many windows have equal largest entries.
    leaves = [t.detach().sign().requires_grad_() for t in layer(*sizes, torch.float64)]
    expected, found = by_torch(*leaves, slope=0.0), by_kernels(*leaves, slope=0.0)
    assert torch.equal(found, expected)
    upstream = torch.ones_like(found)
    for one, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        assert torch.equal(one, other)


@built
@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.parametrize("sizes", [LAYERS[1], LAYERS[5]], ids=str)
def test_one_gradient_alone_is_the_same(sizes, wanted):
    leaves = layer(*sizes, torch.float64)
    fixed = [leaf if i == wanted else leaf.detach() for i, leaf in enumerate(leaves)]
    (expected,) = torch.autograd.grad(by_kernels(*leaves).square().sum(), leaves[wanted])
    (found,) = torch.autograd.grad(by_kernels(*fixed).square().sum(), leaves[wanted])
    assert torch.equal(found, expected)


@built
@pytest.mark.parametrize("sizes", [LAYERS[0], LAYERS[4]], ids=str)
def test_where_numbers_lie_in_memory_does_not_change_a_bit(sizes):
    found = []
    for shift in range(3):
        leaves = []
        for tensor in layer(*sizes, torch.float32):
            room = torch.empty(tensor.numel() + shift)
            leaves.append(room[shift:].view(tensor.shape).copy_(tensor.detach()).requires_grad_())
        out = by_kernels(*leaves)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@built
@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (module(16, 16, 3, padding=1), torch.zeros(1, 16, 8, 8)),
        (module(16, 16, 3, stride=2), torch.zeros(1, 16, 8, 8)),
        (module(16, 16, 3, dilation=2), torch.zeros(1, 16, 8, 8)),
        (module(32, 16, 3, groups=2), torch.zeros(1, 32, 8, 8)),
        (module(16, 16, 7), torch.zeros(1, 16, 9, 9)),
        (module(16, 16, (3, 5)), torch.zeros(1, 16, 9, 9)),
        (module(24, 16, 3), torch.zeros(1, 24, 8, 8)),
        (module(2, 16, 3), torch.zeros(1, 2, 8, 8)),
        (module(16, 24, 3), torch.zeros(1, 16, 8, 8)),
        (module(16, 16, 3), torch.zeros(1, 16, 3, 8)),
        (module(16, 16, 3), torch.zeros(1, 16, 8, 8, dtype=torch.bfloat16)),
        (module(16, 16, 3), torch.zeros(1, 16, 8, 8, device="meta")),
    ],
)
def test_other_layers_are_left_to_pytorch(layer, inputs):
    assert kernels.convolves(module(16, 16, 3), torch.zeros(1, 16, 8, 8))
    assert not kernels.convolves(layer, inputs)


@built
def test_the_peak_is_at_least_what_a_matrix_product_reaches(threads):
    threads(1)
    a = torch.randn(256, 256)
    peak = kernels.peak_gflop_per_s()
    assert peak is not None and 1 < peak < 10_000
    timer = Timer("a @ a", globals={"a": a})
    assert peak >= 0.5 * 2 * 256**3 / timer.timeit(20).median / 1e9


def test_without_the_library_there_is_no_peak(monkeypatch):
    monkeypatch.setattr(kernels, "_library", lambda: None)
    assert kernels.peak_gflop_per_s() is None


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
