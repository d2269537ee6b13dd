"""Paired tests of methods: which differences are real, and which ties, for tables and claims alike.

Rows give one value per training seed, arrays one per image. A family is a set of numbers compared
together: one metric on one data set of a task, of one preset and device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.schema import METRICS
from bench.report.arrays import Entropies, Images
from bench.report.rows import PLACE, TASK, Material, outlying_sets, plain, shared_fits
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


@dataclass(frozen=True, eq=False)
class Family:
    """One metric on one data set, named by `place`; cells: values and runs by seed, per method and size.

    inside: the in-distribution data set, if the data set is an outlying one; drawn: per method and size the
    sd over draws of each seed. resampled: AUROCs of shared resamples by run and size, as they are asked for.
    """

    place: dict[str, str]
    cells: dict[tuple[str, int], pd.DataFrame]
    drawn: dict[tuple[str, int], pd.DataFrame]
    inside: str
    images: Images
    resampled: dict[tuple[str, int], NDArray[np.float64]] = field(default_factory=dict)
    _seeds: dict[tuple[str, int], dict[int, tuple[float, str]]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(self.place[column] for column in FAMILY)

    def seeds(self, method: str, members: int) -> dict[int, tuple[float, str]]:
        """Value and run of a cell by seed."""
        if (method, members) not in self._seeds:
            cell = self.cells[method, members]
            values = zip(cell["value"].tolist(), cell["run"].tolist(), strict=True)
            self._seeds[method, members] = dict(zip(cell.index.tolist(), values, strict=True))
        return self._seeds[method, members]

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


@lru_cache(maxsize=1)  # the tables and the ledger ask for those of one material
def families(material: Material) -> tuple[Family, ...]:
    """The families of a material: accuracies of every fit, under one of the tasks that share it, then AUROCs.

    Their order is that of the tasks in the rows.
    """
    rows, found = material.rows, []
    sets: dict[tuple[str, str, str], str] = {}
    for (preset, device), own in rows.groupby(list(TASK[:-1]), sort=False):
        for task, (inside, _) in outlying_sets(own).items():
            sets[str(preset), str(device), task] = inside
    images = Images(material.results)
    for metric, evaluation in COMPARED.items():
        of = rows[rows["evaluation"] == evaluation]
        of = shared_fits(of) if metric == "accuracy" else of
        drawn = plain(of, (f"{metric}_draw_sd",), evaluation)
        for key, own in plain(of, (metric,), evaluation).groupby(list(PLACE), sort=False):
            preset, device, task, dataset = map(str, key)
            at = (drawn[list(PLACE)] == list(key)).all(axis=1)
            place = dict(zip(PLACE, (preset, device, task, dataset), strict=True)) | {"metric": metric}
            inside = sets.get((preset, device, task), "")
            found.append(Family(place, _cells(own), _cells(drawn[at]), inside, images))
    return tuple(found)


@lru_cache(maxsize=1)
def all_verdicts(material: Material) -> pd.DataFrame:
    """The paired verdicts of all families, columns `VERDICTS`: what tables, ledger and page judge by."""
    lines = [line for family in families(material) for line in verdicts(family)]
    frame = pd.DataFrame(lines, columns=list(VERDICTS))
    return frame.astype(dict.fromkeys(("members", "seeds", "examples"), "Int64"))


class _Numbers:
    """Families of any metric of a material, on clean images, by place and metric."""

    def __init__(self, material: Material) -> None:
        shared = {family.key: family for family in families(material)}
        rows = plain(material.rows, tuple(set(material.rows["metric"]) - {f.metric for f in shared.values()}))
        rows = pd.concat([shared_fits(rows[rows["evaluation"] == "accuracy"]), rows]).drop_duplicates(
            [*FAMILY, "method", "members", "layer", "seed", "evaluation"]
        )
        rows = rows[rows["layer"] == ""]
        self._images = Images(material.results)
        self._rows = {key: own for key, own in rows[rows["members"].notna()].groupby(list(FAMILY))}
        self._made: dict[tuple[Any, ...], Family] = dict(shared)
        self.told: dict[tuple[Any, ...], dict[tuple[str, ...], bool | None]] = {}

    def family(self, key: tuple[Any, ...]) -> Family | None:
        if key not in self._made and key in self._rows:
            place = dict(zip(FAMILY, map(str, key), strict=True))
            self._made[key] = Family(place, _cells(self._rows[key]), {}, "", self._images)
        return self._made.get(key)


_numbers = lru_cache(maxsize=1)(_Numbers)


def leaders(material: Material, items: Sequence[Any]) -> list[int]:
    """Which of the lines that compete in a column of a table are its best, by the paired tests.

    items: lines with the columns `FAMILY`, method, members and mean, of one metric and size, all measured.
    The best mean leads, with all that no test tells from it: of the same numbers of networks, p adjusted
    for all pairs (Holm). None where a pair of the best mean has no test.
    """
    metric = str(items[0].metric)
    numbers = _numbers(material)
    family = numbers.family(tuple(getattr(items[0], column) for column in FAMILY))
    keys = [(str(item.method), int(item.members)) for item in items if pd.notna(item.members)]
    layered = any(getattr(item, "layer", "") or getattr(item, "variant", "") for item in items)
    if family is None or layered or len(set(keys)) < len(items) or not set(keys) <= family.cells.keys():
        return []
    way = 1 if METRICS[metric].direction == "higher" else -1
    best = max(range(len(items)), key=lambda i: way * items[i].mean)
    asked = (*family.key, *sorted(keys))
    if asked not in numbers.told:
        numbers.told[asked] = _compared(family, tuple(sorted(keys)))
    told = numbers.told[asked]
    tied = [best]
    for i in set(range(len(items))) - {best}:
        apart = told[tuple(sorted((keys[best][0], keys[i][0])))]
        if apart is None:
            return []
        tied += [] if apart else [i]
    return sorted(tied)


def _compared(family: Family, keys: tuple[tuple[str, int], ...]) -> dict[tuple[str, ...], bool | None]:
    """By pair of methods at these sizes, whether a test tells them apart; None: it has no test."""
    own = replace(family, cells={key: family.cells[key] for key in keys})
    found: dict[tuple[str, ...], bool | None] = {}
    for line in verdicts(own, least=1):
        told = None if np.isnan(line["p_holm"]) else bool(line["p_holm"] <= SIGNIFICANT)
        found[tuple(sorted((line["method"], line["other"])))] = told
    return found


def _cells(rows: pd.DataFrame) -> dict[tuple[str, int], pd.DataFrame]:
    """Rows by method and number of networks, indexed by seed."""
    cells: dict[tuple[str, int], pd.DataFrame] = {}
    indexed = rows.set_index("seed")[["method", "members", "value", "run", "examples"]]
    for key, part in indexed.groupby(["method", "members"]):
        method, members = key
        cells[str(method), int(str(members))] = part[["value", "run", "examples"]]
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


def verdicts(family: Family, least: int = 2) -> list[dict[str, Any]]:
    """One line per pair of methods: the test result, with p adjusted for all pairs of the family.

    Compared is the largest number of networks, `least` or more, that both have.
    """
    methods = sorted({method for method, _ in family.cells})
    pairs = [_pair(family, first, second, least) for first, second in combinations(methods, 2)]
    by_images = [pair for pair in pairs if pair.runs is not None]
    if family.metric == "accuracy":
        _accuracies(family, by_images)
    elif family.metric == "auroc":
        _aurocs(family, by_images)
    else:
        for pair in by_images:
            pair.reason = "one shared seed"
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


def _pair(family: Family, first: str, second: str, least: int) -> _Pair:
    """Two methods at their largest common size, tested over seeds if they share several."""
    sizes = [{n for method, n in family.cells if method == name and n >= least} for name in (first, second)]
    common = sizes[0] & sizes[1]
    if not common:
        return _Pair(first, second, None, reason="no number of networks above one in common")
    members = max(common)
    one, other = family.seeds(first, members), family.seeds(second, members)
    both = [(one[seed], other[seed]) for seed in sorted(one.keys() & other.keys())]
    examples = family.cells[first, members]["examples"].max()
    pair = _Pair(first, second, members, seeds=len(both), examples=examples)
    if not both:
        pair.reason = "no shared seed"
    elif len(both) == 1 and members == 1:
        pair.reason = "one shared seed, and means of single networks"
    elif len(both) == 1:
        pair.runs = (both[0][0][1], both[0][1][1])
    else:
        try:
            pair.found = paired_t([a for (a, _), _ in both], [b for _, (b, _) in both])
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
    drawn = family.resampled  # the same images are drawn for all methods, whoever is compared with them
    for shape in sorted({entropies.shape for entropies in kept.values()}):
        own = [key for key, entropies in kept.items() if entropies.shape == shape and key not in drawn]
        if not own:
            continue
        drawn |= dict(zip(own, resampled_aurocs([kept[k] for k in own], RESAMPLING_SEED), strict=True))
    for pair, a, b in ready:
        difference = auroc(*kept[a]) - auroc(*kept[b])
        pair.over, pair.found = "images", paired_resamples(difference, drawn[a] - drawn[b])
