"""CIFAR-10 from class folders of PNG or JPEG files, decoded once and named after the file format.

Several mirrors distribute `cifar10/{train,test}/<class>/*`. The name depends on the files, not the folder:

- `cifar10-png`: PNG files, which are lossless, though they may have been made from lossy files;
- `cifar10-jpeg75`: JPEG files, lossy, with the standard's quantisation tables at quality 75 and chroma
  halved in both directions (4:2:0); other qualities have their own number;
- `cifar10-jpeg75-422`, `cifar10-jpeg75-444`: chroma halved in one direction, or not subsampled;
- `cifar10-jpeg`: JPEG files with other tables or another sampling;
- `cifar10-mixed`: files of more than one of these kinds.

The name `cifar10` is reserved for the canonical files (`bench.datasets.cifar`).
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

from bench.datasets.files import read, write
from bench.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = {"train": 5_000, "test": 1_000}  # images of each class
SIDE = 32  # pixels
TREE = "cifar10"
VERSION = 2  # of the cache format; changing it invalidates all caches
SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PICTURE = 2**16  # bytes; as PNG, 32x32 pixels of noise have about 3,200
SAMPLING = {2: "", 1: "-422", 0: "-444"}  # Pillow's numbers for 4:2:0, 4:2:2 and 4:4:4
# SHA-256 of names, sizes and bytes of the one lossy copy with which this suite was tested.
CHECKED = {"cifar10-jpeg75": "9331aba37042b53ef175ea92210135363b064914b4bd4729651584a1b708a676"}
log = logging.getLogger("bench.datasets")
_BROKEN_PICTURE = (
    OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_BROKEN_CACHE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
_ADVICE = "correct it, or get the canonical files, which take precedence, with `bench data fetch cifar10`"


@dataclass(frozen=True)
class Pictures:
    """All of CIFAR-10: pixels [B, 3, 32, 32] and labels [B] of both parts, uint8, and the copy's name."""

    name: str
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the decoded pixels and labels."""
        whole = hashlib.sha256()
        for array in (self.train, self.train_labels, self.test, self.test_labels):
            whole.update(array.data)
        return whole.hexdigest()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, by name, without hidden files. Raises: DataError if there is no folder."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"{folder}: expected a readable folder, found {error.strerror}; {_ADVICE}") from error


def _listing(tree: Path, part: str) -> list[Path]:
    """The files of a part, by class and by name within a class.

    Raises: DataError if a class is missing, a folder has another name, or the number of files is wrong.
    """
    found = {entry.name for entry in _entries(tree / part) if entry.is_dir()}
    if found != set(CLASSES):
        lacking = [f"no {name}" for name in CLASSES if name not in found]
        surplus = [f"{name}, which is not a class" for name in sorted(found - set(CLASSES))]
        raise DataError(
            f"{tree / part}: expected the class folders {', '.join(CLASSES)}, found "
            f"{' and '.join(lacking + surplus)}; {_ADVICE}"
        )
    paths = []
    for name in CLASSES:
        folder = tree / part / name
        own = [folder / e.name for e in _entries(folder) if e.name.lower().endswith(SUFFIXES)]
        if len(own) != PER_CLASS[part]:
            raise DataError(
                f"{folder}: expected {PER_CLASS[part]:,} PNG or JPEG files, found {len(own):,}; {_ADVICE}"
            )
        paths += own
    return paths


def _contents(tree: Path, paths: list[Path]) -> tuple[list[bytes], str]:
    """The bytes of the files, and SHA-256 of their names, sizes and bytes."""
    contents, whole = [], hashlib.sha256()
    for path in paths:
        data = read(path, MAX_PICTURE, _ADVICE)
        whole.update(b"%s\0%d\0" % (os.fsencode(path.relative_to(tree).as_posix()), len(data)))
        whole.update(data)
        contents.append(data)
    return contents, whole.hexdigest()


@cache
def _qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """Quality 1 to 100 by quantisation tables, on libjpeg's scale of the standard's tables."""
    found = {}
    for quality in range(1, 101):
        out = io.BytesIO()
        Image.new("RGB", (8, 8)).save(out, "JPEG", quality=quality)
        with Image.open(out) as image:
            found[_tables(image)] = quality
    return found


def _tables(image: Image.Image) -> tuple[tuple[int, ...], ...]:
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    return tuple(tuple(table) for _, table in sorted(image.quantization.items()))


def _form(image: Image.Image) -> str:
    """The kind of an opened image, as in names: `png`, `jpeg75`, `jpeg75-444`, or `jpeg` for others."""
    if image.format == "PNG":
        return "png"
    quality = _qualities().get(_tables(image))
    sampling = SAMPLING.get(JpegImagePlugin.get_sampling(image))
    return "jpeg" if quality is None or sampling is None else f"jpeg{quality}{sampling}"


def _picture(data: bytes, path: Path) -> tuple[np.ndarray, str]:
    """Pixels [3, 32, 32] and kind of a PNG or JPEG file. Raises: DataError if it is not one of 32x32 RGB."""
    wanted = f"{path}: expected a PNG or JPEG image of {SIDE}x{SIDE} RGB pixels, found"
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:  # reads the header only
            found = f"{image.width}x{image.height} {image.mode}"
            found += " with a transparent colour" if "transparency" in image.info else ""
            if found == f"{SIDE}x{SIDE} RGB":
                return np.asarray(image).transpose(2, 0, 1), _form(image)
    except _BROKEN_PICTURE as error:
        what = "an unreadable one" if data else "an empty file"
        raise DataError(f"{wanted} {what} ({type(error).__name__}); {_ADVICE}") from error
    raise DataError(f"{wanted} {found}; {_ADVICE}")


def _decode(contents: list[bytes], paths: list[Path]) -> Pictures:
    """CIFAR-10 from the files of both parts, training part first."""
    levels = np.empty((len(paths), 3, SIDE, SIDE), np.uint8)
    forms = set()
    for i, (data, path) in enumerate(zip(contents, paths, strict=True)):
        levels[i], form = _picture(data, path)
        forms.add(form)
    labels = [np.repeat(np.arange(len(CLASSES), dtype=np.uint8), count) for count in PER_CLASS.values()]
    train = len(labels[0])
    name = f"{TREE}-{forms.pop() if len(forms) == 1 else 'mixed'}"
    return Pictures(name, levels[:train], labels[0], levels[train:], labels[1])


def _read_cache(path: Path, sources: str) -> Pictures | None:
    """The images decoded from files with the checksum `sources`.

    None if there are none, or if the cache is damaged or holds those of other files, whatever its own name.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = [stored[key] for key in ("train", "train_labels", "test", "test_labels")]
            found, checksum = Pictures(str(stored["name"]), *arrays), str(stored["checksum"])
            decoded = str(stored["sources"])
        if decoded != sources:
            reason = f"expected images decoded from sha256:{sources}, found sha256:{decoded}"
        elif found.checksum != checksum:
            reason = f"expected sha256:{checksum}, found sha256:{found.checksum}"
        else:
            return found
    except FileNotFoundError:
        return None
    except _BROKEN_CACHE as error:
        reason = str(error)
    log.warning("%s: %s; the images are decoded again", path, reason)
    return None


