"""Evidence for claims: rows of one preset and device, and comparisons of them over seeds.

A comparison pairs seeds. It holds if the 95 % t-interval of the difference excludes zero;
with one seed the point value decides. A finding with several comparisons holds if all do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from bench.report.rows import norm_ratio, without_configuration
from bench.report.uncertainty import t_interval

ANY: Final = object()  # matches any value of a column
# Columns that are empty if not applicable: a query that omits one matches only empty values.
_TEXT = ("variant", "layer", "attack", "success", "corruption")
_NUMBERS = ("epoch", "quantile", "epsilon", "severity", "crafted_members")


class Unit(NamedTuple):
    """Formatting of the values of a comparison: factor, decimals, unit."""

    factor: float
    decimals: int
    name: str = ""

    def number(self, value: float) -> str:
        """The value without its unit, and without a sign if it rounds to zero."""
        text = f"{value * self.factor:.{self.decimals}f}"
        return text if any(c in "123456789" for c in text) else text.lstrip("-")

    def text(self, values: Sequence[float]) -> str:
        return "/".join(map(self.number, values)) + self.name


PERCENT = Unit(100, 2, " %")
RATIO = Unit(1, 3)
NATS = Unit(1, 3, " nats")
GIGABYTES = Unit(1e-9, 2, " GB")


@dataclass(frozen=True)
class Finding:
    """One comparison of a claim: its task, whether it holds (None: rows are missing), and the numbers.

    seeds: number of seeds. missing: cells (method, task) whose rows it needs.
    """

    place: str
    holds: bool | None
    text: str = ""
    seeds: int = 0
    missing: tuple[tuple[str, str], ...] = ()


class Rows:
    """Rows of one preset and device, queried for values by seed.

    rows: prepared rows; age: of each run (`bench.records.runs.ages`). Of several configurations of a
    method on a task, the one with most seeds is used, then the one on most tasks, then the newest; of several
    copies of a data set the one that most methods have read, then the one with the shortest name.
    """

    def __init__(self, rows: pd.DataFrame, age: Mapping[str, int]) -> None:
        rows = rows[(rows["metric"] != "failed") & rows["value"].notna()]
        rows = _one_copy(_one_configuration(rows, age))
        norms = rows[rows["evaluation"].isin(("diversity", "trace"))]
        rows = pd.concat([rows, norm_ratio(norms)], ignore_index=True)
        self._none = rows.iloc[:0]
        keys = ["task", "method", "evaluation", "metric"]
        self._parts: dict[Any, pd.DataFrame] = {key: part for key, part in rows.groupby(keys, sort=False)}
        # Columns that are empty in all rows of an evaluation need no filter.
        self._used = {
            name: {c for c in _TEXT if (part[c] != "").any()} | {c for c in _NUMBERS if part[c].notna().any()}
            for name, part in rows.groupby("evaluation")
        }
        pairs = sorted(set(zip(rows["train"], rows["task"], strict=True)), key=lambda p: (p[0] != p[1], p))
        self._tasks: dict[str, list[str]] = {}
        for train, task in pairs:
            self._tasks.setdefault(train, []).append(task)

    def frame(self, method: str, place: str, evaluation: str, metric: str, **where: Any) -> pd.DataFrame:
        """The rows of a metric, with columns as given in `where` and other optional columns empty.

        place: a task or a train key; of tasks that share a fit the one named like the key comes first.
        """
        for task in dict.fromkeys([*self._tasks.get(place, []), place]):
            part = self._parts.get((task, method, evaluation, metric), self._none)
            if not len(part):
                continue
            keep = np.ones(len(part), dtype=bool)
            for column, value in where.items():
                if value is not ANY:
                    keep &= (part[column] == value).fillna(False).to_numpy(dtype=bool)
            for column in self._used[evaluation] - where.keys():
                empty = part[column] == "" if column in _TEXT else part[column].isna()
                keep &= empty.to_numpy(dtype=bool)
            if keep.any():
                return part[keep]
        return self._none

    def values(self, method: str, place: str, evaluation: str, metric: str, **where: Any) -> pd.Series:
        """One value per seed, indexed by seed; may be empty."""
        return by_seed(self.frame(method, place, evaluation, metric, **where))

    def sizes(self, method: str, place: str, evaluation: str, metric: str, **where: Any) -> set[int]:
        """The ensemble sizes for which a metric was measured."""
        found = self.frame(method, place, evaluation, metric, members=ANY, **where)
        return set(map(int, found["members"].dropna()))

    def norms(self, method: str, place: str) -> dict[str, pd.Series]:
        """sd/mean of the weight norm of each layer, of the largest ensemble."""
        found = largest(self.frame(method, place, "diversity", "weight_norm_ratio", layer=ANY, members=ANY))
        return {str(layer): by_seed(part) for layer, part in found.groupby("layer")}

    def trace(self, method: str, place: str, metric: str) -> tuple[pd.Series, pd.Series]:
        """A traced quantity at the first and at the last round, mean over layers if it has any.

        Accuracy is that of single networks; other quantities are of the largest ensemble traced. Seeds
        with only one traced round are omitted.
        """
        members = 1 if metric == "accuracy" else ANY
        found = largest(self.frame(method, place, "trace", metric, layer=ANY, members=members, epoch=ANY))
        ends = [found.groupby("seed")["epoch"].transform(end) for end in ("min", "max")]
        found = found[ends[0] < ends[1]]
        first, last = (by_seed(found[found["epoch"] == end[found.index]]) for end in ends)
        return first, last

    def outlying_set(self, task: str) -> str:
        """The outlying set of a task, from the rows that compare two sets; empty if there is none."""
        for (name, _, evaluation, metric), part in self._parts.items():
            if (name, evaluation, metric) == (task, "ood", "auroc"):
                return str(part.loc[part["variant"] == "", "dataset"].min())
        return ""


def largest(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest ensemble; all rows if none has a size."""
    top = found["members"].max()
    return found if pd.isna(top) else found[found["members"] == top]


