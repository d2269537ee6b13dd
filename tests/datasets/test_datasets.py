"""Data sets: names, splits, embedded digits and letters, the real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import registry
from bench.datasets import digits, letters, mnist
from bench.datasets.splits import stratified
from bench.errors import DataError
from bench.task import Data

DIGITS = ("digits", "digits-open", "digits-shift")
REAL = ("mnist", "mnist-5000", "notmnist", "mnist-shift", "mnist-val")
ROOT = os.environ.get("BENCH_DATA")
real_data = pytest.mark.skipif(not ROOT, reason="BENCH_DATA is not set: no folder with MNIST and notMNIST")


def load(name: str) -> Data:
    return registry.task(name).load(Path(ROOT) if ROOT else None)


def rows(images: torch.Tensor | np.ndarray) -> set[bytes]:
    return {np.asarray(image).tobytes() for image in images}


# Registration


def test_registering_imports_neither_torch_nor_sklearn() -> None:
    code = "import sys, bench.datasets; print(sorted({'torch', 'sklearn', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("name", [*DIGITS, *REAL])
def test_a_registered_task_has_its_name_and_all_presets(name: str) -> None:
    task = registry.task(name)
    assert task.name == name and set(task.scales) == set(registry.PRESETS)
    assert task.scale("smoke").sizes == (1, 5) and task.scale("quick").sizes == (1, 5, 10, 100)
    assert task.scale("paper").images is None
    assert task.embedded == (name in DIGITS)


def test_tasks_with_the_same_training_share_a_train_key() -> None:
    assert {name: registry.task(name).train for name in REAL} == {
        "mnist": "mnist",
        "mnist-5000": "mnist-5000",
        "notmnist": "mnist",
        "mnist-shift": "mnist",
        "mnist-val": "mnist",
    }


@pytest.mark.parametrize("name", ["mnist", "notmnist"])
def test_a_registered_source_has_its_name(name: str) -> None:
    assert registry.source(name).name == name


# Splits


@pytest.mark.parametrize("sizes", [(50, 50, 50), (7, 100, 31, 2), (1,)])
def test_every_prefix_of_a_stratified_permutation_has_the_class_proportions(sizes) -> None:
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    order = stratified(labels, 3)
    assert sorted(order) == list(range(len(labels)))
    counts = np.cumsum(labels[order][:, None] == np.arange(len(sizes)), axis=0)
    shares = np.array(sizes) / len(labels)
    expected = np.arange(1, len(labels) + 1)[:, None] * shares
    assert (np.abs(counts - expected) <= 0.5 + shares * len(sizes) / 2 + 1e-9).all()


def test_a_stratified_permutation_depends_only_on_labels_and_seed() -> None:
    labels = np.repeat(np.arange(3), 20)
    np.random.seed(5)
    first = stratified(labels, 0)
    np.random.seed(6)
    assert (first == stratified(labels, 0)).all() and (first != stratified(labels, 1)).any()


def check_data(data: Data) -> None:
    """Checks for every task: types, range, disjoint parts, balanced prefixes, full checksums."""
    parts = [data.train, data.val, data.test]
    for part in [*parts, *([data.outliers] if data.outliers else [])]:
        assert part.images.dtype == torch.float32 and part.labels.dtype == torch.int64
        assert part.images.min() >= 0 and part.images.max() <= 1
        share = torch.bincount(part.labels) / len(part)
        half = torch.bincount(part.labels[: len(part) // 2], minlength=len(share)) / (len(part) // 2)
        assert torch.allclose(half, share, atol=2 / (len(part) // 2))
    assert all(len(value) == 64 and int(value, 16) for value in data.checksums.values())


@pytest.mark.parametrize("name", DIGITS)
def test_embedded_tasks_satisfy_the_general_laws(name: str) -> None:
    check_data(load(name))


def test_digits_are_split_once_and_completely() -> None:
    data = load("digits")
    parts = (data.train, data.val, data.test)
    assert [part.name for part in parts] == ["digits", "digits-val", "digits"]
    assert [len(part) for part in parts] == [1257, 180, 360]
    # All 1,797 images are different, so counting them shows that the parts are disjoint.
    assert len(set.union(*(rows(part.images) for part in parts))) == 1797
    assert data.train.images.shape[1:] == (1, 28, 28)


def test_open_digits_keep_known_and_unknown_classes_apart() -> None:
    data = load("digits-open")
    assert data.outliers is not None and data.outliers.name == "digits:5-9"
    assert [len(part) for part in (data.train, data.val, data.test, data.outliers)] == [631, 90, 180, 896]
    assert all(set(part.labels.tolist()) == set(range(5)) for part in (data.train, data.val, data.test))
    assert set(data.outliers.labels.tolist()) == set(range(5, 10))
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert (data.train.images[:, 0] == data.train.images[:, 2]).all()


@pytest.mark.parametrize("name", DIGITS)
def test_a_second_computation_gives_the_same_data(name: str) -> None:
    first = load(name)
    for cached in (letters.letters, digits._levels, digits._load_digits, digits._load_digits_open):
        cached.cache_clear()
    again = load(name)
    assert again is not first and again.checksums == first.checksums
    assert torch.equal(again.train.images, first.train.images)
    assert torch.equal(again.test.labels, first.test.labels)


@pytest.mark.parametrize("name", DIGITS)
def test_the_network_of_an_embedded_task_fits_its_images(name: str) -> None:
    task, data = registry.task(name), load(name)
    classes = len(data.train.labels.unique())
    assert task.network()(data.test.images[:2]).shape == (2, classes)


# Letters


def test_letters_have_the_statistics_of_digits_but_differ() -> None:
    levels, labels = letters.letters()
    known, _ = digits._levels()
    assert levels.shape == (360, 8, 8) and (np.bincount(labels) == 36).all()
    assert set(np.unique(levels)) == set(np.unique(known)) == set(range(17))  # before upsampling
    assert not rows(levels) & rows(known)
    ink, digit_ink = levels.mean((1, 2)), known.mean((1, 2))
    assert digit_ink.min() < ink.min() and ink.max() < digit_ink.max()
    assert (levels.max(2) > 0).all()  # as digits do, they fill the height


def test_a_letter_with_a_hole_is_drawn_with_it() -> None:
    levels, labels = letters.letters()
    d = levels[labels == letters.LETTERS.index("D")]
    assert d[:, 3:5, 3:5].mean() < d.mean() / 2


def test_upsampling_keeps_blank_blank_and_full_full() -> None:
    levels = np.stack([np.zeros((8, 8)), np.full((8, 8), 16)])
    blank, full = digits.upsample(levels, 28)
    assert (blank == 0).all() and torch.allclose(full, torch.ones(()))
    assert full.max() <= 1


def test_a_font_that_is_missing_is_named(monkeypatch) -> None:
    monkeypatch.setattr(letters, "FONTS", ("NoSuchFont",))
    with pytest.raises(DataError, match=r"NoSuchFont.*no such file.*reinstall"):
        letters.letters.__wrapped__()


# The real files


@real_data
def test_real_mnist_satisfies_the_general_laws_and_sizes() -> None:
    data = load("mnist")
    check_data(data)
    parts = (data.train, data.val, data.test)
    assert [(part.name, len(part)) for part in parts] == [
        ("mnist", 55_000),
        ("mnist-val", 5_000),
        ("mnist", 10_000),
    ]
    assert abs(float(torch.cat([data.train.images, data.val.images]).mean()) - 0.1307) < 1e-4
    # MNIST's 60,000 training images are all different.
    assert len(rows(data.train.images) | rows(data.val.images)) == 60_000


@real_data
def test_mnist_5000_shares_validation_and_trains_on_part_of_mnist() -> None:
    whole, part = load("mnist"), load("mnist-5000")
    assert torch.equal(part.val.images, whole.val.images) and torch.equal(part.test.images, whole.test.images)
    assert len(part.train) == 5_000 and torch.equal(part.train.images, whole.train.images[:5_000])
    assert not rows(part.train.images) & rows(part.val.images)


@real_data
def test_real_notmnist_adds_10000_letters_to_mnist() -> None:
    data = load("notmnist")
    assert data.outliers is not None and data.outliers.name == "notmnist"
    assert torch.bincount(data.outliers.labels).tolist() == [1_000] * 10
    assert not rows(data.outliers.images) & rows(data.test.images)
    assert len(data.checksums) == 6


def test_joined_halves_are_of_two_images_of_different_classes():
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 2, 4)  # an image's pixels are its number
    labels = torch.tensor([0, 0, 0, 1, 2, 0])
    joined = mnist.halves(images, labels)
    left, right = joined[..., 0, 0].flatten().long(), joined[..., 0, 3].flatten().long()
    assert torch.equal(left, torch.arange(6))
    assert right.tolist() == [3, 3, 3, 4, 5, 3]
    assert torch.equal(joined[..., :2], images[..., :2])
