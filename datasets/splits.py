"""Ordering, splitting and scaling of labelled images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.task import Split


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """A permutation of which every prefix has the class proportions of the whole.

    Image j of the n_c images of a class, in random order, has rank (j + 1/2) / n_c. Sorted by rank, the
    class's count in a prefix is within 1/2 + K n_c / (2 B), about one image, of its share n_c / B.

    labels: [B], integers. Returns [B], indices into `labels`. Depends only on labels and seed.
    """
    # RandomState, not Generator: NumPy guarantees that its stream never changes (NEP 19), and a split
    # must be the same in every version.
    random = np.random.RandomState(seed)
    ranks = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Equal ranks, as of equally large classes, are ordered randomly.
    ties = random.permutation(len(labels))
    return np.lexsort((ties, ranks))


def unit(levels: np.ndarray, top: int) -> Tensor:
    """Grey levels 0..top, [B, H, W], as images [B, 1, H, W], float32 in [0, 1]."""
    return torch.from_numpy(levels.astype(np.float32)).div_(top).unsqueeze(1)


def split(name: str, images: Tensor, labels: np.ndarray, order: np.ndarray) -> Split:
    """The images and labels at these indices, as a `Split`."""
    index = torch.from_numpy(order)
    return Split(name, images[index], torch.from_numpy(labels.astype(np.int64))[index])
