"""How labelled images are put in order, split and brought into [0, 1]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.task import Split


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """A permutation whose every prefix holds the classes in the proportions of the whole.

    Image j of the n_c of a class, in random order, stands at rank (j + 1/2) / n_c; sorting all images
    by rank deviates from n_c / B of a prefix by less than 1/2 + K n_c / (2 B) images, about one.

    labels: [B], integers. Returns [B], positions in `labels`. Depends on labels and seed alone.
    """
    # RandomState, not Generator: NumPy promises that its stream never changes (NEP 19), and a split
    # has to be the same under every version.
    random = np.random.RandomState(seed)
    ranks = np.empty(len(labels))
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    # Equal ranks, one a class where classes are equally large, stand in random order too.
    ties = random.permutation(len(labels))
    return np.lexsort((ties, ranks))


def unit(levels: np.ndarray, top: int) -> Tensor:
    """Grey levels 0..top, [B, H, W], as images [B, 1, H, W], float32 in [0, 1]."""
    return torch.from_numpy(levels.astype(np.float32)).div_(top).unsqueeze(1)


def split(name: str, images: Tensor, labels: np.ndarray, order: np.ndarray) -> Split:
    """The images and labels at these positions, under the name of their data set."""
    index = torch.from_numpy(order)
    return Split(name, images[index], torch.from_numpy(labels.astype(np.int64))[index])
