"""Work in pieces: the same bits in any number of threads, sums of the whole, errors that arrive."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from stacks import stacked
from threadpoolctl import threadpool_info
from torch import nn

from bench import networks
from bench.engine import BlockLinear, Engine, Vmap, parallel, pieces, single_threaded, summed
from bench.rng import stream
from bench.training import adam, cross_entropy


@pytest.fixture(autouse=True)
def restored():
    yield
    parallel.use(None)


def test_results_come_in_the_order_of_items_from_threads_of_one_core_each():
    seen = set()
    both = threading.Barrier(3)

    def call(item):
        if item < 3:
            both.wait(10)  # only three threads at once get through
        seen.add(threading.get_ident())
        return item, torch.is_grad_enabled(), torch.get_num_threads()

    parallel.use(3)
    with torch.no_grad():
        assert parallel.each(call, range(9)) == [(i, False, 1) for i in range(9)]
    assert len(seen) == 3 and threading.get_ident() in seen
    parallel.use(1)
    assert parallel.each(call, [7, 8]) == [(i, True, 1) for i in (7, 8)]


def test_pieces_inside_pieces_run_one_after_the_other():
    parallel.use(2)

    def inner(item):
        return item, threading.get_ident()

    def outer(item):
        return threading.get_ident(), parallel.each(inner, [item, item + 1])

    for thread, found in parallel.each(outer, range(4)):
        assert {t for _, t in found} == {thread}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_after_all_that_began_have_ended_and_stops_the_rest(error):
    parallel.use(2)
    begun, ended = threading.Event(), []

    def call(item):
        if item == 0:
            begun.set()
            time.sleep(0.1)  # the other thread fails meanwhile
        elif item == 1:
            begun.wait(10)
            raise error(f"piece {item}")
        ended.append(item)

    with pytest.raises(error, match="piece 1"):
        parallel.each(call, range(100))
    assert ended == [0]


def test_single_threaded_holds_for_torch_and_numpy_and_ends():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with single_threaded():
            assert torch.get_num_threads() == 1 and parallel.threads() == 3
            np.ones((2, 2)) @ np.ones((2, 2))
            assert all(p["num_threads"] == 1 for p in threadpool_info() if p["user_api"] == "blas")
            with single_threaded():
                parallel.use(2)
            assert torch.get_num_threads() == 1 and parallel.threads() == 2
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="at least 1"):
        parallel.use(0)


@pytest.mark.parametrize("total, size", [(1, 5), (10, 5), (11, 5), (0, 3)])
def test_blocks_cover_everything_once_in_order(total, size):
    found = parallel.blocks(total, size)
    assert [i for b in found for i in range(total)[b]] == list(range(total))
    assert found and all(b.stop - b.start <= size for b in found)


def test_image_blocks_are_even_powers_of_two_with_enough_work():
    for members, images, image_bytes in itertools.product((1, 3, 8, 100), (1, 20, 100, 1000), (40, 5120)):
        found = pieces.image_blocks(members, images, image_bytes)
        sizes = [b.stop - b.start for b in found]
        assert sum(sizes) == images and len(found) in (1, 2, 4, 8)
        assert len(found) == 1 or images // len(found) * image_bytes >= 0.9 * pieces.LEAST_BLOCK
        assert max(sizes) - min(sizes) < len(found)
        assert members < pieces.PIECES or len(found) == 1
    assert len(pieces.image_blocks(1, 100, 5120)) == 2


def work(network, members, own, images):
    """Losses, gradients of weights and of images, logits: everything that sums."""
    weights = {n: w.requires_grad_() for n, w in stacked(network, members, torch.float32).items()}
    lead = (members, images) if own else (images,)
    x = torch.rand(*lead, 1, 28, 28, generator=stream(6))
    y = torch.randint(0, 10, lead, generator=stream(7))
    engine, leaf = Engine(network, graph_bytes=10**6), x.clone().requires_grad_(own)
    losses = engine.losses(weights, leaf, y, cross_entropy, own=own)
    found = [losses, *torch.autograd.grad(losses.sum(), [*weights.values(), *([leaf] if own else [])])]
    fixed = {n: w.detach() for n, w in weights.items()}
    shared = (x[0] if own else x).clone().requires_grad_()
    logits = engine.logits(fixed, shared)
    found += [logits, *torch.autograd.grad(logits.square().mean(), shared)]
    with torch.no_grad():
        return [*found, engine.logits(fixed, shared)]


@pytest.mark.parametrize("members, own, images", [(1, False, 200), (5, True, 100), (9, False, 130)])
def test_any_number_of_threads_gives_the_same_bits(members, own, images):
    expected = None
    for count in (1, 2, 3, 4):
        parallel.use(count)
        found = work(networks.mnist(), members, own, images)
        expected = expected or found
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("members", [2, 9])
def test_networks_of_unknown_layers_give_the_same_bits_too(members):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.GELU(), nn.Linear(20, 10))
    assert isinstance(Engine(network).way(torch.device("cpu")), Vmap)
    expected = None
    for count in (1, 3):
        parallel.use(count)
        found = work(network, members, True, 500)
        expected = expected or found
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("own", [False, True])
def test_losses_of_blocks_of_images_are_those_of_all(own, monkeypatch):
    network = networks.mnist()
    x = torch.rand(100, 1, 28, 28, generator=stream(0))
    assert len(Engine(network).blocks(x)) > 1
    split = work(network, 1, own, 100)
    monkeypatch.setattr(pieces, "PIECES", 1)
    assert len(Engine(network).blocks(x)) == 1
    for one, other in zip(split, work(network, 1, own, 100), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-6)


def test_summed_is_the_sum_with_its_gradients():
    a, b, unused = (
        torch.randn(3, generator=stream(i), dtype=torch.float64).requires_grad_() for i in range(3)
    )
    calls = [
        lambda: ((a * b).sum(), [a.sum()]),
        lambda: (a.square().sum(), [a.prod()]),
        lambda: (b.exp().sum(), [b.sum()]),
    ]
    parallel.use(2)
    loss, reported = summed(lambda call: call(), calls, [a, b, unused])
    (3 * loss).backward()
    torch.testing.assert_close(loss, (a * b).sum() + a.square().sum() + b.exp().sum())
    torch.testing.assert_close(a.grad, 3 * (b + 2 * a).detach())
    torch.testing.assert_close(b.grad, 3 * (a + b.exp()).detach())
    assert unused.grad is None
    torch.testing.assert_close(reported, [a.sum() + a.prod() + b.sum()])


@pytest.mark.parametrize("rows, bias", [(3, True), (16, False), (200, True)])
def test_a_linear_layer_in_blocks_is_a_linear_layer(rows, bias):
    layer = BlockLinear(64, 40_000, bias=bias).double()
    plain = nn.Linear(64, 40_000, bias=bias).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(rows, 64, generator=stream(0), dtype=torch.float64)
    seen = []
    for module, threads in ((plain, 1), (layer, 1), (layer, 3)):
        parallel.use(threads)
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        seen.append([out, *torch.autograd.grad(out.sin().sum(), [leaf, *module.parameters()])])
    for expected, one, three in zip(*seen, strict=True):
        torch.testing.assert_close(one, expected)
        assert torch.equal(one, three)


@pytest.mark.parametrize("sizes", [(10, 7), (2**20 + 5, 300, 2**19)])
def test_adam_in_pieces_is_pytorchs(sizes):
    first = [torch.randn(n, generator=stream(n)) for n in sizes]
    found = []
    for make, threads in ((lambda p: torch.optim.Adam(p, 0.01, fused=True), 1), (lambda p: adam(p, 0.01), 1),
                          (lambda p: adam(p, 0.01), 3)):  # fmt: skip
        parallel.use(threads)
        parameters = [nn.Parameter(v.clone()) for v in first]
        optimiser = make(parameters)
        for step in range(3):
            for i, p in enumerate(parameters):
                p.grad = torch.randn(p.shape, generator=stream(step, i))
            optimiser.step()
        state = optimiser.state_dict()["state"]
        found.append(
            [*parameters, *(s[k] for s in state.values() for k in ("exp_avg", "exp_avg_sq", "step"))]
        )
    for theirs, ours, many in zip(*found, strict=True):
        assert torch.equal(theirs, ours) and torch.equal(ours, many)
