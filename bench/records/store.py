"""The files of a run: tidy CSV with one number per row, JSON and arrays.

A run is three files in `<results>/raw/`: `<run>.npz` (per-image arrays), `<run>.json` (settings, provenance,
and SHA-256 of the other two) and `<run>.csv` (the rows). The CSV is written last, by an atomic rename: a run
without its CSV does not exist. Without torch, since the report reads runs through this module.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BenchError
from bench.records.schema import (
    COLUMNS,
    FLOATS,
    INTEGERS,
    KEY,
    ROUNDING,
    SCHEMA,
    cell_text,
    check_range,
    header,
    limits,
)
from bench.system.files import read_bytes, write_atomic

# Limits when reading; the largest runs of this suite need a hundredth of each.
MAX_ROWS_BYTES, MAX_ABOUT_BYTES, MAX_ARRAYS_BYTES = 64 * 2**20, 4 * 2**20, 256 * 2**20


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV text. Raises ValueError if two rows share a key, or a value is beyond its limits."""
    seen: set[tuple[str, ...]] = set()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in rows:
        try:
            texts = {c: cell_text(c, item.get(c)) for c in COLUMNS}
            check_range(texts["metric"], float(texts["value"]))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"row {item.get('evaluation', '')} {item.get('metric', '')}: {error}") from error
        key = tuple(texts[c] for c in KEY)
        if key in seen:
            raise ValueError(f"two rows share the key {dict(zip(KEY, key, strict=True))}")
        seen.add(key)
        writer.writerow(texts.values())
    return out.getvalue()


