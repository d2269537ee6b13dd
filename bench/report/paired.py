"""Paired tests of methods: which differences are real, and which ties, for tables and claims alike.

Rows give one value per training seed, arrays one per image. A family is a set of numbers compared
together: one metric on one data set of a task, of one preset and device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report.arrays import Entropies, Images
from bench.report.rows import PLACE, TASK, outlying_sets, plain
from bench.report.uncertainty import (
    CONFIDENCE,
    Paired,
    auroc,
    auroc_sd,
    holm,
    mcnemar,
    paired_resamples,
    paired_t,
    resampled_aurocs,
    share_sd,
)

COMPARED = {"accuracy": "accuracy", "auroc": "ood"}  # metric -> the evaluation whose rows are compared
SIGNIFICANT = 1 - CONFIDENCE  # differences with a larger adjusted p are ties
RESAMPLING_SEED = 0  # fixed, so that reports are deterministic
TIE, UNTESTED = "tie", "not tested"
FAMILY = (*PLACE, "metric")
VERDICTS = (
    *FAMILY, "method", "other", "members", "verdict", "difference", "low", "high", "p", "p_holm", "seeds",
    "over", "examples",
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One metric on one data set, named by `place`; cells: values and runs by seed, per method and size.

    inside: the in-distribution data set, if the data set is an outlying one; drawn: per method and size the
    sd over draws of each seed.
    """

    place: dict[str, str]
    cells: dict[tuple[str, int], pd.DataFrame]
    drawn: dict[tuple[str, int], pd.DataFrame]
    inside: str
    images: Images

    @property
    def metric(self) -> str:
        return self.place["metric"]

    def right(self, run: str, members: int) -> NDArray[np.bool_] | None:
        return self.images.right(run, self.place["dataset"], members)

    def entropies(self, run: str, members: int) -> Entropies | None:
        return self.images.entropies(run, self.inside, self.place["dataset"], members)

    def image_sd(self, run: str, members: int) -> float | None:
        """Standard deviation of the metric over resampled images; None if the arrays were not stored."""
        if self.metric == "accuracy":
            right = self.right(run, members)
            return None if right is None else share_sd(int(right.sum()), right.size)
        found = self.entropies(run, members)
        return None if found is None else auroc_sd(*found)


def families(
    rows: pd.DataFrame, images: Images, metrics: Collection[str] = tuple(COMPARED)
) -> Iterator[Family]:
    """The families of one task, preset and device; rows: all of these. metrics: of `COMPARED`."""
    place = {c: str(rows[c].iloc[0]) for c in TASK}
    inside, _ = outlying_sets(rows).get(place["task"], ("", []))
    for metric in metrics:
        evaluation = COMPARED[metric]
        drawn = plain(rows, (f"{metric}_draw_sd",), evaluation)
        for dataset, own in plain(rows, (metric,), evaluation).groupby("dataset"):
            yield Family(
                {**place, "dataset": str(dataset), "metric": metric},
                _cells(own),
                _cells(drawn[drawn["dataset"] == dataset]),
                inside,
                images,
            )


