"""Ways to a convolution and its derivatives agree, and the fastest one is taken where a GPU can be asked."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pretended_gpu import pretended_gpu
from small import small_network
from torch import nn

from bench.engine import Batched, Engine, convolution
from bench.rng import stream
from bench.training import cross_entropy

GPU = torch.device("cuda")
M, B, C, OUT = 3, 4, 2, 5
KINDS = ("outputs", "map_gradients", "weight_gradients")


def case(own, stride, padding, kernel=(3, 2)):
    """Maps, weights, geometry, and what a plain convolution makes of them."""
    rng = stream(0, "case")
    h = torch.randn(B, M * C if own else C, 9, 8, generator=rng, dtype=torch.float64).requires_grad_()
    weight = torch.randn(M, OUT, C, *kernel, generator=rng, dtype=torch.float64).requires_grad_()
    how = (stride, padding, (1, 1))
    out = F.conv2d(h, weight.flatten(0, 1), None, *how, M if own else 1)
    upstream = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    return h, weight, how, out, upstream


def found(kind, h, weight, how, own, upstream):
    h, weight = h.detach(), weight.detach()
    match kind:
        case "outputs":
            return convolution.outputs(h, weight, how, own)
        case "map_gradients":
            return convolution.map_gradients(upstream, weight, h.shape, how, own)
    return convolution.weight_gradients(upstream, h, weight.shape, how, own)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("stride,padding", [((1, 1), (0, 0)), ((1, 1), (1, 1)), ((2, 1), (1, 0))])
@pytest.mark.parametrize("copies", [0, 2**28])
def test_all_ways_give_what_autograd_gives(monkeypatch, own, stride, padding, copies):
    monkeypatch.setattr(convolution, "_worth", lambda *_, **__: True)
    monkeypatch.setattr(convolution, "COPIES_BYTES", copies)
    h, weight, how, out, upstream = case(own, stride, padding)
    gradients = torch.autograd.grad(out, (h, weight), upstream)
    for kind, expected in zip(KINDS, (out.detach(), *gradients), strict=True):
        ways = found(kind, h, weight, how, own, upstream)
        few = (kind == "outputs" and own and not copies) or (own and stride != (1, 1))
        assert len(ways) > 1 or few
        for name, call in ways.items():
            assert call().shape == expected.shape, (kind, name)
            torch.testing.assert_close(call(), expected, rtol=1e-10, atol=1e-10, msg=f"{kind}: {name}")


def test_the_librarys_way_stays_unless_another_is_clearly_faster(monkeypatch):
    monkeypatch.setattr(convolution, "milliseconds", lambda call: call())
    assert convolution.choose({"library": lambda: 1.0, "patches": lambda: 0.95}) == "library"
    assert convolution.choose({"library": lambda: 1.0, "patches": lambda: 0.5}) == "patches"
    assert convolution.choose({"library": lambda: 1.0, "patches": lambda: float("inf")}) == "library"


def test_a_shape_is_measured_once_and_never_while_recording(monkeypatch):
    timed = []
    monkeypatch.setattr(convolution, "LEAST_WORK", 0)
    with pretended_gpu() as ledger:
        monkeypatch.setattr(convolution, "milliseconds", lambda call: timed.append(call) or -len(timed))
        h, weight = torch.rand(4, 2, 6, 6).to(GPU), torch.rand(3, 5, 2, 3, 3).to(GPU)
        how = ((1, 1), (0, 0), (1, 1))
        with ledger.capture():
            plain = convolution.convolve(h, weight, how, False)
        assert not timed
        for _ in range(2):
            other = convolution.convolve(h, weight, how, False)
        assert len(timed) == 2
        torch.testing.assert_close(other.cpu(), plain.cpu())


@pytest.mark.parametrize("preferred", [1, -1])
def test_every_way_obeys_a_gpu_and_trains_and_attacks_alike(monkeypatch, preferred):
    network = small_network()
    weights = {n: torch.randn(5, *p.shape, generator=stream(0, n)) for n, p in network.named_parameters()}
    x, y = torch.rand(6, 1, 8, 8, generator=stream(1)), torch.arange(6) % 3

    def everything(way, device):
        engine = Engine(network, way)
        leaves = {n: w.to(device).detach().requires_grad_() for n, w in weights.items()}
        images = x.to(device).clone().requires_grad_()
        losses = engine.losses(leaves, images.detach(), y.to(device), cross_entropy)
        each = images.detach().expand(5, *x.shape).clone()
        own = engine.losses(leaves, each, y.to(device), cross_entropy, own=True)
        fixed = {n: w.detach() for n, w in leaves.items()}
        (slope,) = torch.autograd.grad(engine.logits(fixed, images).mean(0).logsumexp(1).sum(), images)
        trained = torch.autograd.grad((losses + own).sum(), list(leaves.values()))
        return [t.detach().cpu() for t in (losses, own, slope, *trained)]

    expected = everything(Batched(Engine(network).steps), torch.device("cpu"))
    monkeypatch.setattr(convolution, "LEAST_WORK", 0)
    with pretended_gpu():
        monkeypatch.setattr(convolution, "choose", lambda ways: list(ways)[preferred])
        found = everything(None, GPU)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_no_gradient_of_weights_is_made_for_an_attack(monkeypatch):
    asked = []
    real = convolution.weight_gradients
    monkeypatch.setattr(convolution, "weight_gradients", lambda *a: asked.append(a) or real(*a))
    network = small_network()
    engine = Engine(network, Batched(Engine(network).steps))
    weights = {n: torch.randn(2, *p.shape, generator=stream(0, n)) for n, p in network.named_parameters()}
    images = torch.rand(3, 1, 8, 8).requires_grad_()
    engine.logits(weights, images).sum().backward()
    assert not asked and images.grad is not None
    leaves = {n: w.requires_grad_() for n, w in weights.items()}
    engine.losses(leaves, images.detach(), torch.zeros(3, dtype=torch.long), cross_entropy).sum().backward()
    assert asked


@pytest.mark.parametrize(
    "module",
    [nn.MaxPool2d(2), nn.MaxPool2d((2, 3)), nn.MaxPool2d(3, 2), nn.MaxPool2d(2, padding=1)],
    ids=["2x2", "2x3", "overlapping", "padded"],
)
def test_pooling_and_its_gradient_are_pytorchs(monkeypatch, module):
    h = torch.randint(0, 5, (3, 4, 7, 9), generator=stream(0)).double().requires_grad_()  # with equal entries
    expected, found = module(h), convolution.pool(module, h)
    assert torch.equal(found, expected) and torch.equal(convolution.pool(module, h.detach()), expected)
    if module.padding == 0 and module.kernel_size != 3:
        monkeypatch.setattr(convolution, "LEAST_WORK", 0)
        monkeypatch.setattr(convolution, "choose", lambda ways: list(ways)[-1])
        with pretended_gpu(), torch.no_grad():
            assert torch.equal(convolution.pool(module, h.detach().to(GPU)).cpu(), expected)
    upstream = torch.randn(expected.shape, generator=stream(1), dtype=torch.float64)
    assert torch.equal(*(torch.autograd.grad(out, h, upstream)[0] for out in (found, expected)))