def write_run(
    results: Path,
    run: str,
    rows: Iterable[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> Path:
    """Write a run's array file, its JSON and, last, its CSV; returns the CSV's path.

    Raises ValueError before anything is written, for rows that `read_csv` would refuse.
    """
    text = to_csv(rows)
    folder = Path(results) / "raw"
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **{k: arrays[k] for k in sorted(arrays)})
    written = {
        "run": run,
        "arrays_sha256": hashlib.sha256(packed.getvalue()).hexdigest(),
        "rows_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    write_atomic(folder / f"{run}.npz", packed.getvalue())
    document = json.dumps({**about, **written}, indent=1, sort_keys=True)
    write_atomic(folder / f"{run}.json", (document + "\n").encode())
    path = folder / f"{run}.csv"
    write_atomic(path, text.encode())
    return path


@dataclass(frozen=True)
class CodeVersion:
    """The content of a code version: hashes of definitions by name, and the roots among them."""

    definitions: dict[str, str]
    roots: tuple[str, ...]


def write_code(results: Path, version: str, definitions: Mapping[str, str], roots: Sequence[str]) -> None:
    """Write the content of a code version, once for all runs that have it; a damaged file is replaced."""
    path = Path(results) / "code" / f"{version}.json"
    try:
        known = read_code(results, version)
    except BenchError:
        known = None
    if known is None:
        document = {"definitions": dict(definitions), "roots": list(roots)}
        write_atomic(path, (json.dumps(document, indent=0, sort_keys=True) + "\n").encode())


def read_code(results: Path, version: str) -> CodeVersion | None:
    """The content of a code version; None if it was not stored.

    Raises BenchError if the file is not one that `write_code` writes.
    """
    path = Path(results) / "code" / f"{version}.json"
    if not path.exists():
        return None
    try:
        found = json.loads(read_bytes(path, MAX_ABOUT_BYTES).decode())
        definitions, roots = found["definitions"], found["roots"]
        texts = [*definitions, *definitions.values(), *roots]
        if not (isinstance(definitions, dict) and isinstance(roots, list) and all(map(_is_text, texts))):
            raise ValueError("values that are not text")
        return CodeVersion(definitions, tuple(roots))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BenchError(
            f"{path}: expected the definitions of a code version, found {_found(error)}; remove the file"
        ) from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_HEADERS = tuple(header(version) for version in range(1, SCHEMA + 1))


def read_csv(path: Path, data: bytes | None = None) -> pd.DataFrame:
    """One file of rows: text columns as str, integers as Int64, numbers as float64.

    data: its bytes, if they have been read. Columns that the file's version of the schema lacks are empty.
    Raises BenchError for other columns, and for a value that its metric cannot have.
    """
    types: dict[str, Any] = dict.fromkeys(COLUMNS, "str")
    types |= dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(FLOATS, "float64")
    try:
        blank = {c: [""] for c in (*INTEGERS, *FLOATS)}
        text = io.BytesIO(read_bytes(path, MAX_ROWS_BYTES) if data is None else data)
        frame = pd.read_csv(text, dtype=types, keep_default_na=False, na_values=blank)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise BenchError(
            f"{path}: expected rows of schema {SCHEMA}, found {error}; remove the file"
        ) from error
    if tuple(frame.columns) not in _HEADERS:
        missing = [c for c in COLUMNS if c not in frame.columns]
        raise BenchError(
            f"{path}: expected the columns of schema {SCHEMA}, missing {missing}; remove the file"
        )
    for column in (c for c in COLUMNS if c not in frame.columns):
        blanks = pd.NA if column in INTEGERS else np.nan if column in FLOATS else ""
        frame[column] = pd.Series(blanks, index=frame.index, dtype=types[column])
    wrong = [c for c in INTEGERS if (frame[c] < 0).any()]
    wrong += [c for c in FLOATS if np.isinf(frame[c]).any()]
    if wrong or frame["value"].isna().any():
        raise BenchError(
            f"{path}: expected finite values and integers from 0, found others in "
            f"{', '.join(wrong or ['value'])}; remove the file"
        )
    _check_ranges(frame, path)
    return frame[list(COLUMNS)]


def _check_ranges(frame: pd.DataFrame, path: Path) -> None:
    """Raises BenchError for the first value of the frame that its metric cannot have."""
    known = {metric: limits(metric) for metric in set(frame["metric"])}
    low, high = (frame["metric"].map({m: ends[i] for m, ends in known.items()}) for i in (0, 1))
    beyond = frame[(frame["value"] < low - ROUNDING) | (frame["value"] > high + ROUNDING)]
    for metric, value in zip(beyond["metric"].head(1), beyond["value"].head(1), strict=True):
        try:
            check_range(metric, float(value))
        except ValueError as error:
            raise BenchError(f"{path}: expected possible values, found {error}; run the cell again") from None


def read_about(results: Path, run: str) -> dict[str, Any]:
    """The JSON of a run. Raises BenchError if it is not one that a run writes."""
    path = Path(results) / "raw" / f"{run}.json"
    try:
        about = json.loads(read_bytes(path, MAX_ABOUT_BYTES).decode())
        if not isinstance(about, dict):
            raise ValueError(f"no object: {about!s:.40}")
        for key, kinds in _ABOUT.items():
            if not isinstance(about.setdefault(key, kinds[0]()), kinds):
                raise ValueError(f"{key} = {about[key]!r}")
        if not isinstance(about.setdefault("cell", run), str):
            raise ValueError(f"cell = {about['cell']!r}")
        return about
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(
            f"{path}: expected the JSON of run {run}, found {_found(error)}; run the cell again"
        ) from error


# Keys that readers of a run's JSON rely on, with their types; the first type gives the default.
_ABOUT: dict[str, tuple[type, ...]] = {
    "code": (str,),
    "created": (str,),
    "order": (int,),
    "failure": (type(None), dict),
    "run": (str,),
    "arrays_sha256": (str,),
    "rows_sha256": (str,),
    "config": (dict,),
    "environment": (dict,),
}
_BROKEN_ARRAYS = (
    OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_arrays(results: Path, run: str, part: str = "") -> dict[str, np.ndarray]:
    """The arrays of a run whose names contain `part`: `<dataset>/<members>/<quantity>`, `filters/...`."""
    path = Path(results) / "raw" / f"{run}.npz"
    try:
        data = io.BytesIO(read_bytes(path, MAX_ARRAYS_BYTES))
        with zipfile.ZipFile(data) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_ARRAYS_BYTES:
            raise ValueError(f"{unpacked:,} bytes when unpacked, more than {MAX_ARRAYS_BYTES:,}")
        with np.load(data, allow_pickle=False) as packed:
            found = {name: packed[name] for name in packed.files if part in name}
        if strange := [name for name, array in found.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{strange[0]!r}, which is not an array")
        return found
    except _BROKEN_ARRAYS as error:
        raise BenchError(
            f"{path}: expected the arrays of run {run}, found {_found(error)}; run the cell again"
        ) from error


def _found(error: Exception) -> str:
    """The message of an error, or its type if it has none."""
    return f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
