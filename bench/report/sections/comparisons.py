"""Section `comparisons`: sources of spread, paired comparisons of methods, distances of entropies.

Rows give one value per training seed, arrays one per image. A family is a set of numbers compared
together: one metric on one data set of a task, of one preset and device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.schema import METRICS
from bench.report.arrays import Entropies, Images
from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import MISSING, Table, digits
from bench.report.rows import COLUMNS, GROUP, PLACE, TASK, Material, ordered, outlying_sets, plain, summarise
from bench.report.uncertainty import (
    CONFIDENCE,
    Paired,
    auroc,
    auroc_sd,
    dkw_half_width,
    holm,
    ks_distance,
    mcnemar,
    paired_resamples,
    paired_t,
    resampled_aurocs,
    share_sd,
    t_interval,
    wasserstein_distance,
)

NAME = "comparisons"
FIGURES: dict[str, str] = {}
COMPARED = {"accuracy": "accuracy", "auroc": "ood"}  # metric -> the evaluation whose rows are compared
SIGNIFICANT = 1 - CONFIDENCE  # differences with a larger adjusted p are ties
RESAMPLING_SEED = 0  # fixed, so that reports are deterministic
_FAMILY = (*PLACE, "metric")
SPREAD = (
    *_FAMILY, "method", "members", "mean", "low", "high", "sd", "draw_sd", "image_sd", "seeds", "draw_seeds",
    "image_seeds", "examples",
)  # fmt: skip
VERDICTS = (
    *_FAMILY, "method", "other", "members", "verdict", "difference", "low", "high", "p", "p_holm", "seeds",
    "over", "examples",
)  # fmt: skip
_SPREAD_NOTE = (
    "Three sources of spread, separately, not added. Seeds: other trainings; the 95 % t-interval of "
    "the mean and the sd (ddof = 1) need two, and with few the interval is wide and may exceed the possible "
    "range. Draws: other networks of the same fit, the sd between disjoint ensembles of that size, "
    "mean over seeds. Images: another test set, the sd over resamples of the images with the networks "
    "held fixed (exact, nothing is drawn; the two sets of an AUROC are resampled apart), mean over seeds. "
    "The accuracy or AUROC of 1 network is the mean of single networks, its spread over images that of "
    "the first. —: not measured, as there is one seed, too few networks for two ensembles, or no arrays at "
    "that size."
)
_VERDICTS_NOTE = (
    "Every two methods, each with the same number of networks: the largest number above one that both "
    "have. The difference is the first method's less the other's, with its own 95 % interval; p is "
    "two-sided, and p (Holm) adjusted for all pairs of this table. A verdict names the method that is "
    "higher where p (Holm) is at most 0.05, and is a tie otherwise: too close to tell, not equal. Over "
    "seeds: paired t-test of the seeds that both have. Over images, where they share one seed: exact "
    "McNemar test of the accuracies, paired bootstrap of the AUROCs; such a verdict holds for these "
    "trained networks only, as other seeds may reverse it."
)
_DISTANCES_NOTE = (
    "Distances of the distribution of the predictive entropy on test images and on the outlying images "
    "named, at each method's largest ensemble whose entropies per image are kept. KS is the largest gap "
    "of the two ECDFs, Wasserstein-1 the area between them; neither says on which side the outliers are. "
    "With 95 % confidence an ECDF lies within the DKW half-width, here that of the smaller set, of its "
    "distribution."
)


@dataclass(frozen=True)
class _Family:
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


def tables(material: Material) -> list[Table]:
    """The tables `spread`, `verdicts` and `entropy-distances`; those without lines are empty."""
    spreads, verdicts, distances = [], [], []
    for _, rows in material.rows.groupby(list(TASK), sort=False):
        for family in _families(rows, Images(material.results)):
            spreads += _spread(family)
            verdicts += _verdicts(family)
            if family.metric == "auroc":
                distances += _distances(family)
    whole = dict.fromkeys(("members", "seeds", "examples"), "Int64")
    spread = pd.DataFrame(spreads, columns=SPREAD).astype(whole)
    verdict = pd.DataFrame(verdicts, columns=VERDICTS).astype(whole)
    shown = _summarised(distances)
    return [
        Table(
            "spread", "Where the spread comes from", _SPREAD_NOTE,
            ordered(spread, ["device", "task", "dataset", "metric", "members", "method"]),
            _FAMILY, ("members", "method"), (), show=(
                ("mean", lambda item: digits(item.metric, item.mean)),
                ("95 % over seeds", _interval),
                ("sd, seeds", lambda item: _number(item, item.sd)),
                ("sd, draws", lambda item: _number(item, item.draw_sd)),
                ("sd, images", lambda item: _number(item, item.image_sd)),
                ("seeds", lambda item: str(item.seeds)),
            ),
        ),
        Table(
            "verdicts", "Paired verdicts", _VERDICTS_NOTE,
            ordered(verdict, ["device", "task", "dataset", "metric", "method", "other"]),
            _FAMILY, ("method", "other", "members", "verdict"), (), show=(
                ("difference", lambda item: _number(item, item.difference, "+")),
                ("95 % interval", _interval),
                ("p", lambda item: _p(item.p)),
                ("p (Holm)", lambda item: _p(item.p_holm)),
                ("shared seeds", lambda item: str(item.seeds)),
                ("over", lambda item: item.over or MISSING),
            ),
        ),
        Table(
            "entropy-distances", "Distance of the entropies in and out of distribution", _DISTANCES_NOTE,
            shown, PLACE, ("method", "members"), ("metric",), (),
            ("ks_distance", "wasserstein_nats", "dkw_half_width"),
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """No figure."""
    return iter(())


def _number(item: Any, value: float, sign: str = "") -> str:
    """A number formatted for its metric; sign "+": with its sign, unless it rounds to zero."""
    if pd.isna(value):
        return MISSING
    text = digits(item.metric, value)
    if not any(c in "123456789" for c in text):
        return text.lstrip("-")
    return sign + text if sign and value > 0 else text


def _interval(item: Any) -> str:
    if pd.isna(item.low):
        return MISSING
    return f"[{_number(item, item.low)}, {_number(item, item.high)}]"


def _p(value: float) -> str:
    if pd.isna(value):
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _families(rows: pd.DataFrame, images: Images) -> Iterator[_Family]:
    """The families of one task, preset and device; rows: all of these."""
    place = {c: str(rows[c].iloc[0]) for c in TASK}
    inside, _ = outlying_sets(rows).get(place["task"], ("", []))
    for metric, evaluation in COMPARED.items():
        drawn = plain(rows, (f"{metric}_draw_sd",), evaluation)
        for dataset, own in plain(rows, (metric,), evaluation).groupby("dataset"):
            yield _Family(
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


def _spread(family: _Family) -> list[dict[str, Any]]:
    """One line per method and size: the mean, and its spread over seeds, draws and images."""
    lines = []
    for (method, members), cell in family.cells.items():
        over = t_interval(cell["value"].to_numpy())
        drawn = family.drawn.get((method, members), cell.iloc[:0])["value"]
        found = [sd for run in cell["run"] if (sd := family.image_sd(run, members)) is not None]
        lines.append(
            family.place
            | {"method": method, "members": members, "seeds": over.n, "examples": cell["examples"].max()}
            | {"mean": over.mean, "low": over.low, "high": over.high, "sd": over.sd}
            | {"draw_sd": float(drawn.mean()) if len(drawn) else np.nan, "draw_seeds": len(drawn)}
            | {"image_sd": float(np.mean(found)) if found else np.nan, "image_seeds": len(found)}
        )
    return lines


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


def _verdicts(family: _Family) -> list[dict[str, Any]]:
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


def _verdict(family: _Family, pair: _Pair, adjusted: float) -> dict[str, Any]:
    if pair.found is None:
        words = f"not tested: {pair.reason}"
    elif adjusted > SIGNIFICANT:
        words = "tie"
    else:
        words = f"{pair.first if pair.found.difference > 0 else pair.second} higher"
    numbers = pair.found._asdict() if pair.found else {}
    return (
        family.place
        | {"method": pair.first, "other": pair.second, "members": pair.members, "verdict": words}
        | {"seeds": pair.seeds, "over": pair.over, "examples": pair.examples, "p_holm": adjusted}
        | numbers
    )


def _pair(family: _Family, first: str, second: str) -> _Pair:
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
    return f"one shared seed, and no {what} per image at {pair.members:,} networks"


def _accuracies(family: _Family, pairs: list[_Pair]) -> None:
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


def _aurocs(family: _Family, pairs: list[_Pair]) -> None:
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


def _distances(family: _Family) -> list[dict[str, Any]]:
    """One line per method, seed and distance, at the largest size whose entropies were stored."""
    lines = []
    for method in sorted({method for method, _ in family.cells}):
        for members in sorted((n for name, n in family.cells if name == method), reverse=True):
            cell = family.cells[method, members]
            kept = [found for run in cell["run"] if (found := family.entropies(run, members)) is not None]
            for found in kept:
                common = family.place | {"method": method, "members": members, "layer": ""}
                common["examples"] = cell["examples"].max()
                values = {
                    "ks_distance": ks_distance(*found),
                    "wasserstein_nats": wasserstein_distance(*found),
                    "dkw_half_width": dkw_half_width(min(found.shape)),
                }
                lines += [
                    common | {"metric": metric, "value": value, "unit": METRICS[metric].unit}
                    for metric, value in values.items()
                ]
            if kept:
                break
    return lines


def _summarised(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Means over seeds of the distances; a half-width is the same for every seed and has no spread."""
    columns = [*GROUP, "unit", "value", "examples"]
    if not lines:
        return pd.DataFrame(columns=list(COLUMNS))
    frame = summarise(pd.DataFrame(lines, columns=columns))
    frame.loc[frame["metric"] == "dkw_half_width", ["sd", "low", "high"]] = np.nan
    return frame
