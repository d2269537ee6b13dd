"""Evidence for claims: rows and arrays of one preset and device, as quantities with intervals.

Where there is one seed, a share has its interval over images, a quantile of entropies that of the entropies
per image, a spread over networks that over networks; two accuracies are tested image by image, by the same
tests as in the tables of the report (`bench.report.paired`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report import paired
from bench.report.arrays import Images
from bench.report.claims.comparison import ALONE, IMAGES, NETWORKS, SEEDS, Difference, Quantity, exact
from bench.report.data_sets import without_data
from bench.report.rows import BLOCK, Material, norm_ratio, one_configuration
from bench.report.uncertainty import (
    Paired,
    mcnemar,
    paired_t,
    quantile_interval,
    share_interval,
    variation_interval,
)

ANY: Final = object()  # matches any value of a column
# Columns that are empty if not applicable: a query that omits one matches only empty values.
_TEXT = ("variant", "layer", "attack", "success", "corruption")
_NUMBERS = ("epoch", "quantile", "epsilon", "severity", "crafted_members")
Interval = Callable[[float, int], tuple[float, float]]  # (value, number of things) -> its ends


class Rows:
    """Rows of one preset and device, queried for values by seed.

    rows: prepared rows; age: of each run (`bench.records.runs.ages`). Of several configurations of a method
    on a task, the one that its plain name stands for is used or, if none has that name, the one with most
    seeds, then the one on most tasks, then the newest; of several copies of a data set the one that most
    methods have read, then the one with the shortest name. images: arrays of the runs; None: the rows are
    printed numbers without images or networks, taken as they are. told: the lines of the table of paired
    verdicts, of `verdicts`.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        age: Mapping[str, int],
        images: Images | None = None,
        told: Mapping[tuple[Any, ...], Any] | None = None,
    ) -> None:
        self._images = images
        self._verdicts = told or {}
        rows = rows[(rows["metric"] != "failed") & rows["value"].notna()]
        rows = _one_copy(one_configuration(rows, age))
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
        pairs = sorted(
            set(zip(rows["train"].tolist(), rows["task"].tolist(), strict=True)),
            key=lambda p: (p[0] != p[1], p),
        )
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

    def values(self, method: str, place: str, evaluation: str, metric: str, **where: Any) -> Quantity:
        """A quantity that has no interval of its own; may be empty."""
        return self._quantity(self.frame(method, place, evaluation, metric, **where), "")

    def accuracy(self, method: str, place: str, members: int) -> Quantity:
        """Accuracy on test images."""
        return self.share(self.frame(method, place, "accuracy", "accuracy", members=members))

    def share(self, found: pd.DataFrame, top: float = 1.0) -> Quantity:
        """The mean of these rows, shares or means of values within [0, top] over images."""

        def ends(value: float, n: int) -> tuple[float, float]:
            low, high = share_interval(min(value / top, 1.0), n)  # rounding may exceed the top
            return low * top, high * top

        return self._quantity(found, IMAGES, "examples", ends)

    def quantile(self, method: str, place: str, metric: str, q: float, **where: Any) -> Quantity:
        """A quantile over images of a quantity whose values per image are stored."""
        found = self.frame(method, place, "ood", metric, quantile=q, **where)
        if self._images is None or len(found) != 1:
            return self._quantity(found, "")
        run, dataset, members = (found[c].iloc[0] for c in ("run", "dataset", "members"))
        kept = self._images.array(str(run), f"{dataset}/{members}/{metric}")
        if kept is None or not len(kept) or np.isnan(kept).any():
            lack = f"one seed, and no {metric} per image at {members:,} networks: run again"
            return Quantity(by_seed(found), lack=lack, rows=found)
        low, high = quantile_interval(kept, q)
        return Quantity(by_seed(found), low, high, IMAGES, len(kept), rows=found)

    def _quantity(
        self, found: pd.DataFrame, over: str, counted: str = "", interval: Interval | None = None
    ) -> Quantity:
        """Rows as a quantity; with one seed, the mean of their intervals over the counted things."""
        values = by_seed(found)
        if self._images is None:
            return exact(values)
        if len(values) != 1 or interval is None:
            return Quantity(values, lack="" if len(values) > 1 else ALONE, rows=found)
        counts = found[counted]
        if counts.isna().any() or (counts < 1).any():
            return Quantity(values, lack=f"one seed, and no number of {over}: run again", rows=found)
        ends = [interval(float(v), int(n)) for v, n in zip(found["value"], counts, strict=True)]
        low, high = (float(np.mean(end)) for end in zip(*ends, strict=True))
        return Quantity(values, low, high, over, int(counts.min()), rows=found)

    def spread(self, found: pd.DataFrame) -> Quantity:
        """The mean of these rows, each sd / mean of a norm over networks."""
        return self._quantity(found[found["members"] > 1], NETWORKS, "members", variation_interval)

    def test(self, left: Quantity, right: Quantity) -> Difference | None:
        """The paired test of two accuracies: the table's, if it compares the two, or one of their own.

        None if neither seeds nor images can be paired; printed numbers are not tested.
        """
        if self._images is None:
            return None
        a, b = left.rows, right.rows
        if (told := self._told(a, b)) is not None:
            return told
        shared = left.values.index.intersection(right.values.index)
        if len(shared) > 1:
            return _over_seeds(left.values[shared], right.values[shared])
        one: Any = next(a[a["seed"].isin(shared)].itertuples())
        other: Any = next(b[b["seed"].isin(shared)].itertuples())
        first, second = self._right(one), self._right(other)
        for own, kept in ((one, first), (other, second)):
            if kept is None:
                size = "of single networks" if own.members == 1 else f"at {own.members:,} networks"
                return _undecided(f"one seed, and no predictions per image {size}: run again")
        assert first is not None and second is not None
        if first.shape != second.shape or not self._images.same((one.run, other.run), one.dataset):
            return _undecided("one seed, and not the same images")
        by_image = mcnemar if first.dtype == second.dtype == bool else paired_t
        try:
            return _tested(by_image(first, second), IMAGES, len(first))
        except ValueError as error:
            return _undecided(str(error))

    def _right(self, line: Any) -> NDArray[Any] | None:
        """Per image, whether an ensemble is right, or the share of the single networks that are."""
        assert self._images is not None
        if line.members > 1:
            return self._images.right(line.run, line.dataset, int(line.members))
        kept = self._images.array(line.run, f"{line.dataset}/1/right_share")
        return None if kept is None else kept.astype(np.float64)

    def _told(self, a: pd.DataFrame, b: pd.DataFrame) -> Difference | None:
        """The verdict of the paired table on two accuracies; None if it does not compare them."""
        one, other = ((q["train"].iloc[0], q["dataset"].iloc[0], q["members"].iloc[0]) for q in (a, b))
        names = a["configured"].iloc[0], b["configured"].iloc[0]
        for flip, (method, against) in ((1, names), (-1, names[::-1])):
            line = self._verdicts.get((*one, method, against))
            if one == other and line is not None:
                if line.verdict.startswith(paired.UNTESTED):
                    return _undecided(line.verdict.removeprefix(f"{paired.UNTESTED}: "))
                low, high = sorted((flip * line.low, flip * line.high))
                mean, n = flip * line.difference, line.examples if line.over == IMAGES else line.seeds
                return Difference(mean, low, high, line.over, int(n), line.p_holm, adjusted=True)
        return None

    def sizes(self, method: str, place: str, evaluation: str, metric: str, **where: Any) -> set[int]:
        """The ensemble sizes for which a metric was measured."""
        found = self.frame(method, place, evaluation, metric, members=ANY, **where)
        return set(map(int, found["members"].dropna()))

    def norms(self, method: str, place: str) -> dict[str, Quantity]:
        """sd/mean of the weight norm of each layer, of the largest ensemble."""
        found = largest(self.frame(method, place, "diversity", "weight_norm_ratio", layer=ANY, members=ANY))
        return {str(layer): self.spread(part) for layer, part in found.groupby("layer")}

    def trace(self, method: str, place: str, metric: str) -> tuple[Quantity, Quantity]:
        """A traced quantity at the first and at the last round, mean over layers if it has any.

        Accuracy is that of single networks; other quantities are of the largest ensemble traced. Seeds
        with only one traced round are omitted.
        """
        members = 1 if metric == "accuracy" else ANY
        found = largest(self.frame(method, place, "trace", metric, layer=ANY, members=members, epoch=ANY))
        ends = [found.groupby("seed")["epoch"].transform(end) for end in ("min", "max")]
        found = found[ends[0] < ends[1]]
        as_quantity = self.share if metric == "accuracy" else self.spread
        first, last = (as_quantity(found[found["epoch"] == end[found.index]]) for end in ends)
        return first, last

    def outlying_set(self, task: str) -> str:
        """The outlying set of a task, from the rows that compare two sets; empty if there is none."""
        for (name, _, evaluation, metric), part in self._parts.items():
            if (name, evaluation, metric) == (task, "ood", "auroc"):
                return str(part.loc[part["variant"] == "", "dataset"].min())
        return ""


