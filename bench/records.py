"""Rows: one number each, tidy CSV, one file a run, written whole or not at all.

A run is three files in `<results>/raw/`: `<run>.npz` (per-image arrays), `<run>.json` (what made
them) and `<run>.csv` (the rows). The CSV appears last, by an atomic rename: a run without its CSV
does not exist. No torch here: the report reads with this module alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.errors import BenchError

SCHEMA = 1
# What a reader takes at most; the largest runs of this suite have a hundredth of each.
MAX_ROWS_BYTES, MAX_ABOUT_BYTES, MAX_ARRAYS_BYTES = 64 * 2**20, 4 * 2**20, 256 * 2**20
COLUMNS = (
    "run", "method", "task", "train", "preset", "seed", "members", "evaluation", "dataset", "variant",
    "metric", "layer", "epoch", "quantile", "attack", "epsilon", "success", "crafted_members",
    "value", "unit", "examples", "config", "commit", "device", "source", "schema",
)  # fmt: skip
KEY = COLUMNS[1 : COLUMNS.index("crafted_members") + 1]
INTEGERS = ("seed", "members", "epoch", "crafted_members", "examples", "schema")
FLOATS = ("quantile", "epsilon", "value")


class Metric(NamedTuple):
    """One metric: the unit of its rows, which direction is better, and how tables and figures write it.

    direction: `higher`, `lower` or, where none is better, empty. heading: its name in a table; empty: the
    metric's own. shown: the unit behind the heading; factor: from the unit of the rows to that. decimals:
    None for three significant digits.
    """

    unit: str
    direction: str = ""
    heading: str = ""
    shown: str = ""
    factor: float = 1
    decimals: int | None = None


# Cost metrics, and only they, contain seconds, bytes or per_s.
METRICS: dict[str, Metric] = {
    "accuracy": Metric("fraction", "higher", heading="accuracy", shown="%", factor=100, decimals=2),
    "nll_nats": Metric("nats", "lower", heading="NLL", shown="nats", decimals=4),
    "brier": Metric("1", "lower", heading="Brier", decimals=4),
    "ece": Metric("fraction", "lower", heading="ECE", decimals=4),
    "adaptive_ece": Metric("fraction", "lower", heading="adaptive ECE", decimals=4),
    "aurc": Metric("fraction", "lower", heading="AURC", decimals=5),
    "accuracy_draw_sd": Metric("fraction"),
    "entropy_nats": Metric("nats", heading="entropy", shown="nats", decimals=3),
    "expected_entropy_nats": Metric("nats"),
    "mutual_information_nats": Metric("nats"),
    "auroc": Metric("fraction", "higher", heading="AUROC", decimals=4),
    "auroc_mutual_information": Metric("fraction", "higher", heading="AUROC, mutual information", decimals=4),
    "auroc_max_softmax": Metric("fraction", "higher", heading="AUROC, max softmax", decimals=4),
    "aupr_out": Metric("fraction", "higher", heading="AUPR out", decimals=4),
    "aupr_in": Metric("fraction", "higher", heading="AUPR in", decimals=4),
    "fpr95_id_positive": Metric("fraction", "lower", heading="outliers accepted at 95 % TPR", decimals=4),
    "fpr95_ood_positive": Metric("fraction", "lower", heading="inliers rejected at 95 % TPR", decimals=4),
    "auroc_draw_sd": Metric("fraction"),
    "shared_images": Metric("images", heading="outliers among the inliers", decimals=0),
    "weight_norm_mean": Metric("1", heading="mean"),
    "weight_norm_sd": Metric("1", heading="sd"),
    "weight_spread": Metric("1", heading="spread", decimals=3),
    "weight_cosine": Metric("1", heading="cosine", decimals=3),
    "weight_distance": Metric("1", heading="distance", decimals=3),
    "weight_distance_aligned": Metric("1", heading="distance, aligned", decimals=3),
    "disagreement": Metric("fraction", heading="disagreement", shown="%", factor=100, decimals=2),
    "pairwise_kl_nats": Metric("nats", heading="pairwise KL", shown="nats", decimals=4),
    "double_fault": Metric("fraction", "lower", heading="double fault", shown="%", factor=100, decimals=2),
    "effective_networks": Metric("networks", heading="effective networks", decimals=3),
    "success_rate": Metric("fraction", "lower", heading="success", shown="%", factor=100, decimals=1),
    "fooled_share": Metric("fraction", "lower", heading="fooled", shown="%", factor=100, decimals=1),
    "unmoved_share": Metric("fraction", "lower"),
    "detected_share": Metric("fraction", "higher", heading="detected", shown="%", factor=100, decimals=1),
    "evasion_rate": Metric("fraction", "lower", heading="evasion", shown="%", factor=100, decimals=1),
    "late_gain": Metric("fraction"),
    "detection_threshold_nats": Metric("nats"),
    "fooling_epsilon": Metric("1", "higher", heading="epsilon", decimals=3),
    "rmse": Metric("1", "lower", heading="RMSE", decimals=2),
    "log_likelihood_nats": Metric("nats", "higher", heading="log-likelihood", shown="nats", decimals=3),
    "band_coverage": Metric(
        "fraction", "higher", heading="target in the band", shown="%", factor=100, decimals=0
    ),
    "band_width": Metric("1", heading="band width", decimals=2),
    "wasserstein2_to_reference": Metric("1", "lower", heading="W2 to HMC", decimals=2),
    "fit_seconds": Metric("seconds", "lower", heading="fit", shown="s"),
    "sample_seconds": Metric("seconds", "lower", heading="sample", shown="s"),
    "predict_seconds": Metric("seconds", "lower", heading="predict", shown="s"),
    "peak_memory_bytes": Metric(
        "bytes", "lower", heading="peak memory", shown="MiB", factor=1 / 2**20, decimals=1
    ),
    "loss": Metric("1", "lower"),
    # Made of other rows by the report: no run writes them.
    "accuracy_single": Metric(
        "fraction", "higher", heading="accuracy, one network", shown="%", factor=100, decimals=2
    ),
    "itself_auroc": Metric("fraction", heading="test set against itself, AUROC", decimals=4),
    "shuffled_accuracy": Metric(
        "fraction", heading="accuracy on shuffled labels", shown="%", factor=100, decimals=1
    ),
    "uniform_entropy_nats": Metric(
        "nats", heading="entropy of equal probabilities", shown="nats", decimals=6
    ),
    "entropy_in_nats": Metric("nats", heading="entropy in", shown="nats", decimals=3),
    "entropy_out_nats": Metric("nats", heading="entropy out", shown="nats", decimals=3),
    "ks_distance": Metric("1", heading="KS distance", decimals=4),
    "wasserstein_nats": Metric("nats", heading="Wasserstein-1", shown="nats", decimals=3),
    "dkw_half_width": Metric("1", heading="DKW half-width", decimals=4),
    "weight_norm_ratio": Metric("1", heading="sd/mean", decimals=3),
}


def row(metric: str, value: float, **columns: Any) -> dict[str, Any]:
    """A row of one number; columns not named are empty, the unit comes from `METRICS`."""
    strange = set(columns) - set(COLUMNS)
    if strange:
        raise ValueError(f"expected columns of the schema, found {sorted(strange)}")
    unit = METRICS[metric].unit if metric in METRICS else "1"
    return {"unit": unit, **columns, "metric": metric, "value": value}


def cell_text(column: str, value: Any) -> str:
    """How a value is written: integers without a point, numbers by shortest round trip."""
    if value is None or value == "":
        return ""
    if column in INTEGERS:
        return str(int(value))
    if column in FLOATS:
        return repr(float(value))
    return str(value)


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as CSV text. Raises ValueError where two rows share a key."""
    seen: set[tuple[str, ...]] = set()
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for item in rows:
        texts = {c: cell_text(c, item.get(c)) for c in COLUMNS}
        key = tuple(texts[c] for c in KEY)
        if key in seen:
            raise ValueError(f"two rows share the key {dict(zip(KEY, key, strict=True))}")
        seen.add(key)
        writer.writerow(texts.values())
    return out.getvalue()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is either absent (or as before) or whole."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise BenchError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder with --results"
        ) from error


