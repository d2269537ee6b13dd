"""Data files: verified by checksum, read up to a size limit, and written atomically."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import numpy as np
from pooch import HTTPDownloader
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from bench.errors import DataError

MAX_BYTES = 64 * 2**20  # limit for files of unknown size; MNIST's largest has 47 MB
CHUNK = 2**16


@dataclass(frozen=True)
class File:
    """A file of a data set, identified by its checksum.

    path: relative to the data folder, with `/`. size: bytes, as stored, or MAX_BYTES if unknown; larger
    files are not read or downloaded. digest: "sha256:..." (or "md5:...") of the stored file. urls: mirrors,
    in order of preference. packed: digest of the download if that is a gzip of the file.
    """

    path: str
    size: int
    digest: str
    urls: tuple[str, ...] = ()
    packed: str = ""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def matches(data: bytes, digest: str) -> str:
    """Empty if the bytes have this digest, else what was expected and what was found."""
    algorithm = digest.partition(":")[0]
    found = f"{algorithm}:{hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()}"
    return "" if found == digest else f"expected {digest}, found {found}"


def missing(source: str, root: Path | None, folder: str, names: str) -> DataError:
    """The error for missing files: which, where, and what to do.

    folder: relative to the data folder, which is None if not given.
    """
    where = f"DIR/{folder}, but no data folder was given" if root is None else f"{root / folder}, not found"
    return DataError(
        f"{source}: expected {names} in {where}; fetch it with `bench data fetch {source} --data DIR`, or "
        f"name the folder that holds {folder} with --data DIR or BENCH_DATA; the task `digits` needs no "
        "download"
    )


def find(root: Path, path: str) -> Path | None:
    """The path of the file, or else of the same file with suffix .gz; None if neither exists."""
    plain = root / path
    for candidate in (plain, plain.with_name(f"{plain.name}.gz")):
        if candidate.is_file():
            return candidate
    return None


def read(path: Path, limit: int, advice: str) -> bytes:
    """The bytes of a file, decompressed if its name ends in .gz but not in .tar.gz.

    advice: what to do about a bad file. Raises: DataError if it cannot be read, is a broken gzip, or
    holds more than `limit` bytes (no more are decompressed).
    """
    packed = path.suffix == ".gz" and not path.name.endswith(".tar.gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        kind = "whole gzip" if packed else "readable file"
        raise DataError(f"{path}: expected a {kind}, found {error}; {advice}") from error
    if len(data) > limit:
        raise DataError(f"{path}: expected at most {limit:,} bytes, found more; {advice}")
    return data


def read_verified(path: Path, file: File, source: str) -> bytes:
    """The bytes of a file with known checksum. Raises: DataError if they do not match it."""
    advice = f"remove it, then `bench data fetch {source}`"
    data = read(path, file.size, advice)
    if len(data) < file.size != MAX_BYTES:
        raise DataError(f"{path}: expected {file.size:,} bytes, found {len(data):,}: truncated; {advice}")
    if wrong := matches(data, file.digest):
        raise DataError(f"{path}: {wrong}; {advice}")
    return data


def idx(data: bytes, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, the format of MNIST.

    shape: expected sizes, None if any will do. Returns a read-only view of `data`.
    Raises: DataError if magic number, sizes or length differ from what was expected.
    Source: LeCun, Cortes & Burges, "The MNIST database": magic 0x08 (unsigned byte) and the number of
    dimensions, then their sizes as big-endian 32-bit integers, then the values.
    """
    start = 4 * (1 + len(shape))
    if len(data) < start:
        raise DataError(f"{name}: expected an IDX header of {start} bytes, found {len(data)}; fetch it again")
    magic, *sizes = struct.unpack_from(f">{1 + len(shape)}I", data)
    if magic != 0x0800 + len(shape):
        raise DataError(
            f"{name}: expected magic number {0x0800 + len(shape)} (unsigned bytes, {len(shape)} dimensions), "
            f"found {magic}; this is another file, fetch it again"
        )
    if any(want not in (None, size) for want, size in zip(shape, sizes, strict=True)):
        wanted = " x ".join("any" if want is None else str(want) for want in shape)
        raise DataError(
            f"{name}: expected sizes {wanted}, found {' x '.join(map(str, sizes))}; fetch it again"
        )
    count = int(np.prod(sizes, dtype=object))  # a Python integer cannot overflow: sizes are untrusted
    if len(data) != start + count:
        kind = "truncated" if len(data) < start + count else "too long"
        raise DataError(
            f"{name}: expected {start + count:,} bytes, found {len(data):,}: {kind}; fetch it again"
        )
    return np.frombuffer(data, np.uint8, count, start).reshape(sizes)