def by_seed(found: pd.DataFrame) -> pd.Series:
    """One value per seed, the mean over any remaining rows."""
    return found.groupby("seed")["value"].mean()


def _one_configuration(rows: pd.DataFrame, age: Mapping[str, int]) -> pd.DataFrame:
    """One configuration per method and task, under the method's own name."""
    rows = rows.assign(
        base=without_configuration(rows["method"]), age=[age.get(run, -1) for run in rows["run"]]
    )
    tasks = rows.groupby(["base", "config"])["task"].transform("nunique")
    rank = (
        rows.assign(tasks=tasks)
        .groupby(["task", "base", "method"], as_index=False)
        .agg(seeds=("seed", "nunique"), tasks=("tasks", "max"), age=("age", "max"))
    )
    rank = rank.sort_values(["seeds", "tasks", "age"], kind="stable")
    best = rank.drop_duplicates(["task", "base"], keep="last")[["task", "method"]]
    rows = rows.merge(best, on=["task", "method"])
    return rows.assign(method=rows["base"]).drop(columns=["base", "age"])


def _one_copy(rows: pd.DataFrame) -> pd.DataFrame:
    """One copy of each task's data: runs whose accuracy was measured on another copy are dropped."""
    read = rows[(rows["evaluation"] == "accuracy") & (rows["dataset"] != "")]
    drop: set[str] = set()
    for _, part in read.groupby("task"):
        counts = part.groupby("dataset")["method"].nunique()
        best = min(counts.index, key=lambda name: (-counts[name], len(name), name))
        drop |= set(part.loc[part["dataset"] != best, "run"])
    return rows[~rows["run"].isin(drop)]


# sign -> (negated sign, slack of the interval of left - right, whether a slack of 0 suffices)
_SIGNS: dict[str, tuple[str, Callable[[float, float, float], float], bool]] = {
    ">": ("≯", lambda low, high, margin: low, False),
    "<": ("≮", lambda low, high, margin: -high, False),
    "≥": ("≱", lambda low, high, margin: low, True),
    "≤": ("≰", lambda low, high, margin: -high, True),
    "≈": ("≉", lambda low, high, margin: min(margin - high, margin + low), True),
}


def compare(
    place: str,
    names: tuple[str, str],
    pairs: Iterable[tuple[pd.Series, pd.Series | float]],
    unit: Unit,
    sign: str = ">",
    margin: float = 0.0,
    missing: Sequence[tuple[str, str]] = (),
) -> Finding:
    """Whether every pair satisfies the relation `sign`, paired by seed.

    pairs: values by seed on the left, on the right values by seed or a constant. names: of left and
    right; empty for a constant. margin: tolerance of ≈. missing: the cells that would fill a gap.
    """
    failure, slack_of, touching = _SIGNS[sign]
    left, right, overs = [], [], []
    for a, b in pairs:
        both = pd.DataFrame({"a": a, "b": b if isinstance(b, pd.Series) else pd.Series(b, index=a.index)})
        both = both.dropna()
        if not len(both):
            return Finding(place, None, missing=tuple(missing))
        over = t_interval((both["a"] - both["b"]).to_numpy(dtype="float64"))
        # One seed has no interval: the point value decides.
        overs.append(over if over.n > 1 else over._replace(low=over.mean, high=over.mean))
        left.append(float(both["a"].mean()))
        right.append(float(both["b"].mean()))
    if not overs:
        return Finding(place, None, missing=tuple(missing))
    slacks = [slack_of(over.low, over.high, margin) for over in overs]
    weakest = overs[slacks.index(min(slacks))]
    holds = min(slacks) > 0 or (touching and min(slacks) == 0)
    sides = (f"{names[0]} {unit.text(left)}".strip(), f"{names[1]} {unit.text(right)}".strip())
    text = f"{sides[0]} {sign if holds else failure} {sides[1]}"
    if weakest.n > 1:
        low, high = unit.number(weakest.low), unit.number(weakest.high)
        name = "weakest difference" if len(overs) > 1 else "difference"
        text += f" ({name} {unit.number(weakest.mean)} [{low}, {high}])"
    return Finding(place, holds, text, min(over.n for over in overs))
