"""Predictions of ensembles on images before and after an attack, and rows computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor

from bench.attacks.success import CLASSIFIERS, SENSES, fooled
from bench.ensemble import Ensemble
from bench.evaluations.detector import Detector
from bench.evaluations.subject import BATCH, SINGLES
from bench.metrics import predictions
from bench.records.schema import row


@dataclass(frozen=True)
class View:
    """Predictions of an ensemble of `members` networks on images.

    log_p: log of the mean probability [B, K]; expected: mean entropy of the members [B]; fooled: by
    sense, [B]; share: of the members that are wrong, [B].
    """

    members: int
    log_p: np.ndarray
    expected: np.ndarray
    fooled: Mapping[str, np.ndarray]
    share: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """Predictive entropy [B] in nats."""
        return predictions.entropy(self.log_p)


@dataclass(frozen=True)
class Singles:
    """Predictions of S single networks on images: wrong [S, B] and entropy in nats [S, B]."""

    wrong: np.ndarray
    entropy: np.ndarray


def slice_of(places: range) -> slice:
    """The slice with these indices."""
    return slice(places.start, places.stop)


def view(logits: np.ndarray, labels: np.ndarray) -> View:
    """The view of an ensemble with these logits [M, B, K]; labels [B]."""
    ((_, log_p, expected),) = predictions.prefixes(logits, {len(logits)})
    share = (logits.argmax(-1) != labels).mean(0)
    return View(len(logits), log_p, expected, fooled(logits, labels), share)


def views_of(
    drawn: Ensemble, ensembles: Sequence[range], images: Tensor, labels: Tensor, singles: Sequence[range] = ()
) -> tuple[dict[range, View], dict[range, Singles]]:
    """Views of several ensembles (index ranges of `drawn`), and of single networks of other ranges.

    Images [B, ...] are processed in batches to bound memory. Every network is evaluated once.
    """
    places = [*ensembles, *singles]
    first, last = min(p.start for p in places), max(p.stop for p in places)
    networks = drawn[first:last]
    seen: dict[range, list[View]] = {p: [] for p in ensembles}
    alone: dict[range, list[Singles]] = {p: [] for p in singles}
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        logits, truth = networks.logits(x, BATCH).numpy(), y.numpy()
        for p, parts in seen.items():
            parts.append(view(logits[p.start - first : p.stop - first], truth))
        for p, found in alone.items():
            own = logits[p.start - first : min(p.stop, p.start + SINGLES) - first]
            entropy = np.stack([predictions.entropy(predictions.log_probabilities(one)) for one in own])
            found.append(Singles(own.argmax(-1) != truth, entropy))
    joined = {
        p: Singles(*(np.concatenate([getattr(part, f.name) for part in parts], 1) for f in fields(Singles)))
        for p, parts in alone.items()
    }
    return {p: _joined(parts) for p, parts in seen.items()}, joined


def _joined(parts: list[View]) -> View:
    log_p, expected, share = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("log_p", "expected", "share")
    )
    senses = {s: np.concatenate([part.fooled[s] for part in parts]) for s in SENSES}
    return View(parts[0].members, log_p, expected, senses, share)


def attacked_rows(
    where: Mapping[str, Any],
    before: View,
    after: View,
    chosen: Mapping[str, np.ndarray],
    detector: Detector,
    senses: Sequence[str] = SENSES,
) -> list[dict[str, Any]]:
    """Rows of one tested ensemble: success by sense, robust accuracy, entropy, AUROC, detection and evasion.

    chosen: masks of images [B], by the value of the column `success`. success_rate and evasion_rate: of the
    images that this ensemble classified correctly, the share now wrong (evasion: by mean logits, undetected).
    robust_accuracy: of all images, the share classified correctly before and after, by mean logits (`fused`)
    or mean probability (`mixture`).
    """
    common = {**where, "members": after.members}
    rows = [
        row(
            "robust_accuracy", float((~before.fooled[s] & ~after.fooled[s]).mean()), success=s,
            examples=len(after.log_p), **common,
        )
        for s in senses if s in CLASSIFIERS
    ]  # fmt: skip
    had = ~before.fooled["fused"]
    rejected = detector.rejects(after.members, after.entropy)
    if had.any():
        counted = common | {"examples": int(had.sum())}
        rows += [
            row("success_rate", float(after.fooled[s][had].mean()), success=s, **counted) for s in senses
        ]
        if rejected is not None:
            evading = (after.fooled["fused"] & ~rejected)[had]
            rows.append(row("evasion_rate", float(evading.mean()), success="fused", **counted))
    for success, of in chosen.items():
        if not of.any():
            continue
        counted = common | {"success": success, "examples": int(of.sum())}
        rows.append(row("entropy_nats", float(after.entropy[of].mean()), **counted))
        rows.append(row("auroc", predictions.auroc(before.entropy, after.entropy[of]), **counted))
        if rejected is not None:
            rows.append(row("detected_share", float(rejected[of].mean()), **counted))
    return rows


def single_rows(
    where: Mapping[str, Any], before: Singles, after: Singles, detector: Detector
) -> list[dict[str, Any]]:
    """As `attacked_rows` for all images, the mean over single networks, for which all senses coincide."""
    had = ~before.wrong
    common = {**where, "members": 1, "examples": after.wrong.shape[1]}
    rejected = detector.rejects(1, after.entropy)
    assert rejected is not None
    aurocs = [predictions.auroc(a, b) for a, b in zip(before.entropy, after.entropy, strict=True)]
    counts = had.sum(1)
    found = {
        "entropy_nats": after.entropy.mean(),
        "auroc": np.mean(aurocs),
        "detected_share": rejected.mean(),
    }
    rows = [row(name, float(value), success="all", **common) for name, value in found.items()]
    if (counts > 0).all():
        success = (after.wrong & had).sum(1) / counts
        evading = (after.wrong & ~rejected & had).sum(1) / counts
        rows.append(row("success_rate", float(success.mean()), success="fused", **common))
        rows.append(row("evasion_rate", float(evading.mean()), success="fused", **common))
    return rows
