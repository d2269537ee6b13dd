"""Tasks, their data, the scale of their evaluation, and data sources."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

# Standard deviation of the label noise of the regression task, in the data and in every likelihood.
NOISE_SD = 3.0  # HyperGAN paper, section 4.3: y = x^3 + N(0, 3^2)
# Added to variances predicted by a network, in training and evaluation.
MIN_VARIANCE = 1e-6  # Lakshminarayanan et al. 2017, section 2.2.1


@dataclass(frozen=True)
class Split:
    """Images with their labels, named after the files that were actually read.

    name: as in the `dataset` column: `mnist`, `mnist-val`, `notmnist`, `digits:5-9`.
    images: [B, C, H, W] float32 in [0, 1] (for regression [B, D], any range).
    labels: [B] int64 (for regression [B, 1] float32).
    augment: training applies a random crop and flip to every image (`bench.training.Minibatches`).
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
        """The first `count` examples; all if count is None."""
        if count is None:
            return self
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def at(self, index: Tensor) -> Split:
        """The examples with these indices."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device) -> Split:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Reference:
    """The reference of a regression task: the target function, and a posterior computed accurately.

    grid: inputs [G, 1] in ascending order, with the noise-free target function as labels [G, 1].
    inside: the interval covered by the data. mean, sd: [G], of a network's output under the posterior.
    """

    grid: Split
    inside: tuple[float, float]
    mean: Tensor
    sd: Tensor


@dataclass(frozen=True)
class Known:
    """What is on record of a known set of images; its parts are compared with it before training.

    side: blocks of pixels per side. means: [K, C * side * side], mean of each class over blocks. shares: [K],
    of the images. agreements: share of training labels that agree with the nearest centroid
    (`bench.metrics.images`), by numbers of classes and training images. classes: that a part has; empty: all.
    """

    side: int
    means: tuple[tuple[float, ...], ...]
    shares: tuple[float, ...]
    agreements: Mapping[tuple[int, int], float] = field(default_factory=dict)
    classes: tuple[int, ...] = ()

    def only(self, classes: Iterable[int]) -> Known:
        """The record of a part that has these classes alone."""
        return replace(self, classes=tuple(classes))


@dataclass(frozen=True)
class Data:
    """The data of a task. A fit uses train and val only; `outliers` are for OOD detection.

    checksums: SHA-256 by file or array name, of what was read; part of a cell's key. reference: for
    regression. known: what is on record of the sets, by part (`train`, `val`, `test`, `outliers`).
    """

    train: Split
    val: Split
    test: Split
    outliers: Split | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    reference: Reference | None = None
    known: Mapping[str, Known] = field(default_factory=dict)

    def fitted_on(self) -> str:
        """SHA-256 of the images and labels that a fit uses: tasks that differ elsewhere share a fit."""
        return fitted_on(self.train, self.val)

    def asked_of(self) -> str:
        """SHA-256 of the evaluation data: val, test, outliers and reference, with the splits' names."""
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
    """SHA-256 of the images and labels that a fit uses, and of whether they are augmented."""
    whole = hashlib.sha256(b"augment" if train.augment else b"")
    for part in (train.images, train.labels, val.images, val.labels):
        whole.update(part.contiguous().numpy().data)
    return whole.hexdigest()


@dataclass(frozen=True)
class AutoAttackScale:
    """Which attacks of `bench.attacks.autoattack` a preset adds to its adaptive ones, with their steps.

    targets: classes that `apgd-t` and `fab` try. epsilons: empty: those of the `AttackScale`.
    """

    attacks: tuple[str, ...]
    targets: int
    epsilons: tuple[float, ...] = ()


@dataclass(frozen=True)
class AdaptiveScale:
    """The strength of a preset's adaptive attacks, at the epsilons of its `AttackScale`.

    members: networks attacked, the same number for every method. images: the first of its `AttackScale`.
    steps, restarts: of each gradient attack. draws: fresh networks per step of `eot`. queries: of Square.
    auto: the parts of AutoAttack that join them (None: none).
    """

    members: int
    images: int
    steps: int
    restarts: int
    draws: int
    queries: int
    auto: AutoAttackScale | None = None


# All of `bench.attacks.autoattack`, which loads torchattacks: a task is described without it.
_ALL = ("apgd-ce", "apgd-t", "fab", "square-mixture", "apgd-eot", "apgd-margin")
_AUTO = {
    "smoke": AutoAttackScale(_ALL, targets=1, epsilons=(0.1,)),
    "quick": AutoAttackScale(("apgd-ce", "apgd-t"), targets=3, epsilons=(0.1,)),
    "paper": AutoAttackScale(_ALL, targets=9),  # AutoAttack's own number
}
# By preset. 5 networks: every method can provide 5 and 5 fresh ones.
ADAPTIVE = {
    "smoke": AdaptiveScale(5, 16, steps=3, restarts=1, draws=2, queries=10, auto=_AUTO["smoke"]),
    "quick": AdaptiveScale(5, 100, steps=20, restarts=2, draws=5, queries=200, auto=_AUTO["quick"]),
    "paper": AdaptiveScale(  # 5,000 queries: Square's own
        5, 1000, steps=100, restarts=5, draws=10, queries=5000, auto=_AUTO["paper"]
    ),
}