class _Sink(io.BytesIO):
    """A buffer that accepts at most `limit` bytes, however many a server sends."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > self._limit:
            raise DataError(f"expected at most {self._limit:,} bytes, found more")
        return super().write(data)


class _Meter:
    """A progress bar for pooch, which sets `total` and calls `update`, `reset` and `close`."""

    def __init__(self, name: str, show: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.total = 0
        self._done = 0
        self._bar = Progress(*columns, disable=not show, transient=True)  # the output of fetch is paths only
        self._line = self._bar.add_task(name, total=None)

    def __enter__(self) -> _Meter:
        self._bar.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._bar.stop()

    def update(self, count: int) -> None:
        self._done += count
        self._bar.update(self._line, total=self.total or None, completed=self._done)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        self._bar.refresh()


def _reason(error: Exception) -> str:
    """The underlying error message, without wrapping exceptions and object addresses."""
    cause = getattr(error.args[0] if error.args else None, "reason", error)
    return str(cause).rpartition(">: ")[2]


def download(file: File, source: str, progress: bool) -> bytes:
    """The verified, decompressed bytes of a file from the first mirror that provides them correctly.

    Raises: DataError naming each mirror and what went wrong.
    """
    reasons = []
    for url in file.urls:
        # The gzip of an incompressible file is slightly larger than the file.
        sink = _Sink(file.size + CHUNK if file.packed else file.size)
        try:
            with _Meter(file.name, progress) as meter:
                HTTPDownloader(progressbar=meter, chunk_size=CHUNK)(url, sink, None)
            data = sink.getvalue()
            if wrong := matches(data, file.packed or file.digest):
                raise DataError(wrong)
            if file.packed:
                with gzip.open(io.BytesIO(data)) as stream:
                    data = stream.read(file.size + 1)
                if wrong := matches(data, file.digest):
                    raise DataError(wrong)
            return data
        except (OSError, EOFError, ValueError, zlib.error, DataError) as error:
            reasons.append(f"{url}: {_reason(error)}")
    raise DataError(
        f"{source}: expected to download {file.name}, found {'; '.join(reasons)}; try again, or put the file "
        "into the data folder by hand; the task `digits` needs no download"
    )


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: after a failure it is absent or as before. Raises: DataError on failure."""
    # A process number would not do: other hosts and containers that share the folder have it too.
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}: {error.strerror or error}; choose a writable data folder with --data DIR"
        ) from error
    finally:
        if part.is_file():
            part.unlink()


@dataclass(frozen=True)
class Files:
    """A `bench.task.Source` of files that are all required and have known checksums."""

    name: str
    files: tuple[File, ...]

    def paths(self, root: Path | None) -> list[Path]:
        """The paths of the files, in order. Raises: DataError naming all missing files."""
        found = {file: root and find(root, file.path) for file in self.files}
        absent = [file for file in self.files if found[file] is None]
        if absent:
            folder = str(PurePosixPath(absent[0].path).parent)
            raise missing(self.name, root, folder, ", ".join(f"{file.name}(.gz)" for file in absent))
        return [path for path in found.values() if path]

    def read(self, root: Path | None) -> dict[str, bytes]:
        """The verified bytes of every file, by name."""
        paths = self.paths(root)
        return {f.name: read_verified(p, f, self.name) for f, p in zip(self.files, paths, strict=True)}

    def fetch(self, root: Path, progress: bool) -> list[Path]:
        """Download and verify missing files; verify existing ones. Raises: DataError."""
        paths = []
        for file in self.files:
            path = find(root, file.path)
            if path is None:
                path = root / file.path
                write(path, download(file, self.name, progress))
            else:
                read_verified(path, file, self.name)
            paths.append(path)
        return paths

    def verify(self, root: Path) -> list[tuple[Path, str]]:
        """Every file with `ok`, `missing`, or what is wrong with it."""
        return [self._state(root, file) for file in self.files]

    def _state(self, root: Path, file: File) -> tuple[Path, str]:
        path = find(root, file.path)
        if path is None:
            return root / file.path, "missing"
        try:
            read_verified(path, file, self.name)
        except DataError as error:
            return path, str(error)
        return path, "ok"
