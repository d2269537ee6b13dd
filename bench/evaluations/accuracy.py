"""Accuracy and calibration on test images, by ensemble size."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.evaluations.subject import SINGLES, Result, Subject
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of accuracy and calibration per size; arrays per image, complete for size 1 and the largest.

    Other sizes keep the predicted class alone, so that any two methods can be compared at any size that
    both have; size 1 also the share of the single networks that are right, which its accuracy averages.
    Size 1 is the mean over single networks; larger sizes average probabilities over the first n.
    accuracy_draw_sd: standard deviation (ddof=1) over at least two disjoint ensembles of one size.
    """
    test = subject.test
    labels = test.labels.numpy()
    logits = subject.logits(test)
    common = {"evaluation": "accuracy", "dataset": test.name, "examples": len(test)}
    result = Result()
    if 1 in subject.sizes:
        singles = [
            predictions.classification(predictions.log_probabilities(m), labels) for m in logits[:SINGLES]
        ]
        right = (logits[:SINGLES].argmax(-1) == labels).mean(0)
        result.arrays[f"{test.name}/1/right_share"] = right.astype("f4")
        result.rows += [
            row(name, float(np.mean([s[name] for s in singles])), members=1, **common) for name in singles[0]
        ]
        result.rows += draw_sd("accuracy", [s["accuracy"] for s in singles], members=1, **common)
    for size, log_p, expected in predictions.prefixes(logits, {1, *subject.sizes}):
        prefix = f"{test.name}/{size}"
        if size > 1:
            found = predictions.classification(log_p, labels)
            result.rows += [row(name, value, members=size, **common) for name, value in found.items()]
            drawn = [float((p.argmax(-1) == labels).mean()) for p, _ in predictions.disjoint(logits, size)]
            result.rows += draw_sd("accuracy", drawn, members=size, **common)
            result.arrays[f"{prefix}/prediction"] = predicted(log_p)
        if size in (1, max(subject.sizes)):
            result.arrays |= per_image(prefix, log_p, expected)
            result.arrays |= {
                f"{prefix}/label_probability": np.exp(log_p[np.arange(len(labels)), labels]).astype("f4"),
                f"{prefix}/brier": predictions.brier(log_p, labels).astype("f4"),
            }
    result.arrays[f"{test.name}/label"] = labels.astype("i2")
    return result


def draw_sd(metric: str, values: list[float], **common: Any) -> list[dict[str, Any]]:
    """The row of a metric's standard deviation over independent draws; none for fewer than two draws."""
    if len(values) < 2:
        return []
    return [row(f"{metric}_draw_sd", float(np.std(values, ddof=1)), **common)]


def predicted(log_p: np.ndarray) -> np.ndarray:
    """The predicted class per image, [B] in one byte; log_p [B, K]. Raises ValueError for K > 256."""
    if log_p.shape[-1] > 256:
        raise ValueError(f"expected at most 256 classes, found {log_p.shape[-1]}; store wider predictions")
    return log_p.argmax(-1).astype("u1")


def per_image(prefix: str, log_p: np.ndarray, expected: np.ndarray) -> dict[str, np.ndarray]:
    """Per-image arrays that need no labels: entropy, expected entropy, predicted class, confidence."""
    return {
        f"{prefix}/entropy_nats": predictions.entropy(log_p).astype("f4"),
        f"{prefix}/expected_entropy_nats": expected.astype("f4"),
        f"{prefix}/prediction": predicted(log_p),
        f"{prefix}/confidence": np.exp(log_p.max(-1)).astype("f4"),
    }
