"""Every public metric refuses NaN, nothing and labels that are no class: none of them may become a number."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from bench.metrics import diversity, predictions

LOGITS = np.random.default_rng(0).normal(size=(3, 4, 3))
LOG_P = predictions.log_probabilities(LOGITS[0])
LABELS = np.array([0, 1, 2, 0])
SCORES = np.array([0.2, 0.4, 0.6, 0.9])
RIGHT = np.array([True, False, True, True])
OUTPUTS = LOGITS[..., :2]

# Arguments that each public function accepts.
SOUND = {
    predictions.log_probabilities: (LOGITS,),
    predictions.entropy: (LOG_P,),
    predictions.prefixes: (LOGITS, {3}),
    predictions.disjoint: (LOGITS, 2),
    predictions.brier: (LOG_P, LABELS),
    predictions.ece: (SCORES, RIGHT),
    predictions.adaptive_ece: (SCORES, RIGHT),
    predictions.aurc: (SCORES, RIGHT),
    predictions.classification: (LOG_P, LABELS),
    predictions.separation: (SCORES, SCORES),
    predictions.auroc: (SCORES, SCORES),
    predictions.accepted_accuracy: (SCORES, RIGHT, SCORES, 0.9),
    predictions.variance: (SCORES,),
    predictions.gaussian_log_likelihoods: (OUTPUTS, SCORES, 3.0),
    predictions.mixture_log_likelihood: (LOGITS[0],),
    predictions.covered: (SCORES, SCORES, SCORES, 3.0),
    predictions.gaussian_wasserstein2: (SCORES, SCORES, SCORES, SCORES),
    diversity.pairwise_kl: (LOGITS,),
    diversity.double_fault: (LOGITS.argmax(-1), LABELS),
    diversity.effective_networks: (LOGITS,),
    diversity.disagreement: (LOGITS.argmax(-1),),
}


def broken(metric, change, kinds):
    """The accepted arguments, one array of these kinds at a time replaced by a changed copy."""
    arguments = SOUND[metric]
    for i, value in enumerate(arguments):
        if isinstance(value, np.ndarray) and value.dtype.kind in kinds:
            yield (*arguments[:i], change(value.copy()), *arguments[i + 1 :])


def ask(metric, arguments):
    found = metric(*arguments)
    return list(found) if inspect.isgenerator(found) else found


def with_first(value):
    def change(array):
        array.reshape(-1)[0] = value
        return array

    return change


def test_every_public_metric_is_listed_here():
    public = {
        f
        for module in (predictions, diversity)
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and not name.startswith(("_", "check_"))
    }
    assert public == {*SOUND, diversity.weight_statistics}


@pytest.mark.parametrize("metric", SOUND, ids=lambda f: f.__name__)
def test_nan_and_nothing_are_refused_and_the_rest_is_not(metric):
    ask(metric, SOUND[metric])
    for arguments in (
        *broken(metric, with_first(np.nan), "f"),
        *broken(metric, lambda a: a[:0], "fib"),
        *broken(metric, lambda a: a[..., :0], "fib"),
    ):
        with pytest.raises(ValueError):
            ask(metric, arguments)


@pytest.mark.parametrize("wrong", [-1, 3])
@pytest.mark.parametrize("metric", [predictions.brier, predictions.classification])
def test_labels_that_are_no_class_are_refused(metric, wrong):
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        metric(LOG_P, np.array([0, 1, 2, wrong]))
    with pytest.raises(ValueError, match="integer labels"):
        metric(LOG_P, LABELS.astype(float))


def test_labels_and_classes_below_zero_are_refused_by_diversity():
    with pytest.raises(ValueError, match="labels from 0"):
        diversity.double_fault(LOGITS.argmax(-1), np.array([0, 1, 2, -1]))
    for metric, arguments in ((diversity.disagreement, ()), (diversity.double_fault, (LABELS,))):
        with pytest.raises(ValueError, match="classes from 0 on, found -1"):
            metric(np.array([[0, 1, 2, -1]]), *arguments)


@pytest.mark.parametrize("metric", [predictions.ece, predictions.adaptive_ece])
def test_confidences_that_are_no_probability_are_refused(metric):
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="confidences from 0 to 1"):
            metric(np.array([0.5, wrong]), np.array([True, False]))
    with pytest.raises(ValueError, match="booleans"):
        metric(SCORES, RIGHT.astype(float))
    with pytest.raises(ValueError, match="at least one bin"):
        metric(SCORES, RIGHT, 0)


def test_probabilities_that_do_not_sum_to_one_have_no_entropy():
    with pytest.raises(ValueError, match="sum to one, found"):
        predictions.entropy(np.log([[0.7, 0.2]]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_have_no_statistics(value):
    with pytest.raises(ValueError, match=r"l\.weight: expected finite weights"):
        diversity.weight_statistics({"l.weight": torch.full((2, 3), value)})
    with pytest.raises(ValueError, match="at least one network"):
        diversity.weight_statistics({"l.weight": torch.zeros(0, 3)})