def write_run(
    results: Path,
    run: str,
    rows: Iterable[Mapping[str, Any]],
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
) -> Path:
    """Write a run's array file, its JSON and, last, its CSV; returns the CSV's path."""
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


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a file. Raises OSError where it cannot be read, ValueError where it is too long."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return data


def read_csv(path: Path) -> pd.DataFrame:
    """One file of rows: text columns as str, integers as Int64, numbers as float64."""
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
    if tuple(frame.columns) != COLUMNS:
        missing = [c for c in COLUMNS if c not in frame.columns]
        raise BenchError(
            f"{path}: expected the columns of schema {SCHEMA}, missing {missing}; remove the file"
        )
    return frame


def read_about(results: Path, run: str) -> dict[str, Any]:
    """The JSON beside a run's rows. Raises BenchError where it is not what a run leaves."""
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


# What readers of a run's JSON rely on, by type; the first stands for what is not there.
_ABOUT: dict[str, tuple[type, ...]] = {
    "code": (str,),
    "created": (str,),
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
            raise ValueError(f"something else under {strange[0]!r}")
        return found
    except _BROKEN_ARRAYS as error:
        raise BenchError(
            f"{path}: expected the arrays of run {run}, found {_found(error)}; run the cell again"
        ) from error


def _found(error: Exception) -> str:
    """What an error says, with its type where that alone says it."""
    return f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def runs(results: Path) -> dict[str, dict[str, Any]]:
    """Every finished run by name, with its JSON, oldest first."""
    folder = Path(results) / "raw"
    found = {path.stem: read_about(results, path.stem) for path in sorted(folder.glob("*.csv"))}
    return dict(sorted(found.items(), key=lambda item: (item[1]["created"], item[0])))


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
            "make one: bench run --method standard_ensemble --task digits --preset smoke"
        )
    return pd.concat(frames, ignore_index=True)
