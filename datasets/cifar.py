"""CIFAR-10: its canonical files, its fixed splits, and the tasks on all classes and on the first five.

If any file of torchvision's `cifar-10-batches-py` exists, these files are read, as `cifar10`. Otherwise a
tree of class folders is read, named after the kind of its files (`bench.datasets.cifar_tree`).

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from bench import networks
from bench.datasets.cifar_tree import CLASSES, PER_CLASS, TREE, Pictures, read_tree
from bench.datasets.files import MAX_BYTES, File, Files, download, matches, missing, read_verified, write
from bench.datasets.known import known as record
from bench.datasets.known import parts
from bench.datasets.splits import stratified
from bench.errors import DataError
from bench.task import SHIFT_COLOUR, Data, Scale, Split, Task, shifted

KNOWN = 5  # `cifar5` and `cifar5-open` train on classes 0-4, as the paper did
VALIDATION = 5_000  # training images of all ten classes that are held out, for every task on CIFAR-10
SUBSET = 5_000  # training images of `cifar10-5000`: the first ones of `cifar10`
SPLIT_SEED = 0  # of the splits; a constant, so that all run seeds train on the same images
ARCHIVE_BYTES = 170_498_071  # size of the archive, of which torchvision gives only the MD5


def _archive() -> File:
    return File(CIFAR10.filename, ARCHIVE_BYTES, f"md5:{CIFAR10.tgz_md5}", (CIFAR10.url,))


def _batches() -> tuple[File, ...]:
    """The seven files that torchvision reads, with torchvision's checksums."""
    meta = CIFAR10.meta["filename"], CIFAR10.meta["md5"]
    listed = (*CIFAR10.train_list, *CIFAR10.test_list, meta)
    return tuple(File(f"{CIFAR10.base_folder}/{name}", MAX_BYTES, f"md5:{md5}") for name, md5 in listed)


def _absent(root: Path) -> list[File]:
    return [file for file in _batches() if not (root / file.path).is_file()]


def _has_batches(root: Path) -> bool:
    return len(_absent(root)) < len(_batches())


def read_batches(root: Path) -> Pictures:
    """CIFAR-10 from the canonical files, by torchvision.

    Raises: DataError naming the files that are missing, or the one with a wrong checksum.
    """
    if absent := _absent(root):
        raise missing("cifar10", root, CIFAR10.base_folder, ", ".join(file.name for file in absent))
    for file in _batches():  # torchvision checks too, but does not name the wrong file
        read_verified(root / file.path, file, "cifar10")
    train, test = (CIFAR10(root, train=flag) for flag in (True, False))
    return Pictures(
        "cifar10",
        np.ascontiguousarray(train.data.transpose(0, 3, 1, 2)),
        np.array(train.targets, np.uint8),
        np.ascontiguousarray(test.data.transpose(0, 3, 1, 2)),
        np.array(test.targets, np.uint8),
    )


def _has_tree(root: Path) -> bool:
    return any((root / TREE / part).is_dir() for part in PER_CLASS)


def pictures(root: Path | None) -> Pictures:
    """CIFAR-10 in the data folder: the canonical files if any exists, else the tree.

    Raises: DataError if neither exists, or if files are missing or damaged.
    """
    if root and _has_batches(root):
        return read_batches(root)
    if root and _has_tree(root):
        return read_tree(root / TREE)
    names = ", ".join(file.name for file in _batches())
    raise missing("cifar10", root, CIFAR10.base_folder, f"{TREE}/{{train,test}}/<class>/*, or {names}")


def load(root: Path | None, classes: int = 10, subset: int | None = None, outliers: bool = False) -> Data:
    """CIFAR-10, or its first classes: 45,000 training images, 5,000 of validation, 10,000 of test.

    One stratified permutation of all 50,000 with a constant seed splits them: the first 5,000 are for
    validation, the others for training; then the first classes are selected (five: 2,500 and 22,500), so
    that no task trains on another's validation images. subset: number of training images (before classes are
    selected). outliers: the other classes of the test set, with their own labels. Every prefix of a part has
    the classes in proportion. Only training images are augmented. Raises: DataError as `pictures` does.
    """
    found = pictures(root)
    order = stratified(found.train_labels, SPLIT_SEED)
    tested = stratified(found.test_labels, SPLIT_SEED)
    known = found.test_labels[tested] < classes
    part = "" if classes == len(CLASSES) else f":0-{classes - 1}"

    def training(name: str, index: np.ndarray) -> Split:
        own = index[found.train_labels[index] < classes]
        return _split(f"{name}{part}", found.train, found.train_labels, own)

    def testing(name: str, index: np.ndarray) -> Split:
        return _split(name, found.test, found.test_labels, index)

    rest = f"{found.name}:{classes}-{len(CLASSES) - 1}"
    return Data(
        train=replace(training(found.name, order[VALIDATION:][:subset]), augment=True),
        val=training(f"{found.name}-val", order[:VALIDATION]),
        test=testing(f"{found.name}{part}", tested[known]),
        outliers=testing(rest, tested[~known]) if outliers else None,
        checksums={found.name: found.checksum},
        known={
            **parts(record("cifar10").only(range(classes))),
            "outliers": record("cifar10").only(range(classes, len(CLASSES))),
        },
    )


