"""Criteria of success of an attack: three senses of fooling an ensemble, and images left unchanged.

Outputs and images that are NaN raise ValueError: NaN differs from everything and exceeds nothing, so that a
broken network would look robust or fooled by the accident of a comparison.
"""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor

from bench.metrics import predictions

# An ensemble is fooled if its mean logits, its mean probability or every member is wrong.
SENSES = ("fused", "mixture", "every")
# Those senses that ask about one classifier, which has an accuracy.
CLASSIFIERS = ("fused", "mixture")


def unmoved(images: Tensor, attacked: Tensor) -> np.ndarray:
    """Which images [B] an attack left bit for bit unchanged, with a warning if there are any.

    An image without a gradient in float32 (a margin beyond 104 nats) looks robust but is not. Raises
    ValueError for images of different shapes, none, or NaN.
    """
    if images.shape != attacked.shape or not len(images):
        raise ValueError(
            f"expected images [B, ...] before and after an attack, found {list(images.shape)} and "
            f"{list(attacked.shape)}"
        )
    if images.isnan().any() or attacked.isnan().any():
        raise ValueError("expected pixels that are numbers, found NaN")
    still = (images == attacked).flatten(1).all(1).numpy()
    if still.any():
        warnings.warn(
            f"{still.sum()} of {len(still)} images have no gradient: the attack left them unchanged, "
            "which is not robustness",
            stacklevel=2,
        )
    return still


def fooled(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Whether each image fools the ensemble, by sense; logits [M, B, K], labels [B] -> [B] booleans.

    fused: argmax_k sum_m l_mk != y. mixture: argmax_k mean_m p_m(k) != y. every: all members are wrong.
    Raises ValueError for logits that are NaN, empty or of another shape, and for labels that are no class.
    """
    predictions.check_members(logits)
    predictions.check_labels(labels, logits.shape[-1])
    if len(labels) != logits.shape[1]:
        raise ValueError(f"expected a label for each of {logits.shape[1]} images, found {len(labels)}")
    ((_, log_p, _),) = predictions.prefixes(logits, {len(logits)})
    return {
        "fused": logits.mean(0, dtype=np.float64).argmax(-1) != labels,
        "mixture": log_p.argmax(-1) != labels,
        "every": (logits.argmax(-1) != labels).all(0),
    }
