"""A small CIFAR-10 in every form, for tests: class folders, canonical batches, their archive."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10

from bench.datasets import cifar, cifar_tree
from bench.datasets.cifar_tree import CLASSES

TRAIN, TEST, VALIDATION = 12, 4, 20  # per class; validation: over all classes
RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (10 * (TRAIN + TEST), 32, 32, 3), np.uint8)  # all different
JPEG75 = {"form": "JPEG", "quality": 75, "subsampling": "4:2:0"}


def shrink(monkeypatch) -> None:
    """Shrinks CIFAR-10 to 12 training and 4 test images per class, with 20 for validation."""
    monkeypatch.setattr(cifar_tree, "PER_CLASS", {"train": TRAIN, "test": TEST})
    monkeypatch.setattr(cifar, "VALIDATION", VALIDATION)


def saved(picture: np.ndarray | Image.Image, form: str = "PNG", **how: object) -> bytes:
    out = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(out, form, **how)
    return out.getvalue()


def make_tree(root: Path, form: str = "PNG", suffix: str = "png", **how: object) -> Path:
    """Class folders with the images of LEVELS: training part first, by class."""
    levels = iter(LEVELS)
    for part, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            folder = root / "cifar10" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i:04}.{suffix}").write_bytes(saved(next(levels), form, **how))
    return root / "cifar10"


def make_batches(root: Path, monkeypatch) -> dict[str, bytes]:
    """Two batches for training and one for testing, as torchvision reads them; their bytes by name."""
    labels = np.arange(len(LEVELS)) % 10
    flat = LEVELS.transpose(0, 3, 1, 2).reshape(len(LEVELS), -1)
    bounds = {"data_batch_1": (0, 60), "data_batch_2": (60, 120), "test_batch": (120, 160)}
    contents = {
        name: pickle.dumps({"data": flat[a:b], "labels": labels[a:b].tolist()})
        for name, (a, b) in bounds.items()
    }
    contents["batches.meta"] = pickle.dumps({"label_names": list(CLASSES)})
    sums = [[name, hashlib.md5(data).hexdigest()] for name, data in contents.items()]
    monkeypatch.setattr(CIFAR10, "train_list", sums[:2])
    monkeypatch.setattr(CIFAR10, "test_list", sums[2:3])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": sums[3][0], "key": "label_names", "md5": sums[3][1]})
    folder = root / CIFAR10.base_folder
    folder.mkdir()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return contents


def pack(contents: dict[str, bytes], monkeypatch) -> bytes:
    """An archive of the batches, whose MD5 replaces torchvision's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in {"readme.html": b"?", **contents}.items():
            info = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(out.getvalue()).hexdigest())
    return out.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
