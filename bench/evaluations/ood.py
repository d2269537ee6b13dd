"""Out-of-distribution detection: how well entropy separates outliers from test images."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.evaluations import canaries
from bench.evaluations.accuracy import draw_sd, per_image
from bench.evaluations.subject import SINGLES, Result, Subject
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams
from bench.task import Split

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXTREMES = 8  # images of each set stored for Figure 9


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of AUROC, AUPR, FPR95 and entropies for each size; arrays per image as for accuracy.

    For the largest ensemble also the few images of each set that look most like the other set.
    Rows that compare the two sets carry the outliers' name. Scores are larger for outliers:
    predictive entropy, mutual information, and minus the largest log-probability. auroc_draw_sd: standard
    deviation (ddof=1) over disjoint ensembles of one size. accepted_accuracy: rejecting by entropy, with
    outliers mixed in; `quantile` is the share answered. Raises CanaryError if a check with a
    known answer fails (`bench.evaluations.canaries`).
    """
    sets = (subject.test, subject.outliers)
    names = (sets[0].name, sets[1].name)
    counts = (len(sets[0]), len(sets[1]))
    labels = sets[0].labels.numpy()
    result = Result(rows=canaries.check(subject, rng))
    if 1 in subject.sizes:
        pairs = zip(*(subject.logits(s)[:SINGLES] for s in sets), strict=True)
        singles = [
            _single(names, counts, labels, *map(predictions.log_probabilities, pair)) for pair in pairs
        ]
        for same in zip(*singles, strict=True):
            result.rows.append(same[0] | {"value": float(np.mean([r["value"] for r in same]))})
    result.rows += _draw_spread(subject, sets)
    both = zip(*(predictions.prefixes(subject.logits(s), {1, *subject.sizes}) for s in sets), strict=True)
    for (size, inside, inside_expected), (_, outside, outside_expected) in both:
        found = ((inside, inside_expected), (outside, outside_expected))
        if size > 1:
            result.rows += _rows(names, counts, labels, size, *found)
        for name, (log_p, expected) in zip(names, found, strict=True):
            if size in (1, max(subject.sizes)):
                result.arrays |= per_image(f"{name}/{size}", log_p, expected)
            else:
                # For comparing methods at equal size, which needs ranks: half precision moves an AUROC by
                # a few millionths (measured on ensembles of 5 to 100 networks on MNIST).
                result.arrays[f"{name}/{size}/entropy_nats"] = predictions.entropy(log_p).astype("f2")
        if size == max(subject.sizes):
            for part, (log_p, _), sign in zip(sets, found, (-1, 1), strict=True):
                result.arrays |= extremes(part, f"{part.name}/{size}", sign * predictions.entropy(log_p))
    return result


def _draw_spread(subject: Subject, sets: tuple[Split, Split]) -> list[dict[str, Any]]:
    """Standard deviation of the AUROC over disjoint ensembles, by size."""
    rows = []
    common = {"evaluation": "ood", "dataset": sets[1].name, "examples": len(sets[1])}
    for size in subject.sizes:
        pairs = zip(*(predictions.disjoint(subject.logits(s), size) for s in sets), strict=True)
        found = [predictions.auroc(*(predictions.entropy(log_p) for log_p, _ in pair)) for pair in pairs]
        rows += draw_sd("auroc", found, members=size, **common)
    return rows


def extremes(part: Split, prefix: str, score: np.ndarray) -> dict[str, np.ndarray]:
    """The images with the lowest score [B], ties in order: pixels, labels and indices in the split.

    Source: paper, Figure 9: test images of the highest entropy, outliers of the lowest.
    """
    index = np.argsort(score, kind="stable")[:EXTREMES]
    return {
        f"{prefix}/extreme_index": index.astype("i4"),
        f"{prefix}/extreme_image": part.images.numpy()[index].astype("f4"),
        f"{prefix}/extreme_label": part.labels.numpy()[index].astype("i2"),
    }


def _single(
    names: tuple[str, str],
    counts: tuple[int, int],
    labels: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
) -> list[dict[str, Any]]:
    """Rows of one network, for which mutual information is not defined."""
    rows = _rows(names, counts, labels, 1, *((p, predictions.entropy(p)) for p in (inside, outside)))
    return [r for r in rows if "mutual_information" not in r["metric"]]


def _rows(
    names: tuple[str, str],
    counts: tuple[int, int],
    labels: np.ndarray,
    size: int,
    inside: tuple[np.ndarray, np.ndarray],
    outside: tuple[np.ndarray, np.ndarray],
) -> list[dict[str, Any]]:
    """Rows of one ensemble size; inside, outside: log of the mean probability and mean member entropy.

    labels: of the test images.
    """
    rows = []
    for name, count, found in zip(names, counts, (inside, outside), strict=True):
        rows += _entropies(name, count, size, *found)
    common = {"evaluation": "ood", "dataset": names[1], "members": size, "examples": counts[1]}
    scores = _scores(*inside), _scores(*outside)
    rows += [row(name, value, **common) for name, value in _compare(*scores).items()]
    right = inside[0].argmax(-1) == labels
    for share in predictions.ACCEPTED:
        value = predictions.accepted_accuracy(scores[0]["entropy"], right, scores[1]["entropy"], share)
        rows.append(row("accepted_accuracy", value, quantile=share, **common))
    return rows


def _scores(log_p: np.ndarray, expected: np.ndarray) -> dict[str, np.ndarray]:
    entropy = predictions.entropy(log_p)
    return {"entropy": entropy, "mutual_information": entropy - expected, "max_softmax": -log_p.max(-1)}


def _compare(inside: dict[str, np.ndarray], outside: dict[str, np.ndarray]) -> dict[str, float]:
    found = predictions.separation(inside["entropy"], outside["entropy"])
    for score in ("mutual_information", "max_softmax"):
        found[f"auroc_{score}"] = predictions.auroc(inside[score], outside[score])
    return found


def _entropies(
    name: str, count: int, size: int, log_p: np.ndarray, expected: np.ndarray
) -> list[dict[str, Any]]:
    """Mean and quantiles of the entropy on one set, and its split into expected entropy and information."""
    entropy = predictions.entropy(log_p)
    common = {"evaluation": "ood", "dataset": name, "members": size, "examples": count}
    rows = [
        row("entropy_nats", float(entropy.mean()), **common),
        row("expected_entropy_nats", float(expected.mean()), **common),
        row("mutual_information_nats", float((entropy - expected).mean()), **common),
    ]
    values = np.quantile(entropy, QUANTILES)
    return rows + [
        row("entropy_nats", float(v), quantile=q, **common) for q, v in zip(QUANTILES, values, strict=True)
    ]
