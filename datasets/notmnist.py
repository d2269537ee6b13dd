"""notMNIST: letters A-J in 28x28, in any of the forms in which it is distributed, and task `notmnist`.

Source: Y. Bulatov, "notMNIST dataset", 2011. The small set holds 18,726 PNG files in folders A to J,
two of which are broken: `A/RGVtb2NyYXRpY2FCb2xkT2xkc3R5bGUgQm9sZC50dGY=.png` and
`F/Q3Jvc3NvdmVyIEJvbGRPYmxpcXVlLnR0Zg==.png`.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from PIL import Image

from bench import networks
from bench.datasets import mnist
from bench.datasets.files import (
    MAX_BYTES,
    File,
    download,
    find,
    idx,
    missing,
    read,
    read_verified,
    sha256,
    write,
)
from bench.datasets.known import known
from bench.datasets.splits import split, stratified, unit
from bench.errors import DataError
from bench.task import Data, Task

FOLDER, SMALL = "notMNIST", "notMNIST_small"
LETTERS = "ABCDEFGHIJ"
COUNT = 10_000  # letters evaluated: as many as MNIST's test images, and all of the MNIST-format files
LEAST = COUNT // len(LETTERS)  # of each letter
ORDER_SEED = 0  # of the selection and order of letters; a constant, the same for every run seed
BROKEN = 2  # unreadable PNG files in the original small set
UNEVEN = 1 + BROKEN  # the original has 1,873 files of each letter A to F and 1,872 of each other one
MAX_PNG = 2**16  # bytes; a 28x28 grey image has less than 1,000
MAX_MEMBERS = 40_000  # of an archive: 18,726 images, twice that with macOS resource files

# The copy of the MNIST-format files that this suite was tested with: 1,000 letters per class.
IMAGES = File(
    f"{FOLDER}/t10k-images-idx3-ubyte",
    7_840_016,
    "sha256:8e7f38ae95cc8f48e0986175ffc9137e5007ebcf3d8fdf6656c904eb9dab198b",
)
LABELS = File(
    f"{FOLDER}/t10k-labels-idx1-ubyte",
    10_008,
    "sha256:5f8e6012f2ce730700d8d05fca098bc47f71d25b890e4bec7ac5ebfd614a4001",
)
ARCHIVES = (
    # Zenodo record 8274268; name and MD5 as in torch-uncertainty, datasets/classification/not_mnist.py.
    File(
        f"{FOLDER}/{SMALL}.zip",
        MAX_BYTES,
        "md5:3de91fb69221d9c2d5c57387101ebc6c",
        (f"https://zenodo.org/record/8274268/files/{SMALL}.zip",),
    ),
    # The author's archive, at the two addresses where it was published; MD5 from clarena's loader,
    # size from the notebooks of Udacity's deep-learning course.
    File(
        f"{FOLDER}/{SMALL}.tar.gz",
        8_458_043,
        "md5:c9890a473a9769fda4bdf314aaf500dd",
        (
            f"http://yaroslavvb.com/upload/notMNIST/{SMALL}.tar.gz",
            f"https://commondatastorage.googleapis.com/books1000/{SMALL}.tar.gz",
        ),
    ),
)
log = logging.getLogger("bench.datasets")
# Hidden files, such as a Mac's `._0.png`, are not pictures.
_PICTURE = re.compile(rf"(?:\./)?{SMALL}/(?P<name>[A-J]/[^/.][^/]*\.(?i:png))")
# Exceptions for broken files; zipfile raises RuntimeError for an encrypted one.
_BROKEN_ARCHIVE = (
    tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, ValueError, zlib.error, RuntimeError,
)  # fmt: skip
_BROKEN_PICTURE = (
    OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_ADVICE = "remove it, then `bench data fetch notmnist`"

Letters = tuple[np.ndarray, np.ndarray, Mapping[str, str]]  # grey levels, labels, checksums


def read_files(images: Path, labels: Path) -> Letters:
    """The letters of a pair of MNIST-format files: levels [B, 28, 28], labels [B], SHA-256 by file.

    Any copy is read and its checksum recorded, except that MNIST under notMNIST's name is refused.
    """
    raw = {IMAGES: read(images, MAX_BYTES, _ADVICE), LABELS: read(labels, MAX_BYTES, _ADVICE)}
    sums = {file.path: sha256(data) for file, data in raw.items()}
    if f"sha256:{sums[IMAGES.path]}" in {file.digest for file in mnist.source.files}:
        raise DataError(f"{images}: expected notMNIST, found MNIST itself; {_ADVICE}")
    if any(file.digest != f"sha256:{sums[file.path]}" for file in raw):
        log.warning("%s: not the copy that this suite was tested with; its checksum is recorded", images)
    levels = idx(raw[IMAGES], str(images), (None, 28, 28))
    names = idx(raw[LABELS], str(labels), (len(levels),))
    if len(names) and names.max() >= len(LETTERS):
        raise DataError(f"{labels}: expected labels 0 to {len(LETTERS) - 1}, found {names.max()}; {_ADVICE}")
    return levels, names, sums


def read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name (`A/....png`) and bytes of every PNG file in the folders A to J, hidden files excepted.

    A folder that is missing has none. Raises: DataError if one cannot be read.
    """
    for place in (folder / letter for letter in LETTERS):
        try:
            paths = list(place.iterdir()) if place.exists() else []
        except OSError as error:
            raise DataError(
                f"{place}: expected a readable folder, found {error.strerror}; {_ADVICE}"
            ) from error
        for path in paths:
            if path.suffix.lower() == ".png" and not path.name.startswith("."):
                yield f"{place.name}/{path.name}", read(path, MAX_PNG, _ADVICE)


