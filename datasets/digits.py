"""Tasks on scikit-learn's handwritten digits: embedded, no download needed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import interpolate

from bench import networks
from bench.datasets.files import sha256
from bench.datasets.known import known as record
from bench.datasets.known import parts
from bench.datasets.letters import letters
from bench.datasets.splits import split, stratified, unit
from bench.task import ADAPTIVE, SHIFT_GREY, AttackScale, Data, Scale, Task, shifted

LEVELS = 16  # the brightest value of scikit-learn's digits; 17 values in all
SPLIT_SEED = 0  # of the splits; a constant, so that all run seeds train on the same images
KNOWN = 5  # `digits-open` trains on digits 0-4, as the paper does on CIFAR's first five classes


@cache
def _levels() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits: grey levels [1797, 8, 8] uint8, 0..16, and labels [1797]."""
    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)


def upsample(levels: np.ndarray, size: int) -> Tensor:
    """8x8 grey levels 0..16, [B, 8, 8], as images [B, 1, size, size], float32 in [0, 1], bilinear."""
    images = interpolate(unit(levels, LEVELS), size=(size, size), mode="bilinear", align_corners=False)
    return images.clamp_(0, 1)  # rounding errors of the interpolation may exceed the range


def _checksum(levels: np.ndarray, labels: np.ndarray) -> str:
    return sha256(levels.tobytes() + labels.astype(np.uint8).tobytes())


@cache
def _load_digits() -> Data:
    levels, labels = _levels()
    images = upsample(levels, 28)
    order = stratified(labels, SPLIT_SEED)
    val, test, train = np.split(order, [180, 180 + 360])  # 10 %, 20 % and the remaining 1,257
    strange, names = letters()
    return Data(
        train=split("digits", images, labels, train),
        val=split("digits-val", images, labels, val),
        test=split("digits", images, labels, test),
        outliers=split("letters", upsample(strange, 28), names, stratified(names, SPLIT_SEED)),
        checksums={"digits": _checksum(levels, labels), "letters": _checksum(strange, names)},
        known={**parts(record("digits")), "outliers": record("letters")},
    )


@cache
def _load_digits_open() -> Data:
    levels, labels = _levels()
    images = upsample(levels, 32).repeat(1, 3, 1, 1)  # grey in all three channels
    order = stratified(labels, SPLIT_SEED)
    known, unknown = order[labels[order] < KNOWN], order[labels[order] >= KNOWN]
    tenth = round(len(known) / 10)
    val, test, train = np.split(known, [tenth, 3 * tenth])
    return Data(
        train=split("digits:0-4", images, labels, train),
        val=split("digits-val:0-4", images, labels, val),
        test=split("digits:0-4", images, labels, test),
        outliers=split("digits:5-9", images, labels, unknown),
        checksums={"digits": _checksum(levels, labels)},
        known={
            **parts(record("digits").only(range(KNOWN))),
            "outliers": record("digits").only(range(KNOWN, 10)),
        },
    )


def _digits(root: Path | None) -> Data:
    return _load_digits()


def _digits_open(root: Path | None) -> Data:
    return _load_digits_open()


SCALES = {"smoke": Scale(sizes=(1, 5)), "quick": Scale(), "paper": Scale()}

# The paper's epsilons; 10 steps are torchattacks' own.
EPSILONS = (0.01, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)
ATTACKED = {
    "smoke": AttackScale(16, (5,), (0.1, 0.3), steps=3, others=10, searched=5, adaptive=ADAPTIVE["smoke"]),
    "quick": AttackScale(
        32, (5, 10, 100), (0.1,), steps=10, others=100, searched=5, adaptive=ADAPTIVE["quick"]
    ),
    "paper": AttackScale(
        None, (5, 10, 100, 1000), EPSILONS, steps=10, others=500, searched=100, adaptive=ADAPTIVE["paper"]
    ),
}

digits = Task(
    name="digits",
    train="digits",
    load=_digits,
    # The same network as for MNIST: it normalises with MNIST's mean and standard deviation (0.1307, 0.3081);
    # the digits' are 0.305 and 0.325, so normalised inputs have mean 0.57 and standard deviation 1.05.
    network=networks.mnist,
    evaluations=("accuracy", "diversity", "ood", "attack", "adaptive", "fooling-epsilon"),
    embedded=True,
    scales={preset: replace(scale, attacks=(ATTACKED[preset],)) for preset, scale in SCALES.items()},
)

digits_open = Task(
    name="digits-open",
    train="digits-open",
    load=_digits_open,
    network=partial(networks.cifar, classes=KNOWN),
    evaluations=("accuracy", "ood"),
    embedded=True,
    scales=SCALES,
)

SHIFTED = {"smoke": 50, "quick": 100, "paper": None}  # images; at quick for a few seconds of evaluation

digits_shift = Task(
    name="digits-shift",
    train="digits",
    load=_digits,
    network=networks.mnist,
    evaluations=("accuracy", "shift"),
    embedded=True,
    # Noise of the digits' own 8x8: their images are smooth, and finer noise would be another kind of image.
    scales=shifted(SCALES, replace(SHIFT_GREY, grain=8), SHIFTED),
)