def _undecided(lack: str) -> Difference:
    return Difference(np.nan, np.nan, np.nan, IMAGES, 0, lack=lack)


def _tested(found: Paired, over: str, n: int) -> Difference:
    return Difference(found.difference, found.low, found.high, over, n, found.p)


def _over_seeds(left: pd.Series, right: pd.Series) -> Difference | None:
    """Two methods or sizes over shared seeds; None if the interval alone can tell, as it has no width."""
    try:
        return _tested(paired_t(left.to_numpy(), right.to_numpy()), SEEDS, len(left))
    except ValueError:
        return None


def verdicts(material: Material, rows: pd.DataFrame) -> dict[tuple[Any, ...], Any]:
    """Lines of the table of paired verdicts on accuracy, by train key, data set, size and methods.

    rows: those of one preset and device that are judged, with the data in the names of train keys
    (`data_sets.one_each`), of which the keys have none.
    """
    lines = paired.all_verdicts(material)
    here = (lines["metric"] == "accuracy") & lines["task"].isin(set(rows["task"]))
    for column in BLOCK:
        here &= lines[column].isin(set(rows[column]))
    trains = dict(zip(rows["task"].tolist(), rows["train"].tolist(), strict=True))
    return {
        (without_data(trains[line.task]), line.dataset, line.members, line.method, line.other): line
        for line in lines[here].itertuples()
    }


def largest(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest ensemble; all rows if none has a size."""
    top = found["members"].max()
    return found if pd.isna(top) else found[found["members"] == top]


def by_seed(found: pd.DataFrame) -> pd.Series:
    """One value per seed, the mean over any remaining rows."""
    return found.groupby("seed")["value"].mean()


def _one_copy(rows: pd.DataFrame) -> pd.DataFrame:
    """One copy of each task's data: runs whose accuracy was measured on another copy are dropped."""
    read = rows[(rows["evaluation"] == "accuracy") & (rows["dataset"] != "")]
    drop: set[str] = set()
    for _, part in read.groupby("task"):
        counts = part.groupby("dataset")["method"].nunique()
        best = min(counts.index, key=lambda name: (-counts[name], len(name), name))
        drop |= set(part.loc[part["dataset"] != best, "run"])
    return rows[~rows["run"].isin(drop)]
