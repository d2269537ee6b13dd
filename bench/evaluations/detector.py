"""A detector of attacked images: what clean validation images call a high entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.evaluations.subject import SINGLES, Subject
from bench.metrics import predictions
from bench.records.schema import row

ALARM = 0.05  # share of clean validation images that the detector may reject
THRESHOLD_IMAGES = 1000  # validation images behind it: 50 of them lie above


class Detector:
    """Rejects images of high predictive entropy: one threshold a size, from clean validation images alone.

    The (1 - 5 %) quantile over the first validation images of the entropy of the first n networks; for
    single networks over all of the first 100. Sizes beyond those asked for have none.
    """

    def __init__(self, subject: Subject) -> None:
        val = subject.data.val.first(THRESHOLD_IMAGES)
        logits = subject.logits(val)
        self.name, self.images = val.name, len(val)
        singles = [predictions.entropy(predictions.log_probabilities(m)) for m in logits[:SINGLES]]
        entropies = {1: np.concatenate(singles)}
        for size, log_p, _ in predictions.prefixes(logits, set(range(2, len(logits) + 1))):
            entropies[size] = predictions.entropy(log_p)
        self.thresholds = {n: float(np.quantile(e, 1 - ALARM)) for n, e in entropies.items()}

    def rejects(self, members: int, entropy: np.ndarray) -> np.ndarray | None:
        """Whether it rejects images of these entropies, as an ensemble of this size has them."""
        return entropy > self.thresholds[members] if members in self.thresholds else None

    def rows(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        common = {
            "evaluation": "attack",
            "dataset": self.name,
            "quantile": 1 - ALARM,
            "examples": self.images,
        }
        return [
            row("detection_threshold_nats", self.thresholds[n], members=n, **common)
            for n in sizes
            if n in self.thresholds
        ]
