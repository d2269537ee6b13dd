"""The smallest epsilon that fools an ensemble with an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.attacks.inputs import BATCH, along, check_inputs
from bench.attacks.oblivious import fgsm, pgd
from bench.attacks.success import SENSES, fooled
from bench.ensemble import Ensemble

ATTACKS = ("fgsm", "pgd")  # where a path of PGD first fools depends on its epsilon: not one to search with
PROBE_EPSILON = (
    2.0**-12
)  # reveals the sign of the gradient; pixel differences of this size are exact in float32
HALVINGS = 4  # bisections of the interval between two epsilons of the grid


def smallest_epsilon(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    attack: str,
    grid: Sequence[float],
    steps: int = 10,
    sense: str = "fused",
    halvings: int = HALVINGS,
) -> np.ndarray:
    """The smallest epsilon found that fools the ensemble with each image, [B].

    The grid is searched upwards to the first epsilon that fools; the interval below it is then bisected
    `halvings` times, so that the result fools, and exceeds an epsilon that does not by at most 2^-halvings of
    the interval. 0 if the clean image is misclassified, infinite if no epsilon of the grid fools. PGD
    starts at the image. Raises ValueError for another attack or sense, for a grid without positive epsilons,
    and as `fgsm` for images, labels and networks.
    """
    if attack not in ATTACKS or sense not in SENSES:
        raise ValueError(f"expected one of {ATTACKS} and one of {SENSES}, found {attack} and {sense}")
    if not len(grid) or not all(0 < epsilon < np.inf for epsilon in grid):
        raise ValueError(f"expected a grid of positive epsilons, found {tuple(grid)}")
    check_inputs(ensemble, images, labels)
    craft = _direction(ensemble, images, labels) if attack == "fgsm" else None

    def fools(at: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
        chosen, eps = torch.from_numpy(at), torch.from_numpy(epsilon).float()
        x, y = images[chosen], labels[chosen]
        if craft is not None:
            x = craft(chosen, eps)
        elif epsilon.any():
            x = pgd(ensemble, x, y, eps, steps)
        return fooled(ensemble.logits(x, BATCH).numpy(), y.numpy())[sense]

    everything = np.arange(len(images))
    high = np.full(len(images), np.inf)
    high[fools(everything, np.zeros(len(images)))] = 0
    low, last = np.zeros(len(images)), 0.0
    for epsilon in sorted(grid):
        left = everything[np.isinf(high)]
        if not len(left):
            break
        hit = left[fools(left, np.full(len(left), epsilon))]
        high[hit], low[hit], last = epsilon, last, epsilon
    found = everything[(high > 0) & np.isfinite(high)]
    for _ in range(halvings if len(found) else 0):
        middle = (low[found] + high[found]) / 2
        hit = fools(found, middle)
        high[found[hit]], low[found[~hit]] = middle[hit], middle[~hit]
    return high


def _direction(ensemble: Ensemble, images: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """FGSM for every epsilon from one gradient: (indices, epsilon [B']) -> images [B', ...].

    The sign does not depend on epsilon. If clipping hides it, the pixel is at its bound and stays there.
    """
    sign = (fgsm(ensemble, images, labels, PROBE_EPSILON) - images).sign()

    def craft(chosen: Tensor, epsilon: Tensor) -> Tensor:
        moved = images[chosen] + along(epsilon, images) * sign[chosen]
        return moved.clamp(0, 1)

    return craft
