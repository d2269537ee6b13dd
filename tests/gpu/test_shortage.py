"""Where a GPU's memory runs out, a call is made again in smaller parts, and changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pretended_gpu import pretended_gpu
from small import small_network

from bench.engine import Engine, shortage
from bench.rng import stream
from bench.training import cross_entropy

GPU = torch.device("cuda")
CHANNELS = 4  # of a member's convolution


def given():
    weights = {
        n: torch.randn(10, *p.shape, generator=stream(0, n)) for n, p in small_network().named_parameters()
    }
    return weights, torch.rand(6, 1, 8, 8, generator=stream(1)), torch.arange(6) % 3


def on_gpu():
    weights, x, y = given()
    return {n: w.to(GPU) for n, w in weights.items()}, x.to(GPU), y.to(GPU)


class Scarce:
    """Convolutions that run out of memory beyond so many channels and images; what was asked of them."""

    def __init__(self, monkeypatch, members, images=1000, error=torch.OutOfMemoryError, kept=False):
        self.members, self.images, self.error, self.kept = members, images, error, kept
        self.asked = []
        self.real = F.conv2d
        monkeypatch.setattr("torch.nn.functional.conv2d", self)

    def __call__(self, x, weight, *args, **kwargs):
        if weight.device.type == "cuda":
            members = len(weight) // CHANNELS
            self.asked.append((members, len(x)))
            if self.kept and not x.requires_grad:
                return self.real(x, weight, *args, **kwargs)
            if members > self.members or len(x) > self.images:
                raise self.error("CUDNN_STATUS_ALLOC_FAILED, pretended")
        return self.real(x, weight, *args, **kwargs)


def gradient(engine, weights, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(engine.logits(weights, leaf).mean(0).logsumexp(1).sum(), leaf)[0]


def everything(engine, weights, x, y):
    """Logits, the gradient of images, losses and the gradient of weights."""
    leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
    losses = engine.losses(leaves, x, y, cross_entropy)
    found = [engine.logits(weights, x), gradient(engine, weights, x), losses]
    return [t.detach().cpu() for t in (*found, *torch.autograd.grad(losses.sum(), list(leaves.values())))]


@pytest.mark.parametrize("graph_bytes", [0, None])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_a_call_is_repeated_with_fewer_members_and_changes_nothing(monkeypatch, graph_bytes, error):
    with pretended_gpu():
        expected = everything(Engine(small_network()), *on_gpu())
        Scarce(monkeypatch, 3, error=error)
        for a, b in zip(
            expected, everything(Engine(small_network(), None, graph_bytes), *on_gpu()), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for a, b in zip(expected, everything(Engine(small_network()), *given()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # the way of a CPU


def test_where_one_member_is_too_much_its_images_are_halved(monkeypatch):
    with pretended_gpu():
        weights, x, _ = on_gpu()
        engine = Engine(small_network())
        logits, slope = engine.logits(weights, x).cpu(), gradient(engine, weights, x).cpu()
        Scarce(monkeypatch, 1, images=2)
        torch.testing.assert_close(engine.logits(weights, x).cpu(), logits, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient(engine, weights, x).cpu(), slope, rtol=1e-5, atol=1e-6)
        Scarce(monkeypatch, 0)
        with pytest.raises(torch.OutOfMemoryError):
            engine.logits(weights, x)


def test_the_next_call_tries_everything_at_once_again(monkeypatch):
    with pretended_gpu():
        weights, x, _ = on_gpu()
        engine, scarce = Engine(small_network()), Scarce(monkeypatch, 5)
        engine.logits(weights, x)
        assert scarce.asked == [(10, 6), (5, 6), (5, 6)]
        scarce.members = 10
        scarce.asked.clear()
        engine.logits(weights, x)
        assert scarce.asked == [(10, 6)]


def test_graphs_that_find_no_room_are_made_again(monkeypatch):
    with pretended_gpu():
        weights, x, _ = on_gpu()
        engine = Engine(small_network())
        expected = gradient(engine, weights, x).cpu()
        scarce = Scarce(monkeypatch, 0, kept=True)  # no graph at all
        with pytest.raises(torch.OutOfMemoryError):
            gradient(engine, weights, x)
        assert (10, 6) in scarce.asked
        scarce.members = 1
        torch.testing.assert_close(gradient(engine, weights, x).cpu(), expected, rtol=1e-5, atol=1e-6)


def test_graphs_are_kept_as_far_as_memory_is_free(monkeypatch):
    with pretended_gpu():
        weights, x, _ = on_gpu()
        engine = Engine(small_network())
        assert engine.kept(weights, x) == 10
        one = engine.image_bytes(x[0]) * len(x)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (2 * 3 * one, 2**33))
        assert engine.kept(weights, x) == 3
        monkeypatch.setattr("torch.cuda.memory_reserved", lambda *_: 2 * one)  # held, and not used
        assert engine.kept(weights, x) == 4
    assert Engine(small_network()).kept(*given()[:2]) == 10


@pytest.mark.parametrize(
    "text", ["an illegal memory access was encountered", "CUBLAS_STATUS_EXECUTION_FAILED"]
)
def test_an_error_of_another_kind_is_raised_at_once(monkeypatch, text):
    asked = []

    def fails(x, weight, *args, **kwargs):
        asked.append(len(weight))
        raise RuntimeError(text)

    with pretended_gpu():
        weights, x, _ = on_gpu()
        monkeypatch.setattr("torch.nn.functional.conv2d", fails)
        with pytest.raises(RuntimeError, match=text):
            Engine(small_network()).logits(weights, x)
    assert len(asked) == 1


def test_what_says_that_memory_ran_out():
    assert shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert shortage(
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    )
    assert shortage(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert shortage(RuntimeError("CUDA error: out of memory"))
    assert not shortage(RuntimeError("CUDA error: device-side assert triggered"))
    assert not shortage(MemoryError("CUDA error: out of memory"))
