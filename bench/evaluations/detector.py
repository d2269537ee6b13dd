"""A detector of attacked images by predictive entropy, calibrated on clean validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.evaluations.subject import SINGLES, Subject
from bench.metrics import predictions
from bench.records.schema import row

FALSE_ALARM_RATE = 0.05  # share of clean validation images that the detector rejects
THRESHOLD_IMAGES = 1000  # validation images that set the threshold: 50 of them lie above


class Detector:
    """Rejects images of high predictive entropy: one threshold per size, from clean validation images only.

    The threshold is the 95 % quantile over validation images of the entropy of the first n networks; for
    single networks, pooled over the first 100. Sizes beyond the largest requested one have no threshold.
    """

    def __init__(self, subject: Subject) -> None:
        val = subject.data.val.first(THRESHOLD_IMAGES)
        logits = subject.logits(val)
        self.name, self.images = val.name, len(val)
        singles = [predictions.entropy(predictions.log_probabilities(m)) for m in logits[:SINGLES]]
        entropies = {1: np.concatenate(singles)}
        for size, log_p, _ in predictions.prefixes(logits, set(range(2, len(logits) + 1))):
            entropies[size] = predictions.entropy(log_p)
        self.thresholds = {n: float(np.quantile(e, 1 - FALSE_ALARM_RATE)) for n, e in entropies.items()}

    def rejects(self, members: int, entropy: np.ndarray) -> np.ndarray | None:
        """Which images are rejected, given an ensemble's size and entropies; None without a threshold.

        Raises ValueError for an entropy that is NaN: it exceeds no threshold and would be accepted.
        """
        if np.isnan(entropy).any():
            raise ValueError(f"expected entropies, found NaN of {int(np.isnan(entropy).sum())} images")
        return entropy > self.thresholds[members] if members in self.thresholds else None

    def rows(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        common = {
            "evaluation": "attack",
            "dataset": self.name,
            "quantile": 1 - FALSE_ALARM_RATE,
            "examples": self.images,
        }
        return [
            row("detection_threshold_nats", self.thresholds[n], members=n, **common)
            for n in sizes
            if n in self.thresholds
        ]
