"""Two runs of one cell compared: rows by key and arrays by name, to the bit or within a tolerance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.errors import BenchError
from bench.records import schema, store
from bench.system import files

# Metrics with one of these in their name are costs (`bench.records.schema.METRICS`), which no two runs share.
COST = ("seconds", "bytes", "per_s")
# What all rows of a run share.
SHARED = ("method", "task", "train", "preset", "seed")
# Relative differences are of this at least: a mean cosine or an entropy may be next to nothing.
SMALL = 0.2

Key = tuple[str, ...]  # the texts of `bench.records.schema.KEY`


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart that the same bits are not asked of.

    A share (unit `fraction`) may differ by share + n^-power, another number by the part
    number + n^-power of the larger of both, or of `SMALL`; n is the count of examples, and the last
    term is zero where there is none.
    """

    share: float
    number: float
    power: float

    def __str__(self) -> str:
        return f"{self.share:g} + n^-{self.power:g} (shares), {self.number:g} + n^-{self.power:g} of a number"

    def allowed(self, first: float, second: float, share: bool, examples: int | None) -> float:
        """The largest |first - second| that is let pass."""
        sampling = float(examples) ** -self.power if examples else 0.0
        if share:
            return self.share + sampling
        return (self.number + sampling) * max(abs(first), abs(second), SMALL)


# One set of weights, evaluated on another machine or by other code. Sums in another order move a number in
# its last digits, and at times one image of n over a border between classes. Measured: nine methods on
# digits and toy (smoke preset), fitted once and evaluated on 1 and on 2 threads: 5e-7 of a number or a
# share at most. The rest is room for a GPU's kernels, of which nothing was measured.
SAME_FIT = Tolerance(share=0.005, number=0.001, power=1.0)
# Trained again on another machine: training carries a rounding on until the networks are other ones of
# the same kind. 1 / sqrt(n) is two standard deviations of a share of n examples at its widest. Measured:
# the same 18 cells trained on 1 and on 2 threads: all 3,369 rows and 1,030 arrays pass; trained with
# another seed instead, 15 of the 18 do not, by 53 rows and 12 arrays.
TRAINED_AGAIN = Tolerance(share=0.1, number=0.5, power=0.5)


@dataclass(frozen=True)
class Difference:
    """A number that is not the stored one. excess: |difference| over what a tolerance allows."""

    where: str
    expected: str
    found: str
    excess: float

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


@dataclass
class Comparison:
    """What two runs of a cell have in common and where they differ.

    largest: the largest difference, let pass or not. differing: those that are not. missing, added:
    rows and arrays that one of them alone has.
    """

    rows: int = 0
    arrays: int = 0
    largest: Difference | None = None
    differing: list[Difference] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    def note(self, difference: Difference, passes: bool) -> None:
        """Count a difference."""
        if self.largest is None or difference.excess > self.largest.excess:
            self.largest = difference
        if not passes:
            self.differing.append(difference)


def read_rows(path: Path) -> dict[Key, dict[str, str]]:
    """Rows as they are written, by key, without costs. Raises BenchError where two share a key."""
    store.read_csv(path)  # says what is wrong with a file that does not hold rows
    found: dict[Key, dict[str, str]] = {}
    for item in csv.DictReader(io.StringIO(files.read_bytes(path, store.MAX_ROWS_BYTES).decode())):
        key = tuple(item[column] for column in schema.KEY)
        if any(word in item["metric"] for word in COST):
            continue
        if key in found:
            raise BenchError(f"{path}: expected one row of {_named(key)}, found two; run the cell again")
        found[key] = item
    if not found:
        raise BenchError(f"{path}: expected rows that are no costs, found none; run the cell again")
    return found


def _named(key: Key) -> str:
    """A row's key in words, without what all rows of a run share."""
    texts = dict(zip(schema.KEY, key, strict=True))
    return " ".join(f"{c}={v}" for c, v in texts.items() if v and c not in SHARED)


def compare_rows(
    expected: Mapping[Key, Mapping[str, str]],
    found: Mapping[Key, Mapping[str, str]],
    tolerance: Tolerance | None,
    into: Comparison,
) -> None:
    """Compare rows by key: as text (tolerance None), or as numbers.

    With a tolerance counts of examples may differ: of some rows they are images that an attack has turned.
    """
    into.missing += [_named(key) for key in expected if key not in found]
    into.added += [_named(key) for key in found if key not in expected]
    for key in (key for key in expected if key in found):
        into.rows += 1
        old, new = expected[key], found[key]
        for column in ("unit", "examples") if tolerance is None else ("unit",):
            if old[column] != new[column]:
                name = f"{_named(key)}, {column}"
                into.note(Difference(name, old[column] or "none", new[column] or "none", math.inf), False)
        if old["value"] != new["value"]:
            share, examples = old["unit"] == "fraction", min(int(r["examples"] or 0) for r in (old, new))
            excess = _excess(float(old["value"]), float(new["value"]), share, examples, tolerance)
            difference = Difference(_named(key), old["value"], new["value"], excess)
            into.note(difference, tolerance is not None and excess <= 1)


def _excess(
    first: float, second: float, share: bool, examples: int | None, tolerance: Tolerance | None
) -> float:
    """|first - second| over what is allowed; infinite where one is no number, 0 where both are none."""
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    if not (math.isfinite(first) and math.isfinite(second)):
        return math.inf
    # Where bits are asked for, a tolerance still says which difference is the largest.
    return abs(first - second) / (tolerance or SAME_FIT).allowed(first, second, share, examples)


def compare_arrays(
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    tolerance: Tolerance | None,
    into: Comparison,
) -> None:
    """Compare arrays by name, type, shape and bytes; with a tolerance by their means instead of bytes.

    Single images say little: another network is sure of other ones, and the most uncertain images of
    a set are other images then. Values that are not finite are counted instead of averaged.
    """
    into.missing += [f"array {name}" for name in expected if name not in found]
    into.added += [f"array {name}" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        into.arrays += 1
        old, new = expected[name], found[name]
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            shapes = [f"{a.dtype.name} {list(a.shape)}" for a in (old, new)]
            into.note(Difference(f"array {name}", shapes[0], shapes[1], math.inf), False)
        elif old.tobytes() != new.tobytes():
            count = int((~_same(old, new)).sum())
            for label, (first, second), share in _summaries(old, new):
                excess = _excess(first, second, share, len(old) if old.ndim else 1, tolerance)
                text = f"array {name}, {count} of {old.size} values differ, {label}"
                difference = Difference(text, repr(first), repr(second), excess)
                into.note(difference, tolerance is not None and excess <= 1)


def _same(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Which values are the same, one NaN being as good as another."""
    if old.dtype.kind != "f":
        return np.asarray(old == new)
    return np.asarray((old == new) | (np.isnan(old) & np.isnan(new)))


def _summaries(old: np.ndarray, new: np.ndarray) -> Iterator[tuple[str, tuple[float, float], bool]]:
    """The mean of finite values, and the share of finite ones where that differs."""
    finite = [np.isfinite(a) for a in (old, new)]
    kept = [a[f] for a, f in zip((old, new), finite, strict=True)]
    means = [float(a.mean(dtype="f8")) if len(a) else math.nan for a in kept]
    yield "mean", (means[0], means[1]), False
    shares = [float(f.mean()) for f in finite]
    if shares[0] != shares[1]:
        yield "share of finite values", (shares[0], shares[1]), True