def _split(name: str, levels: np.ndarray, labels: np.ndarray, order: np.ndarray) -> Split:
    """Images [B, 3, 32, 32] float32 in [0, 1] and labels at these indices; converts only these to float."""
    images = torch.from_numpy(levels[order]).to(torch.float32).div_(255)
    return Split(name, images, torch.from_numpy(labels[order].astype(np.int64)))


class Cifar10:
    """The `bench.task.Source` of CIFAR-10; always fetches the canonical files, even if a tree exists."""

    name = "cifar10"

    def fetch(self, root: Path, progress: bool) -> list[Path]:
        """Verify existing files, and unpack missing ones from the archive, downloaded if necessary.

        Raises: DataError if an existing file or the archive has a wrong checksum.
        """
        absent = {file.path: file for file in _absent(root)}
        for file in _batches():
            if file.path not in absent:
                read_verified(root / file.path, file, self.name)
        if absent:
            for path, content in _unpack(self._packed(root, progress), absent):
                write(root / path, content)
        return [root / file.path for file in _batches()]

    def _packed(self, root: Path, progress: bool) -> bytes:
        """The verified bytes of the archive, which torchvision leaves in the data folder."""
        archive = _archive()
        path = root / archive.path
        if not path.is_file():
            return download(archive, self.name, progress)
        with path.open("rb") as stream:
            data = stream.read(archive.size + 1)
        if wrong := matches(data, archive.digest):
            raise DataError(f"{path}: {wrong}; remove it, then `bench data fetch {self.name}`")
        return data

    def verify(self, root: Path) -> list[tuple[Path, str]]:
        """The canonical files or, if none exists, the tree, with `ok` or what is wrong."""
        if _has_batches(root) or not _has_tree(root):
            return Files(self.name, _batches()).verify(root)
        try:
            read_tree(root / TREE)
        except DataError as error:
            return [(root / TREE, str(error))]
        return [(root / TREE, "ok")]


def _unpack(data: bytes, files: dict[str, File]) -> Iterator[tuple[str, bytes]]:
    """Path and verified bytes of the requested members of the archive; writes nothing."""
    missed = dict(files)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name in missed else None
            if stream is not None:
                file = missed.pop(member.name)
                content = stream.read(file.size)
                if wrong := matches(content, file.digest):
                    raise DataError(f"{CIFAR10.filename}: {file.name}: {wrong}")
                yield file.path, content
    if missed:
        raise DataError(f"{CIFAR10.filename}: expected {', '.join(missed)}, found no such member")


source = Cifar10()

SCALES = {"smoke": Scale(sizes=(1, 5), images=500), "quick": Scale(), "paper": Scale()}
_five = partial(load, classes=KNOWN)

cifar10 = Task(
    name="cifar10",
    train="cifar10",
    load=load,
    network=networks.cifar,
    evaluations=("accuracy", "diversity"),
    scales=SCALES,
)

cifar10_5000 = Task(
    name="cifar10-5000",
    train="cifar10-5000",
    load=partial(load, subset=SUBSET),
    network=networks.cifar,
    evaluations=("accuracy", "diversity"),
    scales=SCALES,
)

cifar5 = Task(
    name="cifar5",
    train="cifar5",
    load=_five,
    network=partial(networks.cifar, classes=KNOWN),
    evaluations=("accuracy", "diversity"),
    scales=SCALES,
)

cifar5_open = Task(
    name="cifar5-open",
    train="cifar5",
    load=partial(_five, outliers=True),
    network=partial(networks.cifar, classes=KNOWN),
    evaluations=("accuracy", "ood"),
    scales=SCALES,
)

SHIFTED = {"smoke": 50, "quick": 1000, "paper": None}  # images, as many as for MNIST

cifar10_shift = Task(
    name="cifar10-shift",
    train="cifar10",
    load=load,
    network=networks.cifar,
    evaluations=("accuracy", "shift"),
    scales=shifted(SCALES, SHIFT_COLOUR, SHIFTED),
)
