"""Near-duplicates and agreement of labels: agreement with a search in pixels, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.metrics import images
from bench.rng import stream


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 10), (1, 3, 3)])
def test_near_duplicates_are_those_of_a_search_in_pixels(shape) -> None:
    known = torch.rand(200, *shape, generator=stream(0, "known"))
    asked = torch.rand(50, *shape, generator=stream(0, "asked"))
    for i, size in enumerate((0.0, 0.01, 0.019, 0.021, 0.05)):
        noise = torch.randn(shape, generator=stream(i, "noise"))
        asked[7 * i] = known[11 * i] + size * noise / noise.square().mean().sqrt()
    index, other, distance = images.near(known, images.blocks(known, 4), asked, images.blocks(asked, 4), 0.02)
    far = (asked[:, None] - known[None]).square().flatten(2).mean(2).sqrt().numpy()
    assert index.tolist() == np.flatnonzero(far.min(1) <= 0.02).tolist() == [0, 7, 14]
    assert other.tolist() == far.argmin(1)[index].tolist() == [0, 11, 22]
    assert distance == pytest.approx(far.min(1)[index], abs=1e-6) and distance[0] == 0


def test_no_image_has_a_share_in_its_own_score() -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(40, 30)), np.arange(40) // 2 % 2
    noise, _ = images.centroid_scores((features, labels), 2, [random.normal(size=(5, 30))])
    assert 0.2 < np.trace(images.confusion(noise, labels)) / 40 < 0.8  # in sample, 30 features fit 40 labels
    features[labels == 1] += 5
    apart, asked = images.centroid_scores((features, labels), 2, [np.full((3, 30), 5.0)])
    assert images.confusion(apart, labels).tolist() == [[20, 0], [0, 20]] and (asked.argmax(1) == 1).all()


def test_a_class_without_training_images_is_never_predicted() -> None:
    features, labels = np.random.default_rng(0).normal(size=(20, 4)), np.arange(20) // 2 % 2
    (scores,) = images.centroid_scores((features, labels), 3, [])
    assert np.isneginf(scores[:, 2]).all() and np.isfinite(scores[:, :2]).all()


def test_the_gap_is_in_standard_errors_of_two_proportions() -> None:
    first, second = np.array([[80, 20], [20, 80]]), np.array([[45, 5], [5, 45]])
    gap, sigmas = images.agreement_gap(first, second)
    pooled = 250 / 300
    assert gap == pytest.approx(0.1)
    assert sigmas == pytest.approx(0.1 / np.sqrt(pooled * (1 - pooled) * (1 / 200 + 1 / 100)))
    assert images.agreement_gap(first, first) == (0, 0)
    assert images.agreement_gap(np.diag([5, 5]), np.diag([5, 5])) == (0, 0)


def test_evidence_of_a_swap_is_the_bayes_factor_and_changes_sign_with_the_classes() -> None:
    first, second = np.array([[1, 0], [0, 1]]), np.array([[0, 1], [1, 0]])
    # Two alike of two classes under a uniform prior: 1/3; one of each, in order: 1/6. Two lines of each kind.
    assert images.swapped(first, second) == {(0, 1): pytest.approx(2 * np.log(2))}
    assert images.swapped(first, first) == {(0, 1): pytest.approx(-2 * np.log(2))}
    many = np.array([[50, 30, 20], [30, 50, 20], [5, 5, 90]])
    exchanged = images.swapped(many, many[[1, 0, 2]])
    assert exchanged[0, 1] == pytest.approx(-images.swapped(many, many)[0, 1]) and exchanged[0, 1] > 3
    assert max(exchanged[0, 2], exchanged[1, 2]) < 0
    assert not images.swapped(many, np.zeros((3, 3), int))