def read_archive(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Name (`A/....png`) and bytes of every PNG file in a .zip or .tar.gz archive; writes nothing.

    Raises: DataError for a broken archive, and for one with a path outside its folder, a link, or
    more or larger members than the data set has.
    """
    members = _zip_members if name.endswith(".zip") else _tar_members
    try:
        for count, (path, size, content) in enumerate(members(data)):
            parts = PurePosixPath(path).parts
            if path.startswith("/") or ".." in parts or "\\" in path:
                raise DataError(f"{name}: expected paths inside the archive, found {path!r}; {_ADVICE}")
            picture = _PICTURE.fullmatch(path)
            limit = MAX_PNG if picture else MAX_BYTES  # skipped members are decompressed too
            if size > limit or count >= MAX_MEMBERS:
                raise DataError(
                    f"{name}: expected at most {MAX_MEMBERS:,} members, this one of {limit:,} bytes, found "
                    f"member {count + 1:,}, {path!r}, of {size:,}; {_ADVICE}"
                )
            if picture:
                yield picture["name"], content.read(MAX_PNG) if content else b""
    except _BROKEN_ARCHIVE as error:
        raise DataError(f"{name}: expected a whole archive, found {error}; {_ADVICE}") from error


def _tar_members(data: bytes) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                raise tarfile.TarError(f"{member.name!r}, which is neither file nor folder")
            yield member.name, member.size, archive.extractfile(member)


def _zip_members(data: bytes) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            with archive.open(member) as content:
                yield member.filename, member.file_size, content


def _picture(data: bytes, name: str) -> np.ndarray | None:
    """Grey levels 0..255 of a 28x28 PNG file; None if it is not one.

    16 bits are rounded to 8, palettes and colours become grey. Raises: DataError if a pixel is transparent,
    because its level depends on a background that the file does not say.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:  # reads the header only
            if image.size != (28, 28):
                return None
            if image.mode.startswith("I"):  # Pillow's conversion to 8 bits would cut off at 255
                return np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
            grey: Image.Image = image
            if "A" in image.mode or "transparency" in image.info:
                grey = image.convert("RGBA")
                if grey.getchannel("A").getextrema() != (255, 255):
                    raise DataError(
                        f"{name}: expected an opaque image, found transparent pixels; save it without an "
                        "alpha channel, white letters on black"
                    )
            return np.asarray(grey.convert("L"))
    except _BROKEN_PICTURE:
        return None


def decode(pictures: Iterable[tuple[str, bytes]], name: str) -> Letters:
    """The letters of named PNG files, sorted by name: levels [B, 28, 28], labels [B], one checksum.

    Skips the two files that are broken in the original, with a warning. Raises: DataError for more.
    """
    named = sorted(pictures)
    levels = [_picture(data, f"{name}/{path}") for path, data in named]
    broken = [path for (path, _), image in zip(named, levels, strict=True) if image is None]
    if broken:
        log.warning("%s: skipped %d unreadable PNG files: %s", name, len(broken), ", ".join(broken[:BROKEN]))
    if len(broken) > BROKEN:
        raise DataError(
            f"{name}: expected {BROKEN} unreadable PNG files, found {len(broken)}: "
            f"{', '.join(broken[: BROKEN + 1])}; {_ADVICE}"
        )
    good = [image for image in levels if image is not None]
    images = np.stack(good) if good else np.empty((0, 28, 28), np.uint8)
    kept = [path for (path, _), image in zip(named, levels, strict=True) if image is not None]
    labels = np.array([LETTERS.index(path[0]) for path in kept], dtype=np.uint8)
    return images, labels, {f"{FOLDER}/{SMALL}": sha256(images.tobytes() + labels.tobytes())}


def _forms(root: Path) -> list[Path]:
    """The first form of notMNIST that exists: two files, a folder or an archive; else empty."""
    files = find(root, IMAGES.path), find(root, LABELS.path)
    if files[0] and files[1]:
        return [files[0], files[1]]
    singles = [root / FOLDER / SMALL, *(root / archive.path for archive in ARCHIVES)]
    return [path for path in singles if path.exists()][:1]


def _complete(labels: np.ndarray, least: int, uneven: int, name: str) -> None:
    """Check that every letter has at least `least` images, and at most `uneven` fewer than the commonest.

    An unpacking that stopped has the first letters only, the last of them in part. Raises: DataError naming
    the letters that lack images.
    """
    counts = np.bincount(labels, minlength=len(LETTERS))
    least = max(least, int(counts.max()) - uneven)
    if lacking := [f"{n:,} of {letter}" for letter, n in zip(LETTERS, counts, strict=True) if n < least]:
        raise DataError(
            f"{name}: expected at least {least:,} images of each letter {LETTERS[0]} to {LETTERS[-1]}, found "
            f"{', '.join(lacking)}; {_ADVICE}"
        )


def letters(root: Path | None) -> Letters:
    """All letters in the data folder, in whichever form exists.

    Raises: DataError if they are missing, broken, fewer than 10,000, or not all letters.
    """
    paths = _forms(root) if root else []
    if not paths:
        pair = f"{IMAGES.name}(.gz) and {LABELS.name}(.gz)"
        forms = f"{pair}, or {SMALL}/A to J, or {SMALL}.zip, or {SMALL}.tar.gz"
        raise missing("notmnist", root, FOLDER, forms)
    if len(paths) == 2:
        found = read_files(*paths)
    elif paths[0].is_dir():
        found = decode(read_folder(paths[0]), str(paths[0]))
    else:
        known = next(archive for archive in ARCHIVES if archive.name == paths[0].name)
        data = read_verified(paths[0], known, "notmnist")
        found = decode(read_archive(data, str(paths[0])), str(paths[0]))
    if len(found[0]) < COUNT:
        raise DataError(f"{paths[0]}: expected {COUNT:,} letters, found {len(found[0]):,}; {_ADVICE}")
    if len(paths) == 2:  # of letters selected at random, each has its share to within a few per cent
        _complete(found[1], LEAST // 2, len(found[1]), str(paths[1]))
    else:
        _complete(found[1], LEAST, UNEVEN, str(paths[0]))
    return found


def load(root: Path | None) -> Data:
    """MNIST with 10,000 letters of notMNIST as outliers, in the order of a stratified permutation."""
    levels, labels, sums = letters(root)  # before MNIST, so that missing files are reported at once
    order = stratified(labels, ORDER_SEED)[:COUNT]
    data = mnist.load(root)
    outliers = split("notmnist", unit(levels, 255), labels, order)
    records = {**data.known, "outliers": known("notmnist")}
    return replace(data, outliers=outliers, checksums={**data.checksums, **sums}, known=records)


class NotMnist:
    """The `bench.task.Source` of notMNIST, in any of several forms."""

    name = "notmnist"

    def fetch(self, root: Path, progress: bool) -> list[Path]:
        """Verify the form that exists, or download and verify an archive. Raises: DataError."""
        if paths := _forms(root):
            letters(root)
            return paths
        errors = []
        for archive in ARCHIVES:
            try:
                write(root / archive.path, download(archive, self.name, progress))
                return [root / archive.path]
            except DataError as error:
                errors.append(str(error))
        raise DataError("\n".join(errors))

    def verify(self, root: Path) -> list[tuple[Path, str]]:
        """The form that exists with `ok` or what is wrong with it; else the folder with `missing`."""
        paths = _forms(root)
        if not paths:
            return [(root / FOLDER, "missing")]
        try:
            letters(root)
        except DataError as error:
            return [(path, str(error)) for path in paths]
        return [(path, "ok") for path in paths]


source = NotMnist()

notmnist = Task(
    name="notmnist",
    train="mnist",
    load=load,
    network=networks.mnist,
    evaluations=("accuracy", "ood"),
    scales=mnist.SCALES,
)
