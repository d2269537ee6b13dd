"""What a benchmark question is made of: tasks, their data, and where the data's files come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

# Standard deviation of a label around the regression's target, in the data and in every likelihood.
NOISE_SD = 3.0  # HyperGAN paper, section 4.3: y = x^3 + N(0, 3^2)
# What is added to a variance that a network predicts, in training as in evaluation.
MIN_VARIANCE = 1e-6  # Lakshminarayanan et al. 2017, section 2.2.1


@dataclass(frozen=True)
class Split:
    """Images and labels that belong together, under the name of what was really read.

    name: as in the `dataset` column: `mnist`, `mnist-val`, `notmnist`, `digits:5-9`.
    images: [B, C, H, W] float32 in [0, 1] (for regression [B, D], any range).
    labels: [B] int64 (for regression [B, 1] float32).
    augment: training sees every image through a random crop and flip (`bench.training.Minibatches`).
    """

    name: str
    images: Tensor
    labels: Tensor
    augment: bool = False

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
        if count is None:
            return self
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def at(self, index: Tensor) -> Split:
        """The examples at these positions."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device) -> Split:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Reference:
    """What regression is held against: the target, and a posterior known better than any method's.

    grid: inputs [G, 1] in ascending order, with the target function, without noise, as labels [G, 1].
    inside: the interval that the data cover. mean, sd: [G], of a network's output under the posterior.
    """

    grid: Split
    inside: tuple[float, float]
    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class Data:
    """The parts of a task's data. `fit` sees train and val; `outliers` answer the OOD question.

    checksums: SHA-256 by file or array name, of what was read; part of a cell's key. reference: of
    regression.
    """

    train: Split
    val: Split
    test: Split
    outliers: Split | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    reference: Reference | None = None

    def fitted_on(self) -> str:
        """SHA-256 of the images and labels that `fit` sees: tasks that differ elsewhere share a fit."""
        return fitted_on(self.train, self.val)

    def asked_of(self) -> str:
        """SHA-256 of what evaluations see: names, images and labels of test, outliers and reference."""
        whole = hashlib.sha256()
        splits, tensors = [self.val, self.test], []
        if self.outliers is not None:
            splits.append(self.outliers)
        if self.reference is not None:
            splits.append(self.reference.grid)
            tensors += [self.reference.mean, self.reference.sd]
        for split in splits:
            whole.update(f"{split.name}\0".encode())
            tensors += [split.images, split.labels]
        for tensor in tensors:
            whole.update(tensor.contiguous().numpy().data)
        return whole.hexdigest()


def fitted_on(train: Split, val: Split) -> str:
    """SHA-256 of the images and labels that a fit sees, and of whether they are augmented."""
    whole = hashlib.sha256(b"augment" if train.augment else b"")
    for part in (train.images, train.labels, val.images, val.labels):
        whole.update(part.contiguous().numpy().data)
    return whole.hexdigest()


@dataclass(frozen=True)
class AdaptiveScale:
    """How hard a preset's adaptive attacks try, at the epsilons of its `AttackScale`.

    members: networks attacked, so many for every method. images: the first of those that it attacks.
    steps, restarts: of each gradient attack. draws: fresh networks of a step of `eot`. queries: of Square.
    """

    members: int
    images: int
    steps: int
    restarts: int
    draws: int
    queries: int


# By preset. 5 networks: as many as every method can set against 5 fresh ones.
ADAPTIVE = {
    "smoke": AdaptiveScale(5, 16, steps=3, restarts=1, draws=2, queries=10),
    "quick": AdaptiveScale(5, 100, steps=20, restarts=2, draws=5, queries=200),
    "paper": AdaptiveScale(5, 1000, steps=100, restarts=5, draws=10, queries=5000),  # 5,000: Square's
}


@dataclass(frozen=True)
class AttackScale:
    """How a preset attacks: the first `images` test images, ensembles of these sizes, at these epsilons.

    steps: of PGD. others: networks that examples made against a single one are shown to (0: none).
    searched: networks of the largest ensemble whose smallest fooling epsilon is searched. adaptive: attacks
    that know the defence (None: none).
    """

    images: int | None
    sizes: tuple[int, ...]
    epsilons: tuple[float, ...]
    steps: int
    others: int = 0
    searched: int = 0
    adaptive: AdaptiveScale | None = None


@dataclass(frozen=True)
class Scale:
    """What a preset changes about evaluating a task; never the training images or the network.

    sizes: ensemble sizes asked for. images: test and OOD images evaluated (None: all). attacks: what
    is attacked, no size twice; the first is the task's own, others add larger ensembles on fewer images.
    """

    sizes: tuple[int, ...] = (1, 5, 10, 100)
    images: int | None = None
    attacks: tuple[AttackScale, ...] = ()

    def asked(self, sizes: tuple[int, ...]) -> Scale:
        """The scale where a command asks for these ensemble sizes: other ones are attacked as well."""
        if sizes == self.sizes:
            return self
        ensembles = tuple(n for n in sizes if n > 1)

        def other(part: AttackScale) -> AttackScale:
            tries = part.adaptive
            if tries is not None:
                tries = replace(tries, members=min(ensembles)) if ensembles else None
            return replace(part, sizes=ensembles, adaptive=tries)

        return replace(self, sizes=sizes, attacks=tuple(other(part) for part in self.attacks[:1]))


@dataclass(frozen=True)
class Task:
    """A question asked of every method.

    train: the train key; tasks with the same key share a trained method.
    load: data root (None: none was given) -> Data. network: () -> target network, buffer-free,
    input in [0, 1]. loss: of `bench.training.LOSSES`. evaluations: names in `bench.evaluations`.
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
