"""Metrics against worked examples, closed forms and libraries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy as scipy_entropy
from scipy.stats import mannwhitneyu
from sklearn.metrics import brier_score_loss, log_loss

from bench.metrics import predictions

LOGITS = arrays(np.float64, (4, 6, 3), elements=st.floats(-30, 30))


def log(p):
    return np.log(np.array(p, dtype=float))


def mixture(members):
    """Predictive entropy, expected entropy and mutual information for one image."""
    ((_, log_p, expected),) = predictions.prefixes(log(members)[:, None, :], {len(members)})
    total = predictions.entropy(log_p)
    return total[0], expected[0], (total - expected)[0]


def test_entropy_decomposition_by_hand():
    assert mixture([[0.9, 0.1], [0.1, 0.9]]) == pytest.approx((0.693147, 0.325083, 0.368064), abs=1e-6)
    three = [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]]
    assert mixture(three) == pytest.approx((1.096067, 0.913162, 0.182906), abs=1e-6)


def test_entropy_of_uniform_is_log_k():
    assert predictions.entropy(log([0.1] * 10)) == pytest.approx(np.log(10), abs=1e-12)


def test_entropy_is_finite_where_a_probability_underflows():
    log_p = predictions.log_probabilities(np.array([[2000.0, 0.0, -2000.0]], dtype=np.float32))
    assert predictions.entropy(log_p)[0] == 0
    assert -log_p[0, 2] == 4000


@given(LOGITS)
def test_mutual_information_is_within_its_bounds(logits):
    for size, log_p, expected in predictions.prefixes(logits, {1, 2, 4}):
        total = predictions.entropy(log_p)
        assert (expected <= total + 1e-9).all()
        assert (total <= np.log(3) + 1e-9).all()
        assert (total - expected <= np.log(size) + 1e-9).all()
        np.testing.assert_allclose(np.exp(log_p).sum(-1), 1)


@given(LOGITS)
def test_an_ensemble_is_no_worse_than_its_mean_member_in_nll_and_brier(logits):
    labels = np.array([0, 1, 2, 0, 1, 2])
    members = [predictions.classification(predictions.log_probabilities(m), labels) for m in logits]
    ((_, log_p, _),) = predictions.prefixes(logits, {4})
    together = predictions.classification(log_p, labels)
    for name in ("nll_nats", "brier"):
        assert together[name] <= np.mean([m[name] for m in members]) + 1e-9


@given(LOGITS)
def test_entropy_agrees_with_scipy(logits):
    log_p = predictions.log_probabilities(logits[0])
    np.testing.assert_allclose(predictions.entropy(log_p), scipy_entropy(np.exp(log_p), axis=-1), atol=1e-9)


def test_nll_and_brier_agree_with_scikit_learn_and_by_hand():
    p, y = [[0.7, 0.2, 0.1], [0.3, 0.4, 0.3]], np.array([0, 2])
    found = predictions.classification(log(p), y)
    assert found["nll_nats"] == pytest.approx(0.780324, abs=1e-6)
    assert found["nll_nats"] == pytest.approx(log_loss(y, p, labels=[0, 1, 2]))
    assert found["brier"] == pytest.approx(0.44)
    assert found["brier"] == pytest.approx(brier_score_loss(y, p, labels=[0, 1, 2], scale_by_half=False))


def test_ece_by_hand():
    confidence = np.array([0.95, 0.95, 0.85, 0.65, 0.65])
    assert predictions.ece(confidence, np.array([1, 0, 1, 1, 0], bool), bins=10) == pytest.approx(0.27)
    assert predictions.ece(np.array([1.0, 1.0]), np.array([1, 0], bool), bins=10) == pytest.approx(0.5)


def test_adaptive_ece_by_hand():
    # Three bins of two images: 1, 2 and 1 of them are right.
    confidence = np.array([0.55, 0.6, 0.7, 0.8, 0.9, 0.95])
    correct = np.array([1, 0, 1, 1, 0, 1], bool)
    by_hand = (abs(1 - 1.15) + abs(2 - 1.5) + abs(1 - 1.85)) / 6
    assert predictions.adaptive_ece(confidence, correct, bins=3) == pytest.approx(by_hand, abs=1e-12)
    assert by_hand == pytest.approx(0.25)
    assert predictions.adaptive_ece(confidence[::-1], correct[::-1], bins=3) == pytest.approx(
        by_hand, abs=1e-12
    )


def test_images_of_equal_confidence_share_a_bin():
    confidence = np.full(30, 0.5)
    for correct in (np.arange(30) < 15, np.arange(30) % 2 == 0):
        assert predictions.adaptive_ece(confidence, correct) == 0  # half of them are right
    # The third image begins the second bin of two; its ties are three, so that one is left for the third bin.
    confidence, correct = np.array([0.1, 0.2, 0.5, 0.5, 0.5, 0.9]), np.array([0, 0, 1, 1, 0, 1], bool)
    by_hand = (0.3 + abs(2 - 1.5) + 0.1) / 6
    assert predictions.adaptive_ece(confidence, correct, bins=3) == pytest.approx(by_hand, abs=1e-12)


@given(
    arrays(np.float64, 12, elements=st.integers(0, 4).map(lambda k: k / 4)),
    arrays(np.bool_, 12),
    st.permutations(range(12)),
    st.integers(1, 15),
)
def test_adaptive_ece_does_not_depend_on_the_order_of_tied_images(confidence, correct, order, bins):
    order = list(order)
    found = predictions.adaptive_ece(confidence, correct, bins)
    assert predictions.adaptive_ece(confidence[order], correct[order], bins) == found  # bit for bit


@given(
    arrays(np.float64, 17, elements=st.floats(0, 1), unique=True), arrays(np.bool_, 17), st.integers(1, 20)
)
def test_without_ties_the_bins_of_adaptive_ece_are_equal(confidence, correct, bins):
    order = np.argsort(confidence)
    gaps = np.array_split(correct[order] - confidence[order], bins)
    expected = sum(abs(gap.sum()) for gap in gaps) / 17
    assert predictions.adaptive_ece(confidence, correct, bins) == expected  # bit for bit


def test_aurc_by_hand():
    # From the most confident: right, wrong, right, wrong; risks 0, 1/2, 1/3, 1/2.
    confidence, correct = np.array([0.6, 0.9, 0.5, 0.8]), np.array([1, 1, 0, 0], bool)
    assert predictions.aurc(confidence, correct) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4, abs=1e-12)
    assert predictions.aurc(confidence, np.ones(4, bool)) == 0
    assert predictions.aurc(np.full(4, 0.7), correct) == pytest.approx(1 / 2)  # equal confidences: no ranking


@given(arrays(np.float64, 8, elements=st.floats(0, 1)), arrays(np.bool_, 8), st.permutations(range(8)))
def test_calibration_and_aurc_do_not_depend_on_the_order_of_images(confidence, correct, order):
    order = list(order)
    assert predictions.aurc(confidence[order], correct[order]) == pytest.approx(
        predictions.aurc(confidence, correct)
    )
    assert predictions.ece(confidence[order], correct[order]) == pytest.approx(
        predictions.ece(confidence, correct)
    )
    assert 0 <= predictions.aurc(confidence, correct) <= 1


def test_a_better_ranking_by_confidence_has_a_smaller_aurc():
    correct = np.array([1, 1, 1, 0, 0], bool)
    best = predictions.aurc(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), correct)
    assert best == pytest.approx((1 / 4 + 2 / 5) / 5)
    assert best < predictions.aurc(np.array([0.5, 0.6, 0.7, 0.8, 0.9]), correct)


@pytest.mark.parametrize(
    ("p", "labels", "message"),
    [
        ([[0.7, 0.2]], [0], "sum to one, found 1 of 1"),
        ([[np.nan, 0.5], [0.5, 0.5]], [0, 1], "sum to one, found 1 of 2"),
        ([[0.5, 0.5]], [2], "labels from 0 to 1"),
        ([[0.5, 0.5]], [0, 1], "at least one image"),
        (np.zeros((0, 2)), [], "at least one image"),
    ],
)
def test_invalid_predictions_are_refused(p, labels, message):
    with pytest.raises(ValueError, match=message):
        predictions.classification(log(p), np.array(labels, dtype=int))


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], []), ([1.0, np.nan], [2.0])])
def test_auroc_of_an_empty_set_or_of_nan_scores_is_refused(inside, outside):
    for metric in (predictions.auroc, predictions.separation):
        with pytest.raises(ValueError, match="scores"):
            metric(np.array(inside), np.array(outside))


def test_separation_by_hand():
    inside, outside = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.35, 0.5, 0.6])
    found = predictions.separation(inside, outside)
    assert found["auroc"] == pytest.approx(11 / 12)
    assert found["aupr_out"] == pytest.approx(11 / 12)
    assert found["aupr_in"] == pytest.approx(0.95)
    assert found["fpr95_id_positive"] == pytest.approx(1 / 3)
    assert found["fpr95_ood_positive"] == pytest.approx(1 / 4)


def test_accepted_accuracy_by_hand():
    inside, outside = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.35, 0.5])
    right = np.array([True, True, False, True])
    # Outliers are a third of the mixture: every image weighs a sixth.
    for accepted, by_hand in ((1, 3 / 6), (5 / 6, 3 / 5), (4 / 6, 2 / 4), (3 / 6, 2 / 3), (1 / 6, 1)):
        found = predictions.accepted_accuracy(inside, right, outside, accepted, 1 / 3)
        assert found == pytest.approx(by_hand, abs=1e-12), accepted
    # Of the two images at 0.4, one right and one an outlier, half is answered: (2 + 0.5) / 4.
    tied = np.array([0.4, 0.5])
    assert predictions.accepted_accuracy(inside, right, tied, 4 / 6, 1 / 3) == pytest.approx(2.5 / 4)
    # A perfect score rejects the outliers alone; a constant one rejects at random.
    assert predictions.accepted_accuracy(inside, right, outside + 1, 0.9) == pytest.approx(3 / 4)
    for accepted in predictions.ACCEPTED:
        assert predictions.accepted_accuracy(np.zeros(4), right, np.zeros(9), accepted) == pytest.approx(
            0.9 * 3 / 4
        )


@given(
    arrays(np.float64, 6, elements=st.integers(0, 3).map(float)),
    arrays(np.bool_, 6),
    arrays(np.float64, 4, elements=st.integers(0, 3).map(float)),
    st.sampled_from((*predictions.ACCEPTED, 0.5)),
)
def test_accepted_accuracy_is_the_mean_over_all_orders_of_ties(inside, right, outside, accepted):
    found = predictions.accepted_accuracy(inside, right, outside, accepted, 0.4)
    score = np.concatenate([inside, outside])
    told = np.concatenate([right, np.zeros(4, bool)])
    # Every image weighs a tenth; by enumeration of the order within the group at the threshold.
    count = accepted * 10
    below = np.sort(score)[int(np.ceil(count - 1e-9)) - 1]
    sure, tied = told[score < below], told[score == below]
    by_hand = (sure.sum() + (count - len(sure)) * tied.mean()) / count
    assert found == pytest.approx(by_hand, abs=1e-9)
    # More copies of the same outliers change nothing.
    again = predictions.accepted_accuracy(inside, right, np.tile(outside, 3), accepted, 0.4)
    assert again == pytest.approx(found, abs=1e-9)


def test_accepted_accuracy_refuses_shares_and_answers_that_do_not_fit():
    for right, accepted, share in ((np.ones(3), 0.9, 0.1), (np.ones(2), 0, 0.1), (np.ones(2), 0.9, 1)):
        with pytest.raises(ValueError, match="expected one answer per inlier"):
            predictions.accepted_accuracy(np.zeros(2), right, np.zeros(2), accepted, share)
    with pytest.raises(ValueError, match="2 NaN"):
        predictions.accepted_accuracy(np.full(2, np.nan), np.ones(2), np.zeros(2), 0.9)


@given(
    arrays(np.float64, 7, elements=st.integers(0, 5).map(float)),
    arrays(np.float64, 5, elements=st.integers(0, 5).map(float)),
)
def test_auroc_is_the_probability_of_a_larger_score_and_symmetric(inside, outside):
    found = predictions.auroc(inside, outside)
    expected = mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside))
    assert found == pytest.approx(expected)
    assert predictions.auroc(-inside, -outside) == pytest.approx(1 - found)
    assert predictions.auroc(inside, inside) == pytest.approx(0.5)
    assert predictions.separation(inside, outside)["auroc"] == found


def test_a_constant_score_does_not_separate():
    found = predictions.separation(np.zeros(6), np.zeros(3))
    assert found == pytest.approx(
        {
            "auroc": 0.5,
            "aupr_out": 1 / 3,
            "aupr_in": 2 / 3,
            "fpr95_id_positive": 1.0,
            "fpr95_ood_positive": 1.0,
        }
    )
