"""The files of a run: tidy CSV with one number per row, JSON and arrays.

A run is three files in `<results>/raw/`: `<run>.npz` (per-image arrays), `<run>.json` (settings and
provenance) and `<run>.csv` (the rows). The CSV is written last, by an atomic rename: a run without its CSV
does not exist. Without torch, since the report reads runs through this module.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BenchError
from bench.records.schema import COLUMNS, FLOATS, INTEGERS, KEY, SCHEMA, cell_text, header
from bench.system.files import read_bytes, write_atomic

# Limits when reading; the largest runs of this suite need a hundredth of each.
MAX_ROWS_BYTES, MAX_ABOUT_BYTES, MAX_ARRAYS_BYTES = 64 * 2**20, 4 * 2**20, 256 * 2**20


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV text. Raises ValueError if two rows share a key, or for a value outside its range."""
    seen: set[tuple[str, ...]] = set()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in rows:
        try:
            texts = {c: cell_text(c, item.get(c)) for c in COLUMNS}
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
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    write_atomic(folder / f"{run}.npz", packed.getvalue())
    document = json.dumps({**about, "run": run, "arrays_sha256": digest}, indent=1, sort_keys=True)
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


def read_csv(path: Path) -> pd.DataFrame:
    """One file of rows: text columns as str, integers as Int64, numbers as float64.

    Columns that the file's version of the schema lacks are empty.
    """
    types: dict[str, Any] = dict.fromkeys(COLUMNS, "str")
    types |= dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(FLOATS, "float64")
    try:
        blank = {c: [""] for c in (*INTEGERS, *FLOATS)}
        text = io.BytesIO(read_bytes(path, MAX_ROWS_BYTES))
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
    return frame[list(COLUMNS)]


def read_about(results: Path, run: str) -> dict[str, Any]:
    """The JSON of a run. Raises BenchError if it is not one that a run writes."""
    path = Path(results) / "raw" / f"{run}.json"
    try:
        about = json.loads(read_bytes(path, MAX_ABOUT_BYTES).decode())
        for key, kinds in _ABOUT.items():
            if not isinstance(about.setdefault(key, kinds[0]()), kinds):
                raise ValueError(f"{key} = {about[key]!r}")
        if not isinstance(about.setdefault("cell", run), str):
            raise ValueError(f"cell = {about['cell']!r}")
        return about
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise BenchError(
            f"{path}: expected the JSON of run {run}, found {_found(error)}; run the cell again"
        ) from error


# Keys that readers of a run's JSON rely on, with their types; the first type gives the default.
_ABOUT: dict[str, tuple[type, ...]] = {
    "code": (str,),
    "created": (str,),
    "order": (int,),
    "failure": (type(None), dict),
    "arrays_sha256": (str,),
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


def runs(results: Path) -> dict[str, dict[str, Any]]:
    """Every finished run by name, with its JSON, oldest first."""
    folder = Path(results) / "raw"
    found = {path.stem: read_about(results, path.stem) for path in folder.glob("*.csv")}
    return {name: found[name] for name in ages(found)}


def ages(abouts: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The place of each run from the oldest, 0, to the newest. abouts: the JSON of runs by name.

    What decides is the number `order` that a run was written with; of runs with the same (written at once,
    or before there was one), that at the end of the name, and then the name. The time of day does not: runs
    of one folder may come from hosts whose clocks differ.
    """
    keys = {
        run: (about.get("order", 0), _number(run, about.get("cell", "")), run)
        for run, about in abouts.items()
    }
    return {run: i for i, run in enumerate(sorted(keys, key=keys.__getitem__))}


def _number(run: str, cell: str) -> int:
    """How many runs of its cell there were with a run, by its name; 1 for other names."""
    end = run.rpartition(f"-{cell[:8]}-")[2]
    return int(end) if end != run and re.fullmatch("[0-9]{1,9}", end) else 1


def next_order(results: Path, family: str) -> int:
    """A number above `order` of all runs whose names begin with `family`; unreadable ones do not count."""
    highest = 0
    for path in (Path(results) / "raw").glob(f"{glob.escape(family)}*.json"):
        with suppress(BenchError):
            highest = max(highest, read_about(results, path.stem)["order"])
    return highest + 1


def read(results: Path) -> pd.DataFrame:
    """All rows of the newest run of each cell, in one frame sorted by run name.

    A failed run never hides an older one that succeeded.
    """
    newest: dict[str, str] = {}
    for name, about in runs(results).items():
        if about["failure"] and about["cell"] in newest:
            continue
        newest[about["cell"]] = name
    frames = [read_csv(Path(results) / "raw" / f"{name}.csv") for name in sorted(newest.values())]
    if not frames:
        raise BenchError(
            f"expected runs in {Path(results) / 'raw'}, found none; "
            f"make one: bench run --method standard_ensemble --task digits --preset smoke --results {results}"
        )
    return pd.concat(frames, ignore_index=True)
