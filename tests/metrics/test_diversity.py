"""Diversity of weights and of predictions, against hand-worked values and invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr

from bench.metrics.diversity import (
    disagreement,
    double_fault,
    effective_networks,
    pairwise_kl,
    weight_statistics,
)
from bench.rng import stream

LOGITS = arrays(np.float64, (4, 6, 3), elements=st.floats(-30, 30))


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def test_disagreement_by_hand():
    assert disagreement(np.array([[0, 1, 2, 0], [0, 1, 1, 1], [0, 2, 1, 0]])) == pytest.approx(0.5)
    assert disagreement(np.array([[0, 1, 2]])) == 0


@given(arrays(np.int64, (5, 8), elements=st.integers(0, 3)))
def test_disagreement_is_the_mean_over_pairs(predictions):
    pairs = [np.mean(a != b) for a, b in itertools.combinations(predictions, 2)]
    assert disagreement(predictions) == pytest.approx(np.mean(pairs))


@given(LOGITS)
def test_pairwise_kl_is_the_mean_over_pairs(logits):
    p = softmax(logits)
    pairs = [rel_entr(a, b).sum(-1).mean() for a, b in itertools.permutations(p, 2)]
    assert pairwise_kl(logits) == pytest.approx(np.mean(pairs), rel=1e-9, abs=1e-9)


def test_pairwise_kl_by_hand():
    # KL in both directions between (.9, .1) and (.1, .9): 1.757780; one network has no pair.
    logits = np.log([[[0.9, 0.1]], [[0.1, 0.9]]])
    assert pairwise_kl(logits) == pytest.approx(1.757780, abs=1e-6)
    assert pairwise_kl(logits[:1]) == 0


def test_double_fault_by_hand():
    predictions, labels = np.array([[0, 1, 2, 0], [0, 1, 1, 1], [0, 2, 1, 0]]), np.array([0, 1, 1, 0])
    assert double_fault(predictions, labels) == 0  # each image has one network wrong at most
    assert double_fault(predictions, np.array([1, 1, 1, 0])) == pytest.approx(1 / 4)
    assert double_fault(predictions[:1], labels) == 0


@given(arrays(np.int64, (5, 8), elements=st.integers(0, 3)), arrays(np.int64, 8, elements=st.integers(0, 3)))
def test_double_fault_is_the_mean_over_pairs(predictions, labels):
    wrong = predictions != labels
    pairs = [np.mean(a & b) for a, b in itertools.combinations(wrong, 2)]
    assert double_fault(predictions, labels) == pytest.approx(np.mean(pairs))


def test_effective_networks_of_equal_and_of_disjoint_networks():
    same = np.repeat(np.random.default_rng(0).normal(size=(1, 1500, 4)), 5, 0)
    assert effective_networks(same) == pytest.approx(1, abs=1e-9)
    apart = np.where(np.eye(4, dtype=bool)[:, None].repeat(7, 1), 2000.0, 0.0)
    assert effective_networks(apart) == pytest.approx(4, abs=1e-9)
    # Two groups of two equal networks: two functions.
    assert effective_networks(apart[[0, 0, 1, 1]]) == pytest.approx(2, abs=1e-9)


def test_equal_networks_have_no_spread():
    one = torch.randn(1, 4, 3, generator=stream(0))
    found = weight_statistics({"layer.weight": one.repeat(5, 1, 1), "layer.bias": torch.randn(5, 4)})
    assert list(found) == ["layer"]
    assert found["layer"]["weight_norm_mean"] == pytest.approx(one.norm().item(), rel=1e-6)
    for metric, value in (("weight_norm_sd", 0), ("weight_spread", 0), ("weight_cosine", 1)):
        assert found["layer"][metric] == pytest.approx(value, abs=1e-6)


def test_norms_ignore_directions_and_spread_does_not():
    angles = torch.arange(8) * torch.pi / 4
    found = weight_statistics(
        {"l.weight": torch.stack([angles.cos(), angles.sin()], 1) + torch.tensor([3.0, 0])}
    )
    turned = weight_statistics({"l.weight": torch.stack([angles.cos(), angles.sin()], 1) * 2})
    assert turned["l"]["weight_norm_sd"] == pytest.approx(0, abs=1e-6)
    assert turned["l"]["weight_cosine"] == pytest.approx(-1 / 7, abs=1e-6)
    assert found["l"]["weight_spread"] == pytest.approx(1 / 3, abs=1e-6)  # unit circle around (3, 0)


def test_independent_networks_are_orthogonal_with_little_norm_spread():
    w = torch.randn(20, 32, 25, generator=stream(1))
    found = weight_statistics({"l.weight": w})["l"]
    assert abs(found["weight_cosine"]) < 0.02
    # iid N(0, s^2) weights: the norm's sd is s / sqrt 2 for any size.
    assert found["weight_norm_sd"] == pytest.approx(0.5**0.5, rel=0.4)
