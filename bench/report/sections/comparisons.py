"""Section `comparisons`: sources of spread, paired comparisons of methods, distances of entropies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from bench.records.schema import METRICS
from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import MISSING, Table, digits
from bench.report.paired import FAMILY, Family, all_verdicts, families
from bench.report.rows import COLUMNS, GROUP, PLACE, Material, ordered, summarise
from bench.report.uncertainty import (
    dkw_half_width,
    ks_distance,
    t_interval,
    wasserstein_distance,
)

NAME = "comparisons"
FIGURES: dict[str, str] = {}
SPREAD = (
    *FAMILY, "method", "members", "mean", "low", "high", "sd", "draw_sd", "image_sd", "seeds", "draw_seeds",
    "image_seeds", "examples",
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
    "trained networks only, as other seeds may reverse it. A pair is not tested if there is nothing to pair, "
    "or if a run lacks what it needs per image: run it again. The ledger of claims judges by these verdicts."
)
_DISTANCES_NOTE = (
    "Distances of the distribution of the predictive entropy on test images and on the outlying images "
    "named, at each method's largest ensemble whose entropies per image are kept. KS is the largest gap "
    "of the two ECDFs, Wasserstein-1 the area between them; neither says on which side the outliers are. "
    "With 95 % confidence an ECDF lies within the DKW half-width, here that of the smaller set, of its "
    "distribution."
)


def tables(material: Material) -> list[Table]:
    """The tables `spread`, `verdicts` and `entropy-distances`; those without lines are empty."""
    spreads, distances = [], []
    for family in families(material):
        spreads += _spread(family)
        if family.metric == "auroc":
            distances += _distances(family)
    whole = dict.fromkeys(("members", "seeds", "examples"), "Int64")
    spread = pd.DataFrame(spreads, columns=SPREAD).astype(whole)
    verdict = all_verdicts(material)
    shown = _summarised(distances)
    return [
        Table(
            "spread", "Where the spread comes from", _SPREAD_NOTE,
            ordered(spread, ["device", "task", "dataset", "metric", "members", "method"]),
            FAMILY, ("members", "method"), (), show=(
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
            FAMILY, ("method", "other", "members", "verdict"), (), show=(
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


def _spread(family: Family) -> list[dict[str, Any]]:
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


def _distances(family: Family) -> list[dict[str, Any]]:
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
