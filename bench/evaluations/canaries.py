"""Canaries: checks with known answers. In out-of-distribution cells a wrong answer fails the cell.

Every cell also asks whether a network's output for an image depends on the other images of its batch. A
layer that does so by its kind is refused where the network is read; what else does so is seen here, and the
report flags it: outputs differ by rounding in any case, so that the answer is a number. Canaries of the data,
which need no network, are in `bench.evaluations.data_canaries`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError
from bench.evaluations.subject import Subject
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams

REPEATED_IMAGES = 200  # test images that are predicted a second time
MAX_SHIFT_NATS = 1e-3  # rounding in batches of another size changes an entropy by at most 1e-5
SIGMAS = 4.5  # a correct ensemble fails this canary in about one of 150,000 cells
ASKED_NETWORKS, ASKED_IMAGES, ASKED_ALONE = 10, 50, 5  # for the dependence on the batch: a few milliseconds
ASKED_TOGETHER = 7  # images of another batch size
ROUNDING = 1e-9  # of float64 sums over K classes


class CanaryError(BenchError):
    """A check with a known answer failed: no number of the cell can be trusted."""


def check(subject: Subject, rng: Streams) -> list[dict[str, Any]]:
    """Rows of variant `canary`: the result of each check for the largest ensemble.

    - auroc: test images against themselves, predicted a second time; expected 0.5.
    - accuracy: against shuffled labels; expected sum_k p_k q_k, class shares of predictions and labels.
    - entropy_nats: of networks with uniform probabilities; expected ln K.

    Raises CanaryError if one is wrong.
    """
    return [
        _self_auroc(subject),
        _shuffled_accuracy(subject, rng),
        _uniform_entropy(subject),
    ]


def batch_dependence(subject: Subject) -> dict[str, Any]:
    """The row of how much outputs for an image depend on the other images of its batch; expected 0.

    The largest change of an output, relative to the largest output, where the first test images are asked
    alone, in reverse order, and in batches of another size, of the first networks. Rounding gives 1e-6.
    """
    part, networks = subject.test.first(ASKED_IMAGES), subject.ensemble[:ASKED_NETWORKS]
    images, count = part.images, len(part)
    among_all = subject.logits(subject.test)[:ASKED_NETWORKS, :count]
    asked = (
        networks.logits(images[:ASKED_ALONE], 1),
        networks.logits(images.flip(0), count).flip(1),
        networks.logits(images, ASKED_TOGETHER),
    )
    scale = max(float(np.abs(among_all).max()), float(np.finfo("f4").tiny))
    changes = [np.abs(found.numpy() - among_all[:, : found.shape[1]]).max() / scale for found in asked]
    common = {"evaluation": "canary", "variant": "canary", "members": len(networks), "examples": count}
    return row("batch_dependence", float(np.max(changes)), dataset=part.name, **common)


def _row(subject: Subject, metric: str, value: float, dataset: str, examples: int) -> dict[str, Any]:
    common = {"evaluation": "ood", "variant": "canary", "members": len(subject.ensemble)}
    return row(metric, value, dataset=dataset, examples=examples, **common)


def _fused(logits: np.ndarray) -> np.ndarray:
    ((_, log_p, _),) = predictions.prefixes(logits, {len(logits)})
    return log_p


def _self_auroc(subject: Subject) -> dict[str, Any]:
    part = subject.test.first(REPEATED_IMAGES)
    first = predictions.entropy(_fused(subject.logits(subject.test)[:, : len(part)]))
    again = predictions.entropy(_fused(subject.predict(part)))
    value = predictions.auroc(first, again)
    moved = float(np.abs(first - again).max())
    # Rounding may change the order of an image and its own copy only.
    if not (moved <= MAX_SHIFT_NATS and abs(value - 0.5) <= 1 / len(part)):
        raise CanaryError(
            f"{part.name}: expected the entropies of {len(part)} images predicted twice to be the same "
            f"(AUROC 0.5), found AUROC {value:.4f} and changes of up to {moved:.3g} nats; members must be "
            "deterministic functions: fold noise into the weights"
        )
    return _row(subject, "auroc", value, part.name, len(part))


def _shuffled_accuracy(subject: Subject, rng: Streams) -> dict[str, Any]:
    test = subject.test
    log_p, labels = _fused(subject.logits(test)), test.labels.numpy()
    count, classes = len(labels), log_p.shape[-1]
    order = torch.randperm(count, generator=rng("canary")).numpy()
    value = predictions.classification(log_p, labels[order])["accuracy"]
    shares = [np.bincount(k, minlength=classes) / count for k in (log_p.argmax(-1), labels)]
    chance = float(shares[0] @ shares[1])
    if np.count_nonzero(shares[1]) < 2:
        raise CanaryError(f"{test.name}: expected labels of several classes, found one; use the whole set")
    if not abs(value - chance) <= SIGMAS * math.sqrt(chance * (1 - chance) / count) + ROUNDING:
        raise CanaryError(
            f"{test.name}: expected chance accuracy {chance:.4f} against shuffled labels, found {value:.4f}; "
            "accuracy ignores the labels, or labels leak into predictions"
        )
    return _row(subject, "accuracy", value, test.name, count)


def _uniform_entropy(subject: Subject) -> dict[str, Any]:
    classes = subject.classes
    value = float(predictions.entropy(_fused(np.zeros((2, 1, classes), np.float32)))[0])
    if not abs(value - math.log(classes)) <= ROUNDING:
        raise CanaryError(
            f"expected entropy ln {classes} = {math.log(classes):.6f} nats of uniform probabilities, found "
            f"{value:.6f}; entropy is not in nats, or not of the mean probability"
        )
    return _row(subject, "entropy_nats", value, subject.test.name, 1)