def _cells(rows: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """Rows by method and number of networks, indexed by seed."""
    cells: dict[tuple[str, int], pd.DataFrame] = {}
    indexed = rows.set_index("seed")[["method", "members", "value", "run", "examples"]]
    for _, part in indexed.groupby(["method", "members"]):
        key = str(part["method"].iloc[0]), int(part["members"].iloc[0])
        cells[key] = part[["value", "run", "examples"]]
    return cells


@dataclass
class _Pair:
    """Two methods at one size; found: the test's result, else the reason why there is none.

    runs: of the only shared seed, if images decide.
    """

    first: str
    second: str
    members: int | None
    seeds: int = 0
    over: str = ""
    found: Paired | None = None
    reason: str = ""
    runs: tuple[str, str] | None = None
    examples: int | None = None


def verdicts(family: Family) -> list[dict[str, Any]]:
    """One line per pair of methods: the test result, with p adjusted for all pairs of the family."""
    methods = sorted({method for method, _ in family.cells})
    pairs = [_pair(family, first, second) for first, second in combinations(methods, 2)]
    by_images = [pair for pair in pairs if pair.runs is not None]
    if family.metric == "accuracy":
        _accuracies(family, by_images)
    else:
        _aurocs(family, by_images)
    tested = [pair.found.p for pair in pairs if pair.found is not None]
    adjusted = iter(holm(tested))
    return [_verdict(family, pair, next(adjusted) if pair.found else np.nan) for pair in pairs]


def _verdict(family: Family, pair: _Pair, adjusted: float) -> dict[str, Any]:
    if pair.found is None:
        words = f"{UNTESTED}: {pair.reason}"
    elif adjusted > SIGNIFICANT:
        words = TIE
    else:
        words = f"{pair.first if pair.found.difference > 0 else pair.second} higher"
    numbers = pair.found._asdict() if pair.found else {}
    return (
        family.place
        | {"method": pair.first, "other": pair.second, "members": pair.members, "verdict": words}
        | {"seeds": pair.seeds, "over": pair.over, "examples": pair.examples, "p_holm": adjusted}
        | numbers
    )


def _pair(family: Family, first: str, second: str) -> _Pair:
    """Two methods at their largest common size, tested over seeds if they share several."""
    sizes = [{n for method, n in family.cells if method == name and n > 1} for name in (first, second)]
    common = sizes[0] & sizes[1]
    if not common:
        return _Pair(first, second, None, reason="no number of networks above one in common")
    members = max(common)
    one, other = family.cells[first, members], family.cells[second, members]
    both = one.merge(other, left_index=True, right_index=True, suffixes=("_first", "_second")).sort_index()
    pair = _Pair(first, second, members, seeds=len(both), examples=one["examples"].max())
    if not len(both):
        pair.reason = "no shared seed"
    elif len(both) == 1:
        pair.runs = (str(both["run_first"].iloc[0]), str(both["run_second"].iloc[0]))
    else:
        try:
            pair.found = paired_t(both["value_first"].to_numpy(), both["value_second"].to_numpy())
            pair.over = "seeds"
        except ValueError as error:
            pair.reason = str(error)
    return pair


_OTHER_IMAGES = "one shared seed, and not the same images"


def _unkept(pair: _Pair, what: str) -> str:
    return f"one shared seed, and no {what} per image at {pair.members:,} networks: run again"


def _accuracies(family: Family, pairs: list[_Pair]) -> None:
    """Tests pairs on the images that only one of both classifies correctly."""
    for pair in pairs:
        assert pair.runs is not None and pair.members is not None
        first, second = (family.right(run, pair.members) for run in pair.runs)
        if first is None or second is None:
            pair.reason = _unkept(pair, "predictions")
        elif first.shape != second.shape or not family.images.same(pair.runs, family.place["dataset"]):
            pair.reason = _OTHER_IMAGES
        else:
            pair.over, pair.found = "images", mcnemar(first, second)


def _aurocs(family: Family, pairs: list[_Pair]) -> None:
    """Tests pairs on resampled images, drawn once for all methods of a family."""
    kept: dict[tuple[str, int], Entropies] = {}
    ready: list[tuple[_Pair, tuple[str, int], tuple[str, int]]] = []
    for pair in pairs:
        assert pair.runs is not None and pair.members is not None
        keys = [(run, pair.members) for run in pair.runs]
        found = [family.entropies(*key) for key in keys]
        if found[0] is None or found[1] is None:
            pair.reason = _unkept(pair, "entropies")
        elif found[0].shape != found[1].shape or not family.images.same(pair.runs, family.inside):
            pair.reason = _OTHER_IMAGES
        else:
            kept |= {keys[0]: found[0], keys[1]: found[1]}
            ready.append((pair, keys[0], keys[1]))
    drawn: dict[tuple[str, int], NDArray[np.float64]] = {}
    for shape in sorted({entropies.shape for entropies in kept.values()}):
        own = [key for key, entropies in kept.items() if entropies.shape == shape]
        drawn |= dict(zip(own, resampled_aurocs([kept[k] for k in own], RESAMPLING_SEED), strict=True))
    for pair, a, b in ready:
        difference = auroc(*kept[a]) - auroc(*kept[b])
        pair.over, pair.found = "images", paired_resamples(difference, drawn[a] - drawn[b])
