"""All implementations of stacked networks give the same logits and gradients."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import stacked
from torch import nn
from torch.func import functional_call

from bench import networks
from bench.engine import Batched, Engine, Vmap, kernels
from bench.networks import Normalise, shapes
from bench.rng import stream
from bench.training import cross_entropy


@st.composite
def convolutional(draw):
    """A random network of the layers that the engine knows, and the shape of its images."""
    channels, size = draw(st.sampled_from([1, 2, 3])), draw(st.integers(9, 13))
    layers = [Normalise((0.3,) * channels, (0.7,) * channels)]
    inside, side = channels, size
    for _ in range(draw(st.integers(1, 2))):
        out, kernel = draw(st.integers(1, 5)), draw(st.sampled_from([2, 3]))
        padding = draw(st.sampled_from([0, 1]))
        layers.append(nn.Conv2d(inside, out, kernel, padding=padding, bias=draw(st.booleans())))
        inside, side = out, side + 2 * padding - kernel + 1
        layers.append(draw(st.sampled_from([nn.LeakyReLU(0.01), nn.ReLU(), nn.LeakyReLU(0.0)])))
        if side > 1 and draw(st.booleans()):
            layers.append(nn.MaxPool2d(2))
            side //= 2
    layers += [nn.Flatten(), nn.Linear(inside * side * side, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers), (channels, size, size)


def by_hand(network, weights, x, own=False):
    """The reference: one functional call per member."""
    members = len(next(iter(weights.values())))
    return torch.stack(
        [
            functional_call(network, {n: w[m] for n, w in weights.items()}, (x[m] if own else x,))
            for m in range(members)
        ]
    )


def ways(network):
    engine = Engine(network)
    assert engine.steps is not None
    return {
        "engine": engine,
        "recomputed": Engine(network, graph_bytes=0),
        "partly recomputed": Engine(network, graph_bytes=2**14),  # of small networks' graphs about half
        "batched": Engine(network, Batched(engine.steps)),
        "vmap": Engine(network, Vmap(network)),
    }


def close(found, expected, dtype, entries):
    if dtype == torch.float64:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    elif entries:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    else:
        # Near-ties in pooling may be decided differently in float32 and change single entries.
        assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-7


@given(
    convolutional(), st.integers(1, 4), st.integers(1, 40), st.sampled_from([torch.float64, torch.float32])
)
@settings(max_examples=25, deadline=None)
def test_ways_agree_on_logits_and_input_gradients(case, members, batch, dtype):
    network, shape = case
    weights = stacked(network, members, dtype)
    x = torch.rand(batch, *shape, generator=stream(1), dtype=dtype).requires_grad_()
    y = torch.arange(batch) % 3
    expected = by_hand(network, weights, x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(expected.mean(0), y), x)
    for engine in ways(network).values():
        found = engine.logits(weights, x)
        close(found, expected, dtype, entries=True)
        close(torch.autograd.grad(F.cross_entropy(found.mean(0), y), x)[0], gradient, dtype, entries=False)


@given(convolutional(), st.integers(1, 4), st.booleans(), st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=25, deadline=None)
def test_ways_agree_on_losses_and_weight_gradients(case, members, own, dtype):
    network, shape = case
    weights = {n: w.requires_grad_() for n, w in stacked(network, members, dtype).items()}
    images = (members, 8, *shape) if own else (8, *shape)
    x = torch.rand(*images, generator=stream(2), dtype=dtype)
    y = torch.randint(0, 3, images[:2] if own else (8,), generator=stream(3))
    expected = cross_entropy(by_hand(network, weights, x, own), y)
    scale = torch.arange(1.0, members + 1, dtype=dtype)  # a different scale for each member's gradient
    gradients = torch.autograd.grad((expected * scale).sum(), list(weights.values()))
    for engine in ways(network).values():
        found = engine.losses(weights, x, y, cross_entropy, own=own)
        close(found, expected, dtype, entries=True)
        parts = torch.autograd.grad((found * scale).sum(), list(weights.values()))
        for part, gradient in zip(parts, gradients, strict=True):
            close(part, gradient, dtype, entries=False)


@given(convolutional(), st.integers(1, 4), st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=25, deadline=None)
def test_gradients_of_own_images_and_of_weights_come_from_one_pass(case, members, dtype):
    network, shape = case
    weights = {n: w.requires_grad_() for n, w in stacked(network, members, dtype).items()}
    x = torch.rand(members, 8, *shape, generator=stream(2), dtype=dtype).requires_grad_()
    y = torch.randint(0, 3, (members, 8), generator=stream(3))
    wanted = [x, *weights.values()]
    scale = torch.arange(1.0, members + 1, dtype=dtype)
    expected = cross_entropy(by_hand(network, weights, x, True), y)
    gradients = torch.autograd.grad((expected * scale).sum(), wanted)
    for engine in ways(network).values():
        found = engine.losses(weights, x, y, cross_entropy, own=True)
        for part, gradient in zip(torch.autograd.grad((found * scale).sum(), wanted), gradients, strict=True):
            close(part, gradient, dtype, entries=False)
    with pytest.raises(ValueError, match="expected own images"):
        engine.losses(weights, x[0], y[0], cross_entropy)


@pytest.mark.parametrize("network", [networks.mnist(), networks.cifar(5)], ids=["mnist", "cifar"])
def test_target_networks_are_read_and_agree_with_their_own_forward(network):
    shape = (1, 28, 28) if network.conv1.in_channels == 1 else (3, 32, 32)
    weights = stacked(network, 3)
    x = torch.rand(40, *shape, dtype=torch.float64)
    for engine in ways(network).values():
        torch.testing.assert_close(
            engine.logits(weights, x), by_hand(network, weights, x), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("outputs", [4, 16])  # 16: by the compiled kernels
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_of_ties_in_a_pooling_window_match_the_network(channels, outputs):
    network = nn.Sequential(
        nn.Conv2d(channels, outputs, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(outputs, outputs, 2),
        nn.LeakyReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * outputs, 3),
    )  # fmt: skip
    # Small integers, which add up without rounding: half of the windows have equal largest entries.
    weights = {n: w.mul(4).round() for n, w in stacked(network, 2).items()}
    x = torch.randint(0, 2, (6, channels, 13, 13), generator=stream(5)).double().requires_grad_()
    y = torch.arange(6) % 3
    (expected,) = torch.autograd.grad(F.cross_entropy(by_hand(network, weights, x).mean(0), y), x)
    (found,) = torch.autograd.grad(F.cross_entropy(Engine(network).logits(weights, x).mean(0), y), x)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@st.composite
def first_layers(draw):
    """A network whose first layer the compiled kernels support, and the shape of its images."""
    channels, side = draw(st.sampled_from([1, 3])), draw(st.sampled_from([3, 5]))
    outputs, size = draw(st.sampled_from([16, 32])), draw(st.integers(10, 14))
    first = nn.Conv2d(channels, outputs, side, bias=draw(st.booleans()))
    second = nn.Conv2d(outputs, 16, 2)
    activation = [[nn.LeakyReLU(0.1)], [nn.ReLU()], []]  # sometimes the same module twice
    layers = [first, *draw(st.sampled_from(activation)), nn.MaxPool2d(2), second, nn.MaxPool2d(2)]
    left = ((size - side + 1) // 2 - 1) // 2
    layers += [*draw(st.sampled_from(activation)), nn.Flatten(), nn.Linear(16 * left * left, 3)]
    return nn.Sequential(Normalise((0.3,) * channels, (0.7,) * channels), *layers), (channels, size, size)


@pytest.mark.parametrize("compiled", [True, False])
@given(first_layers(), st.integers(1, 5), st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=25, deadline=None)
def test_kernels_and_their_fallback_agree_with_the_network(compiled, case, batch, dtype):
    if compiled and not kernels.compiled():
        pytest.skip("the kernels were not compiled")
    network, shape = case
    weights = {n: w.requires_grad_() for n, w in stacked(network, 2, dtype).items()}
    x = torch.rand(batch, *shape, generator=stream(1), dtype=dtype).requires_grad_()
    y = torch.arange(batch) % 3
    leaves = [x, *weights.values()]
    expected = by_hand(network, weights, x)
    gradients = torch.autograd.grad(F.cross_entropy(expected.mean(0), y), leaves)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(kernels, "_functions", dict)
        found = Engine(network).logits(weights, x)
        parts = torch.autograd.grad(F.cross_entropy(found.mean(0), y), leaves)
    close(found, expected, dtype, entries=True)
    for part, gradient in zip(parts, gradients, strict=True):
        close(part, gradient, dtype, entries=False)


def test_an_attack_stores_one_byte_per_pooled_entry():
    if not kernels.compiled():
        pytest.skip("the kernels were not compiled")
    engine = Engine(networks.mnist())
    assert engine.image_bytes(torch.rand(1, 28, 28)) == 32 * 12 * 12 + 32 * 4 * 4


def test_layer_shapes_are_those_of_the_papers_tables():
    assert [tuple(s) for n, s in shapes(networks.mnist()).items() if n.endswith("weight")] == [
        (32, 1, 5, 5),
        (32, 32, 5, 5),
        (10, 512),
    ]
    assert [tuple(s) for n, s in shapes(networks.cifar()).items() if n.endswith("weight")] == [
        (16, 3, 3, 3),
        (32, 16, 3, 3),
        (64, 32, 3, 3),
        (128, 256),
        (10, 128),
    ]
    assert networks.count(networks.mnist()) == 31_594
    assert networks.count(networks.cifar()) == 57_770


class Squared(nn.Module):
    def forward(self, x):
        return x.square()


def test_a_network_with_an_unknown_layer_falls_back_and_agrees():
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), Squared(), nn.Linear(4, 2))
    engine = Engine(network)
    assert engine.steps is None
    weights, x = stacked(network, 3), torch.rand(5, 1, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(engine.logits(weights, x), by_hand(network, weights, x))


def test_layers_that_share_their_weights_fall_back_and_agree():
    layer = nn.Linear(4, 4)
    network = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)
    engine = Engine(network)
    assert engine.steps is None
    weights, x = stacked(network, 3), torch.rand(5, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(engine.logits(weights, x), by_hand(network, weights, x))


def test_a_layers_own_operation_replaces_the_product():
    network = networks.mnist()
    weights = {n: w[0] for n, w in stacked(network, 1).items()}
    x = torch.rand(4, 1, 28, 28, dtype=torch.float64)
    mask = (torch.rand(512, generator=stream(4)) < 0.5).double() * 2

    def dropout_before_linear(step, values, h):
        weight, bias = values[f"{step.name}.weight"], values[f"{step.name}.bias"]
        return F.linear(h * mask, weight, bias) if step.kind == "linear" else F.conv2d(h, weight, bias)

    found = Engine(network).single(weights, x, dropout_before_linear)
    folded = weights | {"linear.weight": weights["linear.weight"] * mask}
    torch.testing.assert_close(found, functional_call(network, folded, (x,)))


def test_shape_errors_name_the_layer_and_what_was_found():
    network = networks.mnist()
    engine, weights = Engine(network), stacked(networks.mnist(), 2, torch.float32)
    x = torch.rand(3, 1, 28, 28)
    with pytest.raises(ValueError, match=r"conv2.weight: expected \[2, 32, 32, 5, 5\], found \[2, 7\]"):
        engine.logits(weights | {"conv2.weight": torch.zeros(2, 7)}, x)
    with pytest.raises(ValueError, match=r"another set: \['extra'\]"):
        engine.logits(weights | {"extra": torch.zeros(2)}, x)
    with pytest.raises(ValueError, match=r"conv1.weight: expected weights on cpu as the images, found meta"):
        engine.logits(weights | {"conv1.weight": weights["conv1.weight"].to("meta")}, x)
    with pytest.raises(ValueError, match=r"conv1: expected images \[B, 1, H, W\], found \[3, 3, 28, 28\]"):
        engine.logits(weights, torch.rand(3, 3, 28, 28))


def test_limiting_the_number_of_graphs_does_not_change_the_gradient():
    network = networks.mnist()
    weights, x = stacked(network, 5), torch.rand(3, 1, 28, 28, dtype=torch.float64).requires_grad_()
    one = Engine(network).image_bytes(x[0]) * len(x)
    expected = None
    for kept in (5, 0, 2):
        engine = Engine(network, graph_bytes=kept * one)
        assert engine.kept(weights, x) == kept
        logits = engine.logits(weights, x)
        for _ in range(2):  # the second backward pass finds no graphs
            (found,) = torch.autograd.grad(logits.square().sum(), x, retain_graph=True)
            expected = found if expected is None else expected
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_call_out_of_memory_is_repeated_with_half_the_members():
    engine = Engine(networks.mnist())
    calls = []

    def call(members):
        calls.append(members)
        if members.stop - members.start > 2:
            raise torch.OutOfMemoryError
        return members

    # Any device but the CPU, where members run in parallel and memory is not checked.
    done = engine.each_slice(range(6), torch.empty(1, 1, 28, 28, device="meta"), call)
    assert [(s.start, s.stop) for s in calls] == [
        (0, 6),
        (0, 3),
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
        (4, 5),
        (5, 6),
    ]
    assert [(s.start, s.stop) for s in done] == [(i, i + 1) for i in range(6)]


def test_a_network_with_buffers_is_refused():
    with pytest.raises(ValueError, match="without buffers"):
        Engine(nn.Sequential(OrderedDict(norm=nn.InstanceNorm1d(3, track_running_stats=True))))
