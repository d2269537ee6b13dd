"""Canaries: questions with known answers, asked with every out-of-distribution cell; a wrong one fails it."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError
from bench.evaluations.subject import Subject
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams
from bench.task import Data

REPEATED = 200  # test images that are predicted a second time
MOVED = 1e-3  # nats; batches of another size round an entropy by 1e-5 at most
SIGMAS = 4.5  # a right canary sings falsely once in 150,000 cells
ROUNDING = 1e-9  # of float64 over K classes


class CanaryError(BenchError):
    """A question with a known answer got another one: no number of the cell can be trusted."""


def check(subject: Subject, rng: Streams) -> list[dict[str, Any]]:
    """Rows of variant `canary`: what each question gave, of the largest ensemble.

    - auroc: test images against themselves, predicted a second time; 0.5.
    - shared_images: outliers that also lie in the training, validation or test set; 0.
    - accuracy: against shuffled labels; sum_k p_k q_k, the shares of class k among predictions and labels.
    - entropy_nats: of networks that give every class one probability; ln K.

    Raises CanaryError where one is wrong.
    """
    return [_itself(subject), _shared(subject), _shuffled(subject, rng), _uniform(subject)]


def _row(subject: Subject, metric: str, value: float, dataset: str, examples: int) -> dict[str, Any]:
    common = {"evaluation": "ood", "variant": "canary", "members": len(subject.ensemble)}
    return row(metric, value, dataset=dataset, examples=examples, **common)


def _fused(logits: np.ndarray) -> np.ndarray:
    ((_, log_p, _),) = predictions.prefixes(logits, {len(logits)})
    return log_p


def _itself(subject: Subject) -> dict[str, Any]:
    part = subject.test.first(REPEATED)
    first = predictions.entropy(_fused(subject.logits(subject.test)[:, : len(part)]))
    again = predictions.entropy(_fused(subject.predict(part)))
    value = predictions.auroc(first, again)
    moved = float(np.abs(first - again).max())
    # Rounding may turn each image against its own copy, and no other.
    if not (moved <= MOVED and abs(value - 0.5) <= 1 / len(part)):
        raise CanaryError(
            f"{part.name}: expected the entropies of {len(part)} images predicted twice to be the same "
            f"(AUROC 0.5), found AUROC {value:.4f} and one that moved by {moved:.3g} nats; a member is one "
            "function for every image, every time: fold its noise into weights"
        )
    return _row(subject, "auroc", value, part.name, len(part))


def _shared(subject: Subject) -> dict[str, Any]:
    outliers = subject.outliers
    count = shared_images(subject.data)
    if count:
        raise CanaryError(
            f"{outliers.name}: expected outliers that are nowhere in {subject.test.name}, found {count} "
            "images that are; read another outlying set"
        )
    return _row(subject, "shared_images", count, outliers.name, len(outliers))


def shared_images(data: Data) -> int:
    """How many outliers are, pixel by pixel, an image of the training, validation or test set."""
    if data.outliers is None:
        return 0
    known = {h for part in (data.train, data.val, data.test) for h in _hashes(part.images)}
    return sum(h in known for h in _hashes(data.outliers.images))


def _hashes(images: torch.Tensor) -> list[bytes]:
    return [hashlib.blake2b(x.tobytes(), digest_size=16).digest() for x in images.contiguous().numpy()]


def _shuffled(subject: Subject, rng: Streams) -> dict[str, Any]:
    test = subject.test
    log_p, labels = _fused(subject.logits(test)), test.labels.numpy()
    count, classes = len(labels), log_p.shape[-1]
    order = torch.randperm(count, generator=rng("canary")).numpy()
    value = predictions.classification(log_p, labels[order])["accuracy"]
    shares = [np.bincount(k, minlength=classes) / count for k in (log_p.argmax(-1), labels)]
    chance = float(shares[0] @ shares[1])
    if np.count_nonzero(shares[1]) < 2:
        raise CanaryError(f"{test.name}: expected labels of several classes, found one; read the whole set")
    if not abs(value - chance) <= SIGMAS * math.sqrt(chance * (1 - chance) / count) + ROUNDING:
        raise CanaryError(
            f"{test.name}: expected chance accuracy {chance:.4f} against shuffled labels, found {value:.4f}; "
            "accuracy does not look at labels, or labels leak into predictions"
        )
    return _row(subject, "accuracy", value, test.name, count)


def _uniform(subject: Subject) -> dict[str, Any]:
    classes = subject.classes
    value = float(predictions.entropy(_fused(np.zeros((2, 1, classes), np.float32)))[0])
    if not abs(value - math.log(classes)) <= ROUNDING:
        raise CanaryError(
            f"expected entropy ln {classes} = {math.log(classes):.6f} nats of equal probabilities, found "
            f"{value:.6f}; entropy is not in nats, or not of the mean probability"
        )
    return _row(subject, "entropy_nats", value, subject.test.name, 1)
