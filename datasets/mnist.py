"""MNIST: its files, its fixed splits, and the tasks on its images alone (`mnist`, `mnist-attack`, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import networks
from bench.datasets.files import File, Files, idx
from bench.datasets.known import known, parts
from bench.datasets.splits import split, stratified, unit
from bench.task import ADAPTIVE, SHIFT_GREY, AttackScale, Data, Scale, Split, Task, shifted

VALIDATION = 5_000  # training images that are held out, for every task on MNIST
SUBSET = 5_000  # training images of `mnist-5000`: the first ones of `mnist`
SPLIT_SEED = 0  # of the splits; a constant, so that all run seeds train on the same images

# torchvision 0.29, datasets.MNIST.mirrors and .resources (MD5 of the downloads, as `packed`). Yann
# LeCun's server, its second mirror, no longer answers (pytorch/vision#8568). SHA-256 computed from
# the decompressed files.
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
_KNOWN = (
    (
        "train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    (
        "train-labels-idx1-ubyte",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "d53e105ee54ea40749a09fcbcd1e9432",
    ),
    (
        "t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    (
        "t10k-labels-idx1-ubyte",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
# The folder that torchvision.datasets.MNIST(root) uses, so that both share one copy.
source = Files(
    "mnist",
    tuple(
        File(
            path=f"MNIST/raw/{name}",
            size=size,
            digest=f"sha256:{content}",
            urls=tuple(f"{mirror}{name}.gz" for mirror in MIRRORS),
            packed=f"md5:{packed}",
        )
        for name, size, content, packed in _KNOWN
    ),
)


def load(root: Path | None, subset: int | None = None) -> Data:
    """MNIST: 55,000 training images (or the first `subset`), 5,000 of validation, 10,000 of test.

    All parts are in the order of a stratified permutation with a constant seed, so that every prefix of
    a part has the classes in proportion. Raises: DataError if a file is missing or not MNIST's.
    """
    raw = source.read(root)
    images, labels = _part(raw, "train", 60_000)
    test_images, test_labels = _part(raw, "t10k", 10_000)
    order = stratified(labels, SPLIT_SEED)
    val, train = order[:VALIDATION], order[VALIDATION:][:subset]
    pixels = unit(images, 255)
    return Data(
        train=split("mnist", pixels, labels, train),
        val=split("mnist-val", pixels, labels, val),
        test=split("mnist", unit(test_images, 255), test_labels, stratified(test_labels, SPLIT_SEED)),
        checksums={file.path: file.digest.removeprefix("sha256:") for file in source.files},
        known=parts(known("mnist")),
    )


def _part(raw: Mapping[str, bytes], part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    return idx(raw[names[0]], names[0], (count, 28, 28)), idx(raw[names[1]], names[1], (count,))


SCALES = {"smoke": Scale(sizes=(1, 5), images=500), "quick": Scale(), "paper": Scale()}

mnist = Task(
    name="mnist",
    train="mnist",
    load=load,
    network=networks.mnist,
    evaluations=("accuracy", "diversity"),
    scales=SCALES,
)

mnist_5000 = Task(
    name="mnist-5000",
    train="mnist-5000",
    load=partial(load, subset=SUBSET),
    network=networks.mnist,
    evaluations=("accuracy", "diversity"),
    scales=SCALES,
)

# Epsilons of the paper's Figure 5; 10 steps are torchattacks' own. 1,000 networks attacked need 2,000.
EPSILONS = (0.01, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)
ATTACKED = {
    "smoke": (AttackScale(16, (5,), (0.1, 0.3), steps=3, others=10, searched=5, adaptive=ADAPTIVE["smoke"]),),
    "quick": (
        AttackScale(
            100, (5, 10, 100), (0.01, 0.1, 0.3), steps=10, others=500, searched=10, adaptive=ADAPTIVE["quick"]
        ),
        AttackScale(16, (1000,), (0.1,), steps=10),
    ),
    "paper": (
        AttackScale(
            None, (5, 10, 100, 1000), EPSILONS, steps=10, others=500, searched=100, adaptive=ADAPTIVE["paper"]
        ),
    ),
}

mnist_attack = Task(
    name="mnist-attack",
    train="mnist",
    load=load,
    network=networks.mnist,
    evaluations=("accuracy", "attack", "adaptive", "fooling-epsilon"),
    scales={preset: replace(scale, attacks=ATTACKED[preset]) for preset, scale in SCALES.items()},
)

# At quick, 30 times 1,000 images in 100 networks take one core about two minutes.
SHIFTED = {"smoke": 50, "quick": 1000, "paper": None}

mnist_shift = Task(
    name="mnist-shift",
    train="mnist",
    load=load,
    network=networks.mnist,
    evaluations=("accuracy", "shift"),
    scales=shifted(SCALES, SHIFT_GREY, SHIFTED),
)


def halves(images: Tensor, labels: Tensor) -> Tensor:
    """Each image of [B, C, H, W] with the right half of the next one that has another label."""
    following = torch.arange(len(labels)).roll(-1)
    while (same := labels[following] == labels).any():
        following[same] = (following[same] + 1) % len(labels)
    middle = images.shape[-1] // 2
    return torch.cat([images[..., :middle], images[following][..., middle:]], -1)


def _on_validation(root: Path | None) -> Data:
    data = load(root)
    outliers = Split("mnist-val:halves", halves(data.val.images, data.val.labels), data.val.labels)
    return replace(data, test=data.val, outliers=outliers)


# What settings change, without a look at test images, letters or notMNIST.
mnist_val = Task(
    name="mnist-val",
    train="mnist",
    load=_on_validation,
    network=networks.mnist,
    evaluations=("accuracy", "diversity", "ood", "attack"),
    scales={
        preset: replace(scale, attacks=(AttackScale(100, (5,), (0.1,), steps=10),))
        for preset, scale in SCALES.items()
    },
)
