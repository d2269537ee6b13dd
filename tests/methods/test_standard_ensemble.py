"""Training on stacked weights equals training the networks one by one."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_method, stripes
from torch.func import functional_call

from bench import networks, training
from bench.rng import Streams
from bench.training import FitSettings, Minibatches, adam, anneal, cross_entropy


def test_a_member_equals_a_network_trained_alone():
    train, val = stripes(96), stripes(30, 1)
    method = small_method("standard_ensemble", networks=3, epochs=2)
    method.start(train, val, loss=cross_entropy, rng=Streams(7, "fit"))
    first = {n: w[1].detach().clone() for n, w in method.members.weights.items()}
    method.round(0)
    method.round(1)

    alone = {n: w.requires_grad_() for n, w in first.items()}
    c = method.config
    optimiser = adam(alone.values(), c.lr, weight_decay=c.weight_decay)
    batches = Minibatches(train, c.batch)
    for i in range(2):
        for step, (x, y) in enumerate(batches.epochs([Streams(7, "fit")("order", i, 1)])):
            anneal(optimiser, c.lr, i * len(batches) + step, 2 * len(batches))
            optimiser.zero_grad()
            cross_entropy(functional_call(method.network, alone, (x[0],))[None], y[0]).sum().backward()
            optimiser.step()
    for name, w in method.members.weights.items():
        torch.testing.assert_close(w[1], alone[name], rtol=1e-4, atol=1e-5)


def test_more_networks_do_not_change_the_first_ones():
    vectors = []
    for count in (2, 4):
        method = small_method("standard_ensemble", networks=count)
        training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0))
        vectors.append(torch.cat([w.flatten(1) for w in method.members.weights.values()], 1))
    torch.testing.assert_close(vectors[1][:2], vectors[0])


def test_a_draw_of_all_is_a_permutation():
    method = small_method("standard_ensemble", networks=4)
    training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0))
    draws = [set(method.sample(4, seed=s).hashes()) for s in range(3)]
    assert draws[0] == draws[1] == draws[2]
    assert len(draws[0]) == 4


def test_the_normal_start_gives_the_norms_of_the_papers_table_1():
    method = small_method("standard_ensemble-n01", networks.mnist(), networks=2)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    norms = {n: w[0].norm().item() for n, w in method.members.weights.items() if n.endswith("weight")}
    assert norms["conv1.weight"] == pytest.approx(math.sqrt(800), rel=0.08)
    assert norms["conv2.weight"] == pytest.approx(math.sqrt(25_600), rel=0.02)
    assert norms["linear.weight"] == pytest.approx(math.sqrt(10 / 3), rel=0.05)  # PyTorch's default


def test_he_s_start_is_pytorch_s_at_another_scale():
    starts = {}
    for name in ("standard_ensemble", "standard_ensemble-he"):
        method = small_method(name, networks.mnist(), networks=2)
        method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
        starts[name] = method.members.weights
    for name, w in starts["standard_ensemble-he"].items():
        torch.testing.assert_close(w, math.sqrt(6) * starts["standard_ensemble"][name])
    conv2 = starts["standard_ensemble-he"]["conv2.weight"]
    assert conv2.square().mean().sqrt().item() == pytest.approx(math.sqrt(2 / 800), rel=0.02)
