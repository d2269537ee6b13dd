"""Comparison of two runs of one cell: rows by key and arrays by name, bit for bit or within a tolerance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.errors import BenchError
from bench.records import runs, schema, store
from bench.system import files

# Metrics whose names contain one of these are costs (`bench.records.schema.METRICS`) and vary between runs.
# `fit_gflop` does not: it is counted, and compared like any other number.
COST = ("seconds", "bytes", "per_s")
# Columns that are constant within a run.
SHARED = ("method", "task", "train", "preset", "seed")
# Lower bound of the denominator of relative differences: a mean cosine or an entropy may be close to 0.
MIN_SCALE = 0.2

Key = tuple[str, ...]  # the texts of `bench.records.schema.KEY`


@dataclass(frozen=True)
class Tolerance:
    """How much numbers may differ when bit-for-bit agreement is not required.

    A fraction (unit `fraction`) may differ by absolute + n^-exponent, any other number by
    relative + n^-exponent times the larger of the two magnitudes and `MIN_SCALE`; n is the number of
    examples, and the last term is zero if there are none.
    """

    absolute: float
    relative: float
    exponent: float

    def __str__(self) -> str:
        sampling = f"n^-{self.exponent:g}"
        return f"{self.absolute:g} + {sampling} (fractions), {self.relative:g} + {sampling} (relative)"

    def allowed(self, first: float, second: float, fraction: bool, examples: int | None) -> float:
        """The largest |first - second| within the tolerance."""
        sampling = float(examples) ** -self.exponent if examples else 0.0
        if fraction:
            return self.absolute + sampling
        return (self.relative + sampling) * max(abs(first), abs(second), MIN_SCALE)


# The same weights, evaluated on another machine or by other code. Summing in another order changes a number
# in its last digits, and occasionally the predicted class of one image of n. Measured while sums
# still followed the number of threads, which was a way to reorder them: nine methods on digits and toy (smoke
# preset), trained once and evaluated with 1 and with 2 threads, differ by at most 5e-7, absolute or relative.
# The rest is a margin for GPU kernels, which were not measured.
SAME_FIT = Tolerance(absolute=0.005, relative=0.001, exponent=1.0)
# Trained again on another machine: training amplifies rounding errors until the networks differ like those of
# another seed. 1 / sqrt(n) is at least two standard deviations of a fraction of n examples. Measured in
# the same way: 18 such cells trained with 1 and with 2 threads: all 3,369 rows and 1,030 arrays pass; trained
# with another seed, 15 of the 18 fail, in 53 rows and 12 arrays.
RETRAINED = Tolerance(absolute=0.1, relative=0.5, exponent=0.5)


@dataclass(frozen=True)
class Difference:
    """A number that differs from the stored one. excess: |difference| divided by the tolerance."""

    where: str
    expected: str
    found: str
    excess: float

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


@dataclass
class Comparison:
    """The result of comparing two runs of a cell.

    rows, arrays: how many were compared. largest: the largest difference, within the tolerance or not.
    differing: differences beyond it. missing, added: rows and arrays that only the old or the new run has.
    """

    rows: int = 0
    arrays: int = 0
    largest: Difference | None = None
    differing: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    def add(self, difference: Difference, passes: bool) -> None:
        """Record a difference."""
        if self.largest is None or difference.excess > self.largest.excess:
            self.largest = difference
        if not passes:
            self.differing.append(difference)


def read_rows(results: Path, run: str) -> dict[Key, dict[str, str]]:
    """Rows of a run as text, by key, without costs.

    Raises BenchError if the run is not as it was written, or two rows share a key.
    """
    runs.check(results, run)
    path = Path(results) / "raw" / f"{run}.csv"
    found: dict[Key, dict[str, str]] = {}
    for item in csv.DictReader(io.StringIO(files.read_bytes(path, store.MAX_ROWS_BYTES).decode())):
        key = tuple(item.get(column, "") for column in schema.KEY)  # rows of an earlier schema lack columns
        if any(word in item["metric"] for word in COST):
            continue
        if key in found:
            raise BenchError(f"{path}: expected one row of {_named(key)}, found two; run the cell again")
        found[key] = item
    if not found:
        raise BenchError(f"{path}: expected rows other than costs, found none; run the cell again")
    return found


def _named(key: Key) -> str:
    """A row's key as text, without the columns that are constant within a run."""
    texts = dict(zip(schema.KEY, key, strict=True))
    return " ".join(f"{c}={v}" for c, v in texts.items() if v and c not in SHARED)


