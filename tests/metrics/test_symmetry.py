"""Distances modulo symmetries: by hand, over all permutations, and for equivalent copies."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import small_network
from torch import nn

from bench import networks
from bench.engine import Engine
from bench.engine.steps import read
from bench.metrics import symmetry
from bench.rng import stream


def steps_of(network):
    steps = read(network)
    assert steps is not None
    return steps


def dense(*sizes, bias=False, activation=nn.ReLU):
    layers = []
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        layers += [(f"activation{i}", activation())] if i else []
        layers += [(f"linear{i}", nn.Linear(n, m, bias=bias))]
    return nn.Sequential(OrderedDict(layers))


def deep(classes=3):
    """Two convolutions and two linear layers on images of [2, 10, 10]: every kind of transition."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 3, 3),
            activation1=nn.LeakyReLU(0.1),
            pool=nn.MaxPool2d(2),
            conv2=nn.Conv2d(3, 5, 3),
            activation2=nn.ReLU(),
            flatten=nn.Flatten(),
            linear1=nn.Linear(20, 6),
            activation3=nn.LeakyReLU(0.01),
            linear2=nn.Linear(6, classes),
        )
    )


def random_weights(network, members, seed=0):
    """Weights in float64 whose scale differs from tensor to tensor."""
    rng = stream(seed, "weights")
    return {
        name: torch.randn(members, *shape, generator=rng, dtype=torch.float64)
        * 4 ** (torch.rand(1, generator=rng, dtype=torch.float64) * 2 - 1)
        for name, shape in networks.shapes(network).items()
    }


def copy_of(network, weights, seed):
    """The same functions from other weights: hidden channels scaled by 1/9 to 9 and shuffled.

    Changes the layers' tensors directly, one hidden layer after the other.
    """
    rng = np.random.default_rng(seed)
    w = {name: np.asarray(x) for name, x in weights.items()}
    names = [s.name for s in steps_of(network) if s.has_weights]
    for layer, following in itertools.pairwise(names):
        channels = w[f"{layer}.weight"].shape[1]
        scale, order = 9 ** rng.uniform(-1, 1, channels), rng.permutation(channels)
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in w:
                moved = w[name].swapaxes(1, -1) * scale
                w[name] = moved.swapaxes(1, -1)[:, order]
        read = w[f"{following}.weight"]
        places = read.shape[2] // channels  # more than one if a map was flattened
        index = (order[:, None] * places + np.arange(places)).ravel()
        moved = read.swapaxes(2, -1) / np.repeat(scale, places)
        w[f"{following}.weight"] = moved.swapaxes(2, -1)[:, :, index]
    return w


def logits(network, weights, images):
    # PyTorch's layers, network by network, without the engine.
    members = len(next(iter(weights.values())))
    tensors = {name: torch.as_tensor(x, dtype=torch.float64) for name, x in weights.items()}
    return torch.stack(
        [
            torch.func.functional_call(network, {n: x[m] for n, x in tensors.items()}, (images,))
            for m in range(members)
        ]
    )


def joined(first, second):
    return {name: np.concatenate([np.asarray(first[name]), np.asarray(second[name])]) for name in first}


def one(weights, m=0):
    return {name: np.asarray(x)[m] for name, x in weights.items()}


def apart(a, b):
    return np.sqrt(sum(np.square(np.asarray(a[n]) - np.asarray(b[n])).sum() for n in a))


def test_equal_functions_have_balanced_weights_of_equal_norm():
    network = dense(1, 1, 1)
    weights = {
        "linear0.weight": np.array([1.0, 2, 3, 6]).reshape(4, 1, 1),
        "linear1.weight": np.array([6.0, 3, 2, 1]).reshape(4, 1, 1),
    }
    for found in symmetry.balanced(steps_of(network), weights).values():
        assert found == pytest.approx(np.full((4, 1, 1), 6**0.5), abs=1e-12)


def test_swapped_channels_have_distance_sqrt_twelve_and_zero_when_matched():
    network = dense(2, 2, 1)
    weights = {"linear0.weight": np.array([[1.0, 0], [0, 2]]), "linear1.weight": np.array([[3.0, 4]])}
    swapped = {"linear0.weight": np.array([[0.0, 2], [1, 0]]), "linear1.weight": np.array([[4.0, 3]])}
    assert apart(weights, swapped) == pytest.approx(12**0.5)
    found = symmetry.matched(steps_of(network), weights, swapped)
    assert all(np.array_equal(found[name], swapped[name]) for name in weights)
    both = {name: np.stack([weights[name], swapped[name]]) for name in weights}
    raw, aligned = symmetry.distances(steps_of(network), both, [(0, 1), (0, 0)])
    assert raw == pytest.approx([(12 / 30) ** 0.5, 0], abs=1e-12)
    assert aligned == pytest.approx([0, 0], abs=1e-12)


