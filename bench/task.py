"""What a benchmark question is made of: tasks, their data, and where the data's files come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Split:
    """Images and labels that belong together, under the name of what was really read.

    name: as in the `dataset` column: `mnist`, `mnist-val`, `notmnist`, `digits:5-9`.
    images: [B, C, H, W] float32 in [0, 1] (for regression [B, D], any range).
    labels: [B] int64 (for regression [B, 1] float32).
    """

    name: str
    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or not len(self.images):
            raise ValueError(
                f"{self.name}: expected as many labels as images and at least one, "
                f"found {len(self.images)} images and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> Split:
        """The first `count` examples; everything where count is None."""
        return self if count is None else Split(self.name, self.images[:count], self.labels[:count])

    def at(self, index: Tensor) -> Split:
        """The examples at these positions."""
        return Split(self.name, self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        return Split(self.name, self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """The parts of a task's data. `fit` sees train and val; `outliers` answer the OOD question.

    checksums: SHA-256 by file or array name, of what was read; part of a cell's key.
    """

    train: Split
    val: Split
    test: Split
    outliers: Split | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    def fitted_on(self) -> str:
        """SHA-256 of the images and labels that `fit` sees: tasks that differ elsewhere share a fit."""
        whole = hashlib.sha256()
        for part in (self.train.images, self.train.labels, self.val.images, self.val.labels):
            whole.update(part.contiguous().numpy().data)
        return whole.hexdigest()


@dataclass(frozen=True)
class Scale:
    """What a preset changes about evaluating a task; never the training images or the network.

    sizes: ensemble sizes asked for. images: test and OOD images evaluated (None: all).
    """

    sizes: tuple[int, ...] = (1, 5, 10, 100)
    images: int | None = None


@dataclass(frozen=True)
class Task:
    """A question asked of every method.

    train: the train key; tasks with the same key share a trained method.
    load: data root (None: none was given) -> Data. network: () -> target network, buffer-free,
    input in [0, 1]. loss: `cross_entropy` or `mse`. evaluations: names in `bench.evaluations`.
    embedded: needs no download.
    """

    name: str
    train: str
    load: Callable[[Path | None], Data]
    network: Callable[[], nn.Module]
    evaluations: tuple[str, ...]
    loss: str = "cross_entropy"
    embedded: bool = False
    scales: Mapping[str, Scale] = field(default_factory=dict)

    def scale(self, preset: str) -> Scale:
        """What the preset means for this task; a preset without an entry changes nothing."""
        return self.scales.get(preset, Scale())


class Source(Protocol):
    """Files of one data set: `bench data fetch NAME`, `verify`, `where`."""

    name: str

    def fetch(self, root: Path, progress: bool) -> list[Path]:
        """Download what is missing, verify it, and only then let it appear under its name."""

    def verify(self, root: Path) -> list[tuple[Path, str]]:
        """Every file of the set with `ok`, `missing`, or what is wrong with it."""
