"""Diversity of weights and of predictions, by hand and by invariance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.diversity import disagreement, weight_statistics
from bench.rng import stream


def test_disagreement_by_hand():
    assert disagreement(np.array([[0, 1, 2, 0], [0, 1, 1, 1], [0, 2, 1, 0]])) == pytest.approx(0.5)
    assert disagreement(np.array([[0, 1, 2]])) == 0


@given(arrays(np.int64, (5, 8), elements=st.integers(0, 3)))
def test_disagreement_is_the_mean_over_pairs(predictions):
    pairs = [np.mean(a != b) for a, b in itertools.combinations(predictions, 2)]
    assert disagreement(predictions) == pytest.approx(np.mean(pairs))


def test_equal_networks_have_no_spread():
    one = torch.randn(1, 4, 3, generator=stream(0))
    found = weight_statistics({"layer.weight": one.repeat(5, 1, 1), "layer.bias": torch.randn(5, 4)})
    assert list(found) == ["layer"]
    assert found["layer"]["weight_norm_mean"] == pytest.approx(one.norm().item(), rel=1e-6)
    for metric, value in (("weight_norm_sd", 0), ("weight_spread", 0), ("weight_cosine", 1)):
        assert found["layer"][metric] == pytest.approx(value, abs=1e-6)


def test_norms_are_radial_and_spread_sees_directions():
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
