"""Comparisons of quantities: whether a relation holds, does not hold, or is undecided.

Several seeds are paired, and the 95 % t-interval of the difference decides. With one seed its images
decide, or its networks where the quantity is a spread over networks: they tell whether these trained networks
differ, not whether others would. An interval that does not lie on one side leaves the relation undecided,
and so does a paired test that calls the difference a tie, or a single seed without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench.report.paired import SIGNIFICANT
from bench.report.uncertainty import holm, seeds_to_resolve, t_interval

HOLDS, FAILS, UNDECIDED, UNKNOWN = "holds", "does not hold", "undecided", "not measured"
IMAGES, NETWORKS, SEEDS = "images", "networks", "seeds"
ALONE = "one seed and no interval over images; two seeds or more would have one"
MOST_SEEDS, MOST_IMAGES = 1000, 10_000_000  # larger needs are called out of reach


class Unit(NamedTuple):
    """Formatting of the values of a comparison: factor, decimals, unit."""

    factor: float
    decimals: int
    name: str = ""

    def number(self, value: float) -> str:
        """The value without its unit, and without a sign if it rounds to zero."""
        text = f"{value * self.factor:.{self.decimals}f}"
        return text if any(c in "123456789" for c in text) or math.isinf(value) else text.lstrip("-")

    def text(self, values: Sequence[float]) -> str:
        return "/".join(map(self.number, values)) + self.name


PERCENT = Unit(100, 2, " %")
RATIO = Unit(1, 3)
NATS = Unit(1, 3, " nats")
GIGABYTES = Unit(1e-9, 2, " GB")


@dataclass(frozen=True)
class Quantity:
    """A quantity by seed and, where there is one seed, its 95 % interval.

    low, high: over `count` images or networks, named by `over`; empty: exact, not sampled. lack: why there
    is no interval. rows: where the values come from.
    """

    values: pd.Series
    low: float = math.nan
    high: float = math.nan
    over: str = ""
    count: int = 0
    lack: str = ""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __len__(self) -> int:
        return len(self.values)

    def times(self, factor: float) -> Quantity:
        """The quantity multiplied by a positive factor."""
        low, high = self.low * factor, self.high * factor
        return Quantity(self.values * factor, low, high, self.over, self.count, self.lack)


class Difference(NamedTuple):
    """Left minus right with its interval over `n` seeds, images or networks; over: empty if exact.

    p: of a paired test, adjusted if `adjusted`; NaN: the interval decides alone. sd: over seeds. lack: why
    nothing can be decided. seeds: shared ones; left, right: the means over them.
    """

    mean: float
    low: float
    high: float
    over: str
    n: int
    p: float = math.nan
    adjusted: bool = False
    sd: float = math.nan
    lack: str = ""
    seeds: int = 1
    left: float = math.nan
    right: float = math.nan


Test = Callable[[Quantity, Quantity], Difference | None]


@dataclass(frozen=True)
class Finding:
    """One comparison of a claim: its task, its verdict, and the numbers.

    seeds: number of seeds; over: what the intervals are over. cells: the (method, task) that it needs.
    wanted: the number of seeds that would decide where it is undecided, if known. clearness: of a decided
    one, the distance of the difference from where the verdict would change, in half-widths of its interval
    (1: an end of it touches; infinite: counted, not sampled), of the least clear of what decides.
    """

    place: str
    verdict: str
    text: str = ""
    seeds: int = 0
    cells: tuple[tuple[str, str], ...] = ()
    over: tuple[str, ...] = ()
    wanted: int | None = None
    clearness: float = math.nan


# sign -> (negated sign; from interval and margin, by how much it is satisfied at least and at most; whether a
# slack of 0 suffices)
_SIGNS: dict[str, tuple[str, Callable[[float, float, float], tuple[float, float]], bool]] = {
    ">": ("≯", lambda low, high, margin: (low, high), False),
    "<": ("≮", lambda low, high, margin: (-high, -low), False),
    "≥": ("≱", lambda low, high, margin: (low, high), True),
    "≤": ("≰", lambda low, high, margin: (-high, -low), True),
    "≈": (
        "≉",
        lambda low, high, margin: (min(margin - high, margin + low), min(margin - low, margin + high)),
        True,
    ),
}  # fmt: skip


def difference(left: Quantity, right: Quantity | float, test: Test | None = None) -> Difference | None:
    """The difference over shared seeds, or over the images or networks of the only one; None: no shared seed.

    test: a paired test of the two, asked first; it may return None. Where there is none, the distances of two
    quantities of one seed from their ends add in squares, as for independent ones: on shared images, which
    are hard for both or for neither, it is wider than a paired interval. Source: Zou and Donner 2008.
    """
    other = right if isinstance(right, Quantity) else Quantity(pd.Series(right, index=left.values.index))
    if not isinstance(right, Quantity):
        other = Quantity(other.values, right, right)
    both = pd.DataFrame({"a": left.values, "b": other.values}).dropna()
    if not len(both):
        return None
    means: dict[str, Any] = {"seeds": len(both), "left": float(both["a"].mean())}
    means["right"] = float(both["b"].mean())
    found = test(left, other) if test and isinstance(right, Quantity) else None
    over = t_interval((both["a"] - both["b"]).to_numpy(dtype="float64"))
    if over.n > 1:
        told = Difference(over.mean, over.low, over.high, SEEDS, over.n, sd=over.sd, **means)
        return told if found is None else told._replace(p=found.p, adjusted=found.adjusted, lack=found.lack)
    if found is not None:
        # Values of rows and of arrays agree up to rounding; the row's are shown.
        return found._replace(mean=over.mean, **means)
    own = [q for q in (left, other) if q.over or q.lack]
    lack = next((q.lack for q in own if q.lack), "")
    if len(left) > 1 or (isinstance(right, Quantity) and len(right) > 1):
        lack = "one shared seed; run the same seeds of both"
    name, count = (own[0].over, min(q.count for q in own)) if own else ("", 0)
    below = math.hypot(means["left"] - left.low, other.high - means["right"])
    above = math.hypot(left.high - means["left"], means["right"] - other.low)
    return Difference(over.mean, over.mean - below, over.mean + above, name, count, lack=lack, **means)


def decide(found: Difference, sign: str, margin: float = 0.0) -> str:
    """The verdict on a relation from its difference: it holds, does not hold, or is undecided."""
    _, slack, touching = _SIGNS[sign]
    if found.lack:
        return UNDECIDED
    least, most = slack(found.low, found.high, margin)
    if not found.over:
        return HOLDS if least > 0 or (touching and least == 0) else FAILS
    if found.p > SIGNIFICANT:  # a tie; False for NaN
        return UNDECIDED
    if least > 0 or (touching and least == 0):
        return HOLDS
    return FAILS if most < 0 else UNDECIDED


def need(found: Difference, sign: str, margin: float, unit: Unit) -> tuple[str, int | None]:
    """Why a difference is undecided, with what would decide it; the number of seeds, if it is one."""
    if found.lack:
        return found.lack, None
    told = f"{unit.number(found.mean)} [{unit.number(found.low)}, {unit.number(found.high)}]"
    told += f" over {found.n:,} {found.over}"
    if found.p == found.p:
        told += f", p {found.p:.2g}" + " (Holm)" * found.adjusted
    bounds = (-margin, margin) if sign == "≈" else (0.0,)
    bound = min(bounds, key=lambda b: abs(found.mean - b))
    distance = abs(found.mean - bound)
    half = found.mean - found.low if found.mean > bound else found.high - found.mean
    if found.over == SEEDS:
        seeds = seeds_to_resolve(found.sd, distance, MOST_SEEDS)
        # An interval may be narrow enough by itself and yet a tie among all pairs.
        seeds = None if seeds is None else max(seeds, found.n + 1)
        return f"{told}; {f'about {seeds:,}' if seeds else f'more than {MOST_SEEDS:,}'} seeds needed", seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        count = float(found.n * np.square(np.divide(max(half, 0.0), distance)))
    wanted = max(count, found.n + 1) if math.isfinite(count) else math.inf
    if wanted > MOST_IMAGES:
        return f"{told}; no number of {found.over} in reach would do, further seeds may", None
    digits = 10 ** max(int(math.log10(wanted)) - 1, 0)
    about = f"{math.ceil(wanted / digits) * digits:,} {found.over}"
    return f"{told}; about {about} needed, or further seeds", None


def _adjusted(found: Sequence[Difference], among: int) -> list[Difference]:
    """The differences with p adjusted for all of them in `among` such comparisons, unless it already is."""
    raw = [d.p for d in found if d.p == d.p and not d.adjusted]
    told = iter(np.minimum(holm(raw) * among, 1).tolist())
    return [d._replace(p=next(told), adjusted=True) if d.p == d.p and not d.adjusted else d for d in found]


def compare(
    place: str,
    names: tuple[str, str],
    pairs: Iterable[tuple[Quantity, Quantity | float]],
    unit: Unit,
    sign: str = ">",
    margin: float = 0.0,
    cells: Sequence[tuple[str, str]] = (),
    test: Test | None = None,
    among: int = 1,
) -> Finding:
    """Whether every pair satisfies the relation `sign`.

    pairs: quantities on the left, on the right quantities or a constant. names: of left and right; empty
    for a constant. margin: tolerance of ≈. cells: those whose rows are compared. test: of `difference`;
    among: how many comparisons like this one the claim makes, for which p is adjusted.
    """
    found = [difference(a, b, test) for a, b in pairs]
    known = [d for d in found if d is not None]
    if not known or len(known) < len(found):
        return Finding(place, UNKNOWN, cells=tuple(cells))
    known = _adjusted(known, among)
    verdicts = [decide(d, sign, margin) for d in known]
    whole = next(v for v in (FAILS, UNDECIDED, HOLDS) if v in verdicts)
    negated, slack, _ = _SIGNS[sign]
    shown = {HOLDS: sign, FAILS: negated, UNDECIDED: f"{sign}?"}[whole]
    sides = (unit.text([d.left for d in known]), unit.text([d.right for d in known]))
    text = f"{f'{names[0]} {sides[0]}'.strip()} {shown} {f'{names[1]} {sides[1]}'.strip()}"
    deciding = [d for d, v in zip(known, verdicts, strict=True) if v == whole]
    wanted, clearness = None, math.nan
    if whole == UNDECIDED:
        needs = [need(d, sign, margin, unit) for d in deciding]
        text += f" (undecided: {'; '.join(dict.fromkeys(words for words, _ in needs))})"
        wanted = max((seeds for _, seeds in needs if seeds), default=None)
    else:
        weakest = min(deciding, key=lambda d: slack(d.low, d.high, margin)[0 if whole == HOLDS else 1])
        text += _interval(weakest, len(known) > 1, unit)
        clearness = min(_clearness(d, sign, margin) for d in deciding)
    over = tuple(sorted({d.over for d in known if d.over}))
    return Finding(place, whole, text, min(d.seeds for d in known), tuple(cells), over, wanted, clearness)


def _clearness(found: Difference, sign: str, margin: float) -> float:
    """The distance from where the verdict would change, in half-widths; infinite for exact values."""
    ends = _SIGNS[sign][1](found.low, found.high, margin)
    half = (found.high - found.low) / 2
    return abs(ends[0] + ends[1]) / 2 / half if found.over and half > 0 else math.inf


def _interval(found: Difference, among: bool, unit: Unit) -> str:
    """The interval of a decided difference in brackets; empty for exact values."""
    if not found.over:
        return ""
    name = "weakest difference" if among else "difference"
    ends = f"{unit.number(found.mean)} [{unit.number(found.low)}, {unit.number(found.high)}]"
    return f" ({name} {ends}{'' if found.over == SEEDS else f' over {found.n:,} {found.over}'})"


def verdict(findings: Sequence[Finding]) -> str:
    """The verdict on a claim from its comparisons."""
    found = {finding.verdict for finding in findings} or {UNKNOWN}
    return next(v for v in (FAILS, UNKNOWN, UNDECIDED, HOLDS) if v in found)


def exact(found: Any) -> Quantity:
    """Values that are counted, not sampled: one of each seed decides."""
    return Quantity(found, float(found.mean()), float(found.mean())) if len(found) else Quantity(found)