def _write_cache(path: Path, pictures: Pictures, sources: str) -> None:
    out = io.BytesIO()
    arrays = {key: getattr(pictures, key) for key in ("train", "train_labels", "test", "test_labels")}
    about = {"name": pictures.name, "checksum": pictures.checksum, "sources": sources}
    np.savez(out, allow_pickle=False, **{key: np.array(text) for key, text in about.items()}, **arrays)
    try:
        write(path, out.getvalue())
    except DataError as error:
        log.warning("%s; the images are decoded again each time", error)


def read_tree(tree: Path) -> Pictures:
    """CIFAR-10 from class folders `{train,test}/<class>/*`, decoded once and cached in the same folder.

    The file `decoded-<version>-<SHA-256 of the tree's names, sizes and bytes>.npz` holds the decoded images
    and the same checksum; if it cannot be written, they are decoded each time. The files are read each time
    too, because a copied or restored file may keep its size and time. Images are in the order of classes and
    file names.
    Raises: DataError naming the folder or file that is not as expected, and what was expected.
    """
    paths = [path for part in PER_CLASS for path in _listing(tree, part)]
    contents, checksum = _contents(tree, paths)
    kept = tree / f"decoded-{VERSION}-{checksum}.npz"
    pictures = _read_cache(kept, checksum)
    if pictures is None:
        pictures = _decode(contents, paths)
        _write_cache(kept, pictures, checksum)
    if CHECKED.get(pictures.name, checksum) != checksum:
        log.warning("%s: not the copy that this suite was tested with; its checksum is recorded", tree)
    return pictures
