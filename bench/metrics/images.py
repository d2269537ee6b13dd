"""What sets of labelled images say of each other: near-duplicates, and agreement of labels with images.

All in means over blocks of pixels, which are few, so that a set of 60,000 images takes a second of one core.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from scipy.spatial import KDTree
from scipy.special import gammaln
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

NEIGHBOURS = 4  # images nearest by blocks of which the distance in pixels is computed
CHUNK = 2000  # images compared at once: bounds memory
SHRINKAGE = 0.02  # of the covariance towards a multiple of the identity: blocks at the rim may be constant


def blocks(images: Tensor, side: int) -> np.ndarray:
    """Means of images [B, C, H, W] over side x side blocks of pixels, [B, C * side * side] float32."""
    return adaptive_avg_pool2d(images, side).flatten(1).numpy()


def near(
    known: Tensor, known_blocks: np.ndarray, asked: Tensor, asked_blocks: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images in `asked` that have a near-duplicate in `known`, the nearest one, and its distance.

    Distance: root mean square of the differences of pixels, at most `radius`. Means over blocks are at most
    as far apart, so a tree of them (in units of their own root mean square) finds the candidates: the
    `NEIGHBOURS` nearest within twice the radius, because blocks of unequal size may overlap.

    known, asked: [B, C, H, W]; their blocks: [B, D]. Returns three arrays [n]: index in `asked`, index in
    `known`, distance.
    """
    scale = np.sqrt(known_blocks.shape[1])
    places = KDTree(known_blocks).query(
        asked_blocks, k=NEIGHBOURS, distance_upper_bound=2 * radius * scale + 1e-6
    )[1]
    nearest, best = np.zeros(len(asked), np.int64), np.full(len(asked), np.inf)
    for place in places.T:
        found = np.flatnonzero(place < len(known_blocks))  # a missing neighbour has the index len(known)
        for start in range(0, len(found), CHUNK):
            own = found[start : start + CHUNK]
            far = (asked[own] - known[place[own]]).square().flatten(1).mean(1).sqrt().numpy()
            closer = far < best[own]
            nearest[own[closer]], best[own[closer]] = place[own][closer], far[closer]
    index = np.flatnonzero(best <= radius)
    return index, nearest[index], best[index]


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Means of features [B, D] over the images of each class, [K, D] float64; NaN for a class without any."""
    sums = np.zeros((classes, features.shape[1]))
    for k in range(classes):
        sums[k] = features[labels == k].sum(0, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return sums / np.bincount(labels, minlength=classes)[:, None]


def _scores(features: np.ndarray, labels: np.ndarray, classes: int, asked: np.ndarray) -> np.ndarray:
    """Log-likelihoods [B, K] of `asked` under Gaussians around the centroids, up to a constant per image.

    One covariance for all classes, so distances to centroids are Mahalanobis' (linear discriminant analysis).
    """
    means = class_means(features, labels, classes)
    rest = features - means[labels]
    covariance = rest.T @ rest / len(rest)
    width = len(covariance)
    covariance[np.diag_indices(width)] += SHRINKAGE * np.trace(covariance) / width + 1e-9
    weights = np.linalg.solve(covariance, np.nan_to_num(means).T)
    scores = asked @ weights - 0.5 * (np.nan_to_num(means).T * weights).sum(0)
    scores[:, np.isnan(means[:, 0])] = -np.inf
    return scores


def centroid_scores(
    train: tuple[np.ndarray, np.ndarray], classes: int, asked: list[np.ndarray]
) -> list[np.ndarray]:
    """Scores [B, K] of each class for the training images, then for every other set, by nearest centroids.

    The centroids of one half of the training images score the other half, and half of every other set, so
    that no image has a share in its own score and all sets are scored alike.

    train: features [B, D] and labels [B]. asked: features of other sets.
    """
    features, labels = train[0].astype(np.float64), train[1]
    sets = [features, *(part.astype(np.float64) for part in asked)]
    found = [np.empty((len(part), classes)) for part in sets]
    for half in (0, 1):
        whole = np.concatenate([part[1 - half :: 2] for part in sets])
        scores = _scores(features[half::2], labels[half::2], classes, whole)
        ends = np.cumsum([len(part[1 - half :: 2]) for part in sets])
        for out, part in zip(found, np.split(scores, ends[:-1]), strict=True):
            out[1 - half :: 2] = part
    return found


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts [K, K] of images by label (line) and class of the highest score (column)."""
    classes = scores.shape[1]
    return np.bincount(labels * classes + scores.argmax(1), minlength=classes**2).reshape(classes, classes)


def agreement_gap(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Share of agreeing labels in the second confusion [K, K] minus that in the first; in standard errors.

    The standard error is that of two independent proportions, of which at least one label disagrees.
    """
    counts = np.array([first.sum(), second.sum()])
    agreeing = np.array([np.trace(first), np.trace(second)])
    share = np.clip(agreeing.sum() / counts.sum(), 1 / counts.sum(), 1 - 1 / counts.sum())
    gap = agreeing[1] / counts[1] - agreeing[0] / counts[0]
    return float(gap), float(gap / np.sqrt(share * (1 - share) * (1 / counts).sum()))


def swapped(first: np.ndarray, second: np.ndarray) -> dict[tuple[int, int], float]:
    """Evidence, in nats, that two classes are exchanged between two sets, given their confusions [K, K].

    Where classes a and b are exchanged, images labelled a in the second set are predicted as those labelled b
    in the first, and the reverse. Logarithm of a Bayes factor: a multinomial for the first's line a with the
    second's line b, and one for the other two, against one for both lines a and one for both lines b. Their
    priors are uniform, so that few images, or classes that look alike, are no evidence.

    Returns it for each pair (a, b), a < b, of classes that both sets have.
    """
    present = np.flatnonzero((first.sum(1) > 0) & (second.sum(1) > 0)).tolist()
    return {
        (a, b): _evidence(first[a] + second[b])
        + _evidence(first[b] + second[a])
        - _evidence(first[a] + second[a])
        - _evidence(first[b] + second[b])
        for a, b in combinations(present, 2)
    }


def _evidence(counts: np.ndarray) -> float:
    """Log-probability of a sequence with these counts [K] under a multinomial with a uniform prior."""
    return float(gammaln(counts + 1).sum() - gammaln(counts.sum() + len(counts)) + gammaln(len(counts)))