def test_orthogonal_networks_have_distance_sqrt_two_and_opposite_ones_two():
    network = dense(2, 2, 2)
    first, second = np.diag([1.0, 0]), np.diag([0, 1.0])
    weights = {
        "linear0.weight": np.stack([first, second, -first]),
        "linear1.weight": np.stack([first, second, -first]),
    }
    raw, aligned = symmetry.distances(steps_of(network), weights, [(0, 1), (0, 2)])
    assert raw == pytest.approx([2**0.5, 2])
    # No permutation of channels makes them equal: they read other inputs and write other outputs.
    assert aligned[0] == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("network", "image"),
    [(networks.mnist(), (1, 28, 28)), (networks.cifar(), (3, 32, 32)), (networks.toy(), (1,))],
    ids=["mnist", "cifar", "toy"],
)
def test_balancing_and_matching_change_no_logit(network, image):
    weights = random_weights(network, 2)
    weights = {n: w / w[0, 0].numel() ** 0.5 for n, w in weights.items()}  # logits of order one
    images = torch.rand(3, *image, generator=stream(2), dtype=torch.float64)
    before = logits(network, weights, images)
    balanced = symmetry.balanced(steps_of(network), weights)
    torch.testing.assert_close(logits(network, balanced, images), before, rtol=1e-9, atol=1e-9)
    moved = symmetry.matched(steps_of(network), one(weights, 0), one(weights, 1))
    moved = {n: w[None] for n, w in moved.items()}
    assert any((moved[n][0] != weights[n][0].numpy()).any() for n in weights)
    torch.testing.assert_close(logits(network, moved, images), before[:1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("network", [deep(), small_network(), dense(3, 4, 5, 4, 2, bias=True)])
def test_balanced_channels_have_equal_incoming_and_outgoing_norms(network):
    balanced = symmetry.balanced(steps_of(network), random_weights(network, 3))
    names = [s.name for s in steps_of(network) if s.has_weights]
    for layer, following in itertools.pairwise(names):
        weight, bias = balanced[f"{layer}.weight"], balanced[f"{layer}.bias"]
        incoming = np.square(weight).reshape(*bias.shape, -1).sum(-1) + np.square(bias)
        # [M, K, channels (and positions)] -> [M, channels, K and positions]
        read = balanced[f"{following}.weight"].swapaxes(1, 2).reshape(*bias.shape, -1)
        assert np.square(read).sum(-1) == pytest.approx(incoming, rel=1e-10)


def test_balancing_is_idempotent_and_minimises_the_norm():
    network = deep()
    weights = random_weights(network, 2)
    balanced = symmetry.balanced(steps_of(network), weights)
    again = symmetry.balanced(steps_of(network), balanced)
    for name in weights:
        np.testing.assert_allclose(again[name], balanced[name], rtol=1e-11)
    least = np.linalg.norm(np.concatenate([x.ravel() for x in balanced.values()]))
    for seed in range(20):
        other = copy_of(network, weights, seed)
        assert np.linalg.norm(np.concatenate([x.ravel() for x in other.values()])) > least
    assert all(np.array_equal(w, random_weights(network, 2)[n]) for n, w in weights.items())


def test_dead_channels_are_not_changed():
    network = dense(2, 3, 2, bias=True)
    weights = random_weights(network, 1)
    weights["linear0.weight"][:, 0] = weights["linear0.bias"][:, 0] = 0  # nothing comes in
    weights["linear1.weight"][:, :, 1] = 0  # nothing goes out
    balanced = symmetry.balanced(steps_of(network), weights)
    assert np.array_equal(balanced["linear0.weight"][0, 1], weights["linear0.weight"][0, 1])
    assert np.array_equal(balanced["linear1.weight"][0, :, 0], weights["linear1.weight"][0, :, 0])
    assert not np.allclose(balanced["linear0.weight"][0, 2], weights["linear0.weight"][0, 2])
    assert np.array_equal(balanced["linear1.bias"], weights["linear1.bias"])
    zeros = {name: np.zeros((2, *w.shape[1:])) for name, w in weights.items()}
    assert symmetry.distances(steps_of(network), zeros, [(0, 1)]) == (0, 0)


@pytest.mark.parametrize("make", [deep, small_network, lambda: dense(2, 6, 6, 6, 1, bias=True)])
@given(seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_a_scaled_and_permuted_copy_has_aligned_distance_zero(make, seed):
    network = make()
    weights = random_weights(network, 1, seed)
    copy = copy_of(network, weights, seed)
    shape = {"conv1": (2, 10, 10), "conv": (1, 8, 8), "linear0": (2,)}[
        next(s.name for s in steps_of(network) if s.has_weights)
    ]
    images = torch.rand(2, *shape, generator=stream(seed), dtype=torch.float64)
    torch.testing.assert_close(
        logits(network, copy, images), logits(network, weights, images), rtol=1e-9, atol=1e-9
    )
    raw, aligned = symmetry.distances(steps_of(network), joined(weights, copy), [(0, 1)])
    assert raw[0] > 0.1
    assert aligned[0] < 1e-9


@given(seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_matching_never_increases_the_distance(seed):
    network = deep()
    weights = random_weights(network, 2, seed)
    balanced = symmetry.balanced(steps_of(network), weights)
    moved = symmetry.matched(steps_of(network), one(balanced, 0), one(balanced, 1))
    unmatched, matched = apart(one(balanced, 0), one(balanced, 1)), apart(moved, one(balanced, 1))
    assert matched <= unmatched * (1 + 1e-12)
    # The norm does not depend on the order, so both distances have the same denominator.
    norm = np.sqrt(np.mean([apart(one(balanced, m), {n: 0.0 for n in balanced}) ** 2 for m in (0, 1)]))
    _, aligned = symmetry.distances(steps_of(network), weights, [(0, 1)])
    assert aligned[0] == pytest.approx(matched / norm, rel=1e-9)
    assert 0 < aligned[0] <= 2


@given(seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_with_one_hidden_layer_the_match_is_optimal_among_all_permutations(seed):
    network = dense(3, 5, 2, bias=True)
    weights = random_weights(network, 2, seed)
    a, b = one(weights, 0), one(weights, 1)

    def permuted(p):
        moved = {name: w[p] for name, w in a.items() if name.startswith("linear0")}
        return moved | {"linear1.weight": a["linear1.weight"][:, p], "linear1.bias": a["linear1.bias"]}

    least = min(apart(permuted(list(p)), b) for p in itertools.permutations(range(5)))
    assert apart(symmetry.matched(steps_of(network), a, b), b) == pytest.approx(least, rel=1e-12)


def test_the_distance_is_the_mean_over_consecutive_pairs_of_the_first_twenty():
    network = small_network()
    weights = random_weights(network, 23)
    pairs = [(m, m + 1) for m in range(19)]
    raw, aligned = symmetry.distances(steps_of(network), weights, pairs)
    found = symmetry.weight_distance(network, {n: w.float() for n, w in weights.items()})
    assert list(found) == ["weight_distance", "weight_distance_aligned"]
    assert found["weight_distance"] == pytest.approx(raw.mean(), rel=1e-5)
    assert found["weight_distance_aligned"] == pytest.approx(aligned.mean(), rel=1e-5)
    assert 0 < found["weight_distance_aligned"] < found["weight_distance"]


def test_networks_that_differ_only_by_symmetry_have_raw_distance_only():
    network = networks.mnist()
    first = {n: w[None] for n, w in networks.initial(networks.shapes(network), stream(3)).items()}
    copies = [copy_of(network, first, seed) for seed in range(4)]
    weights = {name: torch.from_numpy(np.concatenate([c[name] for c in copies])) for name in first}
    images = torch.rand(4, 1, 28, 28, generator=stream(4))
    answers = Engine(network).logits({n: w.float() for n, w in weights.items()}, images)
    torch.testing.assert_close(answers, answers[:1].expand_as(answers), rtol=1e-3, atol=1e-4)
    found = symmetry.weight_distance(network, weights)
    assert found["weight_distance"] > 1
    assert found["weight_distance_aligned"] < 1e-6  # scales are float64 throughout


@pytest.mark.parametrize(
    ("network", "members", "message"),
    [
        (dense(2, 3, 1), 1, "expected two networks or more, found 1"),
        (dense(2, 3, 1, activation=nn.Tanh), 2, "whose symmetries are not known"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(6, 3)), 2, "reads 4 channels from a map"),
        (nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(6, 3)), 2, "reads 3 channels from a vector"),
        (nn.Sequential(nn.Linear(4, 3), nn.MaxPool2d(2), nn.Linear(3, 3)), 2, "pool before flattening"),
    ],
)
def test_one_network_or_unknown_symmetries_are_refused(network, members, message):
    with pytest.raises(ValueError, match=message):
        symmetry.weight_distance(network, random_weights(network, members))


def test_weights_that_do_not_fit_the_network_are_refused():
    network = dense(2, 3, 1)
    weights = random_weights(network, 2)
    infinite = weights | {"linear0.weight": weights["linear0.weight"] * np.inf}
    large = weights | {"linear0.weight": weights["linear0.weight"] * 1e200}
    turned = weights | {"linear0.weight": weights["linear0.weight"].mT}
    for wrong, message in (
        ({"linear0.weight": weights["linear0.weight"]}, "expected weights named"),
        (turned, r"linear0.weight: expected \[M, 3, 2\], found \[2, 2, 3\]"),
        (infinite, "linear0.weight: expected finite weights"),
        (large, "linear0: expected weights with finite squares"),
    ):
        with pytest.raises(ValueError, match=message):
            symmetry.weight_distance(network, wrong)
