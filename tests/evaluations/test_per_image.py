"""What accuracy and OOD detection keep per image: enough to pair any two methods at any size asked for."""

from __future__ import annotations

import numpy as np
import pytest
from attacked import trained
from small import load_stripes

from bench.evaluations import Subject, accuracy, ood
from bench.metrics import predictions
from bench.rng import Streams
from bench.task import Scale

SIZES = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def subject():
    drawn = trained(5)
    return Subject(drawn, load_stripes(None), Scale(SIZES), SIZES, drawn)


def value(found, metric, **where):
    (only,) = [r for r in found.rows if r["metric"] == metric and where.items() <= r.items()]
    return only["value"]


def test_predictions_of_every_size_are_kept_in_a_byte_each_and_give_the_accuracy(subject):
    found = accuracy.evaluate(subject, Streams(0, "accuracy"))
    labels = subject.test.labels.numpy()
    for size in SIZES:
        kept = found.arrays[f"{subject.test.name}/{size}/prediction"]
        assert kept.dtype == "u1"
        if size > 1:
            assert (kept == labels).mean() == value(found, "accuracy", members=size)
    right = found.arrays[f"{subject.test.name}/1/right_share"]
    assert right.mean() == pytest.approx(value(found, "accuracy", members=1), abs=1e-6)


def test_entropies_of_every_size_are_kept_in_at_most_four_bytes_and_give_the_auroc(subject):
    found = ood.evaluate(subject, Streams(0, "ood"))
    names = subject.test.name, subject.outliers.name
    for size in SIZES[1:]:
        kept = [found.arrays[f"{name}/{size}/entropy_nats"] for name in names]
        assert {a.dtype for a in kept} == {np.dtype("f4" if size == max(SIZES) else "f2")}
        auroc = predictions.auroc(*(a.astype(float) for a in kept))
        assert auroc == pytest.approx(value(found, "auroc", members=size, dataset=names[1]), abs=0.005)


def test_more_classes_than_a_byte_holds_are_refused():
    with pytest.raises(ValueError, match="at most 256 classes, found 257"):
        accuracy.predicted(np.zeros((1, 257)))


def test_selective_prediction_rejects_by_entropy_with_outliers_mixed_in(subject):
    found = ood.evaluate(subject, Streams(0, "ood"))
    labels = subject.test.labels.numpy()
    parts = [subject.logits(part) for part in (subject.test, subject.outliers)]
    for share in predictions.ACCEPTED:
        asked = {"quantile": share, "dataset": subject.outliers.name, "members": 5}
        log_p = [next(p for n, p, _ in predictions.prefixes(part, {5})) for part in parts]
        right = log_p[0].argmax(-1) == labels
        score = [predictions.entropy(p) for p in log_p]
        expected = predictions.accepted_accuracy(score[0], right, score[1], share)
        assert value(found, "accepted_accuracy", **asked) == expected
        # Of single networks, the mean.
        each = []
        for inside, outside in zip(*parts, strict=True):
            own = [predictions.log_probabilities(p) for p in (inside, outside)]
            right, score = own[0].argmax(-1) == labels, [predictions.entropy(p) for p in own]
            each.append(predictions.accepted_accuracy(score[0], right, score[1], share))
        single = value(found, "accepted_accuracy", **(asked | {"members": 1}))
        assert single == pytest.approx(np.mean(each), abs=1e-12)
