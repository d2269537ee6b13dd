"""The worst over several attacks, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from bench.attacks.success import SENSES
from bench.evaluations.detector import Detector
from bench.evaluations.views import View, attacked_rows

NAME = "worst"  # in the column `attack`


def worst(seen: Sequence[View], detector: Detector, sense: str) -> View:
    """For each image [B] what the tested ensemble makes of the worst of its attacked versions.

    A version that fools in this sense and is not detected is worse than one that fools and is detected, this
    one worse than one that does not fool; among equals the one with the lowest entropy is worst. seen: of one
    ensemble, one view for each attack on the same images.
    """
    entropy = np.stack([view.entropy for view in seen])
    fools = np.stack([view.fooled[sense] for view in seen])
    rejected = [detector.rejects(view.members, view.entropy) for view in seen]
    evades = fools & ~np.stack([np.zeros(fools.shape[1], bool) if r is None else r for r in rejected])
    rank = 2 - fools.astype(int) - evades
    chosen = np.lexsort((entropy, rank), axis=0)[0]
    image = np.arange(len(chosen))

    def pick(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(parts)[chosen, image]

    parts = {
        f.name: pick([getattr(view, f.name) for view in seen])
        for f in fields(View)
        if f.name not in ("members", "fooled")
    }
    senses = {s: pick([view.fooled[s] for view in seen]) for s in SENSES}
    return View(seen[0].members, fooled=senses, **parts)


def rows(
    where: Mapping[str, Any], before: View, seen: Sequence[View], detector: Detector
) -> list[dict[str, Any]]:
    """Rows of the attack `worst` on one tested ensemble: each sense has its own worst versions.

    success_rate: of the images classified correctly before (mean logits), the share that some attack fools;
    robust_accuracy: of all images, the share that is right before and under every attack; evasion_rate: of
    those right before, the share with a version that fools the mean logits undetected. entropy_nats, auroc
    and detected_share: over the images of success_rate that are fooled; detected are those of which every
    fooling version is detected. All of the tested ensemble: no choice is made on other networks.
    """
    found = []
    for sense in SENSES if before.members > 1 else SENSES[:1]:
        view = worst(seen, detector, sense)
        fooled = {sense: ~before.fooled["fused"] & view.fooled[sense]}
        own = attacked_rows({**where, "attack": NAME}, before, view, fooled, detector, (sense,))
        # Evasion is by mean logits, whatever the sense: it has the worst versions of that one.
        found += [r for r in own if r["success"] == sense]
    return found