@dataclass(frozen=True)
class AttackScale:
    """The attacks of a preset: on the first `images` test images, by ensemble size and epsilon.

    steps: of PGD. others: networks on which attacks on a single one are tested (0: none). searched:
    size of the largest ensemble whose smallest fooling epsilon is searched. adaptive: adaptive attacks
    (None: none).
    """

    images: int | None
    sizes: tuple[int, ...]
    epsilons: tuple[float, ...]
    steps: int
    others: int = 0
    searched: int = 0
    adaptive: AdaptiveScale | None = None


@dataclass(frozen=True)
class ShiftScale:
    """How strongly test images are corrupted: for each corruption its strength at severities 1, 2, ...

    images: the first of the test images, for clean images and every corruption alike (None: all).
    rotation: degrees counter-clockwise. translation: to the right, share of the width. noise: standard
    deviation, where images are in [0, 1]. blur: standard deviation of the kernel in pixels. contrast: what
    remains of the differences from an image's mean. occlusion: side of a square, share of the width.
    grain: side of the images that were interpolated to those of the task (None: as recorded); noise has
    pixels of that size too.
    """

    images: int | None
    noise: tuple[float, ...]
    blur: tuple[float, ...]
    contrast: tuple[float, ...]
    # Five equal steps to the 180 degrees of Ovadia et al. 2019, section 4.1 (Louizos and Welling 2017 turn
    # one digit by as much).
    rotation: tuple[float, ...] = (36, 72, 108, 144, 180)
    # Ovadia et al. 2019 (google-research, uq_benchmark_2019/mnist/data_lib.py): 2, 4, .. of 28 pixels, the
    # first five of thirteen; further steps cut digits in two.
    translation: tuple[float, ...] = (2 / 28, 4 / 28, 6 / 28, 8 / 28, 10 / 28)
    # A grey square, as Zeiler and Fergus 2014, section 4.2; 4/8 is the side that DeVries and Taylor 2017 cut
    # out of CIFAR-10. Eighths are whole pixels of 8x8 images.
    occlusion: tuple[float, ...] = (1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8)
    grain: int | None = None


# Strengths for grey images of 28x28: Mu and Gilmer 2019 (google-research/mnist-c, corruptions.py).
SHIFT_GREY = ShiftScale(
    images=None,
    noise=(0.08, 0.12, 0.18, 0.26, 0.38),
    blur=(1, 2, 3, 4, 6),
    contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
)
# For colour images of 32x32: Hendrycks and Dietterich 2019 (hendrycks/robustness, create_c/make_cifar_c.py).
SHIFT_COLOUR = ShiftScale(
    images=None,
    noise=(0.04, 0.06, 0.08, 0.09, 0.10),
    blur=(0.4, 0.6, 0.7, 0.8, 1),
    contrast=(0.75, 0.5, 0.4, 0.3, 0.15),
)


@dataclass(frozen=True)
class Scale:
    """The scale at which a preset evaluates a task; training images and network never change.

    sizes: ensemble sizes. images: number of test and OOD images (None: all). attacks: each size at most
    once; the first entry is the task's own, others add larger ensembles on fewer images. shift: corruptions
    of test images (None: none).
    """

    sizes: tuple[int, ...] = (1, 5, 10, 100)
    images: int | None = None
    attacks: tuple[AttackScale, ...] = ()
    shift: ShiftScale | None = None

    def asked(self, sizes: tuple[int, ...]) -> Scale:
        """The scale for ensemble sizes given in a command; other sizes than the task's are attacked too."""
        if sizes == self.sizes:
            return self
        ensembles = tuple(n for n in sizes if n > 1)

        def other(part: AttackScale) -> AttackScale:
            tries = part.adaptive
            if tries is not None:
                tries = replace(tries, members=min(ensembles)) if ensembles else None
            return replace(part, sizes=ensembles, adaptive=tries)

        return replace(self, sizes=sizes, attacks=tuple(other(part) for part in self.attacks[:1]))


def shifted(
    scales: Mapping[str, Scale], strengths: ShiftScale, images: Mapping[str, int | None]
) -> dict[str, Scale]:
    """Scales by preset with corruptions of these strengths. images: of test images, by preset (None: all)."""
    return {
        preset: replace(scale, shift=replace(strengths, images=images[preset]))
        for preset, scale in scales.items()
    }


@dataclass(frozen=True)
class Task:
    """A data set with a target network and evaluations, the same for every method.

    train: the train key; tasks with the same key share a trained method.
    load: data folder (None if not given) -> Data. network: () -> target network without buffers,
    input in [0, 1]. loss: a name in `bench.training.LOSSES`. evaluations: names in `bench.evaluations`.
    embedded: needs no download. scales: by preset.
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
        """The scale of the preset for this task; the default scale if it has none."""
        return self.scales.get(preset, Scale())


class Source(Protocol):
    """Files of one data set: `bench data fetch NAME`, `verify`, `where`."""

    name: str

    def fetch(self, root: Path, progress: bool) -> list[Path]:
        """Download missing files, verify them, and only then move them to their final names."""

    def verify(self, root: Path) -> list[tuple[Path, str]]:
        """Every file of the data set with `ok`, `missing`, or what is wrong with it."""