def compare_rows(
    expected: Mapping[Key, Mapping[str, str]],
    found: Mapping[Key, Mapping[str, str]],
    tolerance: Tolerance | None,
    comparison: Comparison,
) -> None:
    """Compare rows by key: as text (tolerance None), or as numbers.

    With a tolerance the numbers of examples may differ: in some rows they count successfully attacked images.
    """
    comparison.missing += [_named(key) for key in expected if key not in found]
    comparison.added += [_named(key) for key in found if key not in expected]
    for key in (key for key in expected if key in found):
        comparison.rows += 1
        old, new = expected[key], found[key]
        for column in ("unit", "examples") if tolerance is None else ("unit",):
            if old[column] != new[column]:
                name = f"{_named(key)}, {column}"
                comparison.add(
                    Difference(name, old[column] or "none", new[column] or "none", math.inf), False
                )
        if old["value"] != new["value"]:
            share, examples = old["unit"] == "fraction", min(int(r["examples"] or 0) for r in (old, new))
            excess = _excess(float(old["value"]), float(new["value"]), share, examples, tolerance)
            difference = Difference(_named(key), old["value"], new["value"], excess)
            comparison.add(difference, tolerance is not None and excess <= 1)


def _excess(
    first: float, second: float, share: bool, examples: int | None, tolerance: Tolerance | None
) -> float:
    """|first - second| divided by the tolerance; infinite if only one is NaN, 0 if both are."""
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    if not (math.isfinite(first) and math.isfinite(second)):
        return math.inf
    # Without a tolerance, that of the same fit still ranks the differences.
    return abs(first - second) / (tolerance or SAME_FIT).allowed(first, second, share, examples)


def compare_arrays(
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    tolerance: Tolerance | None,
    comparison: Comparison,
) -> None:
    """Compare arrays by name, type, shape and bytes; with a tolerance by their means instead of bytes.

    Single images are not compared: retrained networks are uncertain about different images. Values that
    are not finite are counted instead of averaged.
    """
    comparison.missing += [f"array {name}" for name in expected if name not in found]
    comparison.added += [f"array {name}" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        comparison.arrays += 1
        old, new = expected[name], found[name]
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            shapes = [f"{a.dtype.name} {list(a.shape)}" for a in (old, new)]
            comparison.add(Difference(f"array {name}", shapes[0], shapes[1], math.inf), False)
        elif old.tobytes() != new.tobytes():
            count = int((~_same(old, new)).sum())
            for label, (first, second), share in _summaries(old, new):
                excess = _excess(first, second, share, len(old) if old.ndim else 1, tolerance)
                text = f"array {name}, {count} of {old.size} values differ, {label}"
                difference = Difference(text, repr(first), repr(second), excess)
                comparison.add(difference, tolerance is not None and excess <= 1)


def _same(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Which values are equal, NaN counting as equal to NaN."""
    if old.dtype.kind != "f":
        return np.asarray(old == new)
    return np.asarray((old == new) | (np.isnan(old) & np.isnan(new)))


def _summaries(old: np.ndarray, new: np.ndarray) -> Iterator[tuple[str, tuple[float, float], bool]]:
    """The mean of the finite values, and their share if it differs."""
    finite = [np.isfinite(a) for a in (old, new)]
    kept = [a[f] for a, f in zip((old, new), finite, strict=True)]
    means = [float(a.mean(dtype="f8")) if len(a) else math.nan for a in kept]
    yield "mean", (means[0], means[1]), False
    shares = [float(f.mean()) for f in finite]
    if shares[0] != shares[1]:
        yield "share of finite values", (shares[0], shares[1]), True
