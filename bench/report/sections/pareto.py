"""Section `pareto`: quality over cost, all ensembles of a task in one figure with the Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import NDArray

from bench.records.schema import METRICS
from bench.report.costs import IMAGES, QUALITIES, on_one_machine, placed, points
from bench.report.layout.captions import Drawing, figure_entry, where
from bench.report.layout.figures import CURVES, EDGE, LETTER, WIDTH, Styles, handle, in_seeds, sheet
from bench.report.layout.tables import Table, heading
from bench.report.rows import Material, plain, shared_fits, summarise, with_intervals

NAME = "pareto"
FIGURES = {"pareto": "budgets"}
MARKS = 5  # ticks of a vertical axis
# Ticks of a logarithmic axis, coarse to fine: every how many decades, and the positions within one.
_STEPS: tuple[tuple[int, tuple[float, ...]], ...] = (
    (4, (1,)), (2, (1,)), (1, (1,)), (1, (1, 3)), (1, (1, 2, 5)), (1, (1, 1.5, 2, 3, 5, 7)),
    (1, tuple(np.arange(10, 100) / 10)),
)  # fmt: skip
_AXES = {
    "fit_seconds": "fit [s]\nlogarithmic scale",
    "fit_cpu_seconds": "fit, CPU time [s]\nlogarithmic scale",
    "fit_gflop": "fit [GFLOP]\nlogarithmic scale",
    "predict_seconds_1000": f"predict {IMAGES:,} {{}} [s]\nlogarithmic scale",
}
_CAPTION = (
    "Quality of ensembles against the cost of fitting all networks of their method and of predicting "
    f"{IMAGES:,} images or points, where all methods have it. The largest ensemble of each method, with its "
    "95 % interval: of accuracy over seeds if several (t), otherwise over images, of others over seeds; "
    f"against prediction time also the smaller ones, small and joined, of up to {CURVES} methods. Grey: the "
    "Pareto front, the best at no higher cost. Peak memory is not shown: that of a run includes training "
    "only if the fit was not reused. "
)


def tables(material: Material) -> list[Table]:
    """No table: the numbers are in that of equal budgets."""
    return []


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """Quality against each cost, one figure per task and data set of a block."""
    part = replace(part, rows=shared_fits(part.rows))
    for (task, dataset), own in points(part.rows).groupby(["task", "dataset"], sort=False):
        rows = part.rows[part.rows["task"] == task]
        at = placed(rows)
        at = at.loc[at["dataset"] == dataset, ["run", "method"]].drop_duplicates()
        runs, told = on_one_machine(at, part.abouts)
        # Seconds of different machines do not compare.
        rows = rows[rows["run"].isin(runs)]
        frame = points(rows)
        costs = [cost for cost in _AXES if len(frame) and frame[cost].notna().all()]
        if not costs:
            continue
        several = points(part.rows[part.rows["task"] == task])["dataset"].nunique() > 1
        subject = f"{task}-{dataset}" if several else str(task)
        title = f"Quality and cost — {where(own, subject)}"
        yield (
            figure_entry("pareto", subject, own, _CAPTION + told, str(task)),
            partial(pareto, frame, _ends(rows), costs, styles, title),
        )


def _ends(rows: pd.DataFrame) -> pd.DataFrame:
    """Ends of the intervals of each quality, in the unit of rows, by metric, method and members."""
    found = pd.concat([summarise(plain(rows, (m,), evaluation)) for m, evaluation in QUALITIES.items()])
    found = found[found["dataset"] == found.groupby("metric")["dataset"].transform("min")]
    _, (low, high) = with_intervals(found)
    return found.assign(low=low, high=high).set_index(["metric", "method", "members"])[["low", "high"]]


def front(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points that no other exceeds in y at no higher x, sorted by x; both increase strictly."""
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    best = np.maximum.accumulate(y)
    keep = np.concatenate([[True], best[1:] > best[:-1]])[: len(y)]
    return x[keep], y[keep]


def pareto(
    frame: pd.DataFrame, ends: pd.DataFrame, costs: Sequence[str], styles: Styles, title: str
) -> Figure:
    """Quality over cost: one row per cost, one column per metric, one point per method.

    frame: the points of one preset, device, task and data set, all with these costs. ends: of the intervals
    of its qualities. Against prediction time, which grows with the ensemble, one point per size.
    """
    metrics = [metric for metric in QUALITIES if frame[metric].notna().any()]
    names = sorted(set(frame["method"]))
    noun = "images" if "accuracy" in metrics else "points"
    note = f"{int(frame['examples'].max()):,} {noun} · {in_seeds(frame)} · bars: 95 %"
    figure, grid = sheet(
        title, note, len(costs), len(metrics), 1.15, left=0.62, right=0.18, between=(0.66, 0.58), below=0.44,
        sharey="col",
        entries=[handle(name, styles[name], linestyle="") for name in names],
    )  # fmt: skip
    largest = frame["members"] == frame.groupby("method")["members"].transform("max")
    for line, cost in zip(grid, costs, strict=True):
        every = cost == "predict_seconds_1000" and len(names) <= CURVES
        for axes, metric in zip(line, metrics, strict=True):
            held = frame[frame[metric].notna() & (every | largest)]
            whole = held.join(ends.loc[metric], on=["method", "members"])
            _panel(axes, whole, cost, metric, styles)
            axes.set_xlabel(_AXES[cost].format(noun))
            wide = axes.get_position().width * WIDTH
            _plain_numbers(axes, held[cost].to_numpy(float), LETTER / wide)
            axes.set_ylabel(f"{heading(metric)}\nasinh scale")
    for axes, metric in zip(grid[0], metrics, strict=True):
        _stretch(axes, frame[metric].dropna().to_numpy(float) * METRICS[metric].factor)
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, cost: str, metric: str, styles: Styles) -> None:
    """Points of one metric and cost by method, in order of size, and their front."""
    factor = METRICS[metric].factor
    x, y, low, high = (
        frame[c].to_numpy(float) * f
        for c, f in ((cost, 1), (metric, factor), ("low", factor), ("high", factor))
    )
    if not len(x):
        return
    last = ~frame.duplicated("method", keep="last").to_numpy()
    for name in sorted(set(frame["method"])):
        own = (frame["method"] == name).to_numpy()
        drawn = {"color": styles[name].color, "marker": styles[name].marker, **EDGE}
        if own.sum() > 1:
            axes.plot(x[own], y[own], linestyle="-", linewidth=0.6, markersize=2, **drawn)
        axes.vlines(x[own & last], low[own & last], high[own & last], color=drawn["color"], linewidth=0.7)
        axes.plot(x[own & last], y[own & last], linestyle="", markersize=4.5, **drawn)
    edge, height = front(x, y)
    axes.step([*edge, x.max()], [*height, height[-1]], where="post", color="0.6", linewidth=0.8, zorder=1)


def _stretch(axes: Axes, y: NDArray[np.float64]) -> None:
    """A vertical scale that stretches the range near the best value: asinh of the distance from it.

    Otherwise one bad method would compress all others into one line.
    """
    top, low = float(y.max()), float(y.min())
    width = float(np.quantile(top - y[y < top], 0.25)) if low < top else 0.0
    if width <= 0:
        return

    def forward(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.arcsinh((top - np.asarray(values, dtype=float)) / width)

    def back(heights: NDArray[np.float64]) -> NDArray[np.float64]:
        return top - width * np.sinh(-np.asarray(heights, dtype=float))

    least = float(forward(np.array(low)))
    marks = back(np.linspace(least, 0.0, MARKS))
    places = np.ceil(-np.log10(np.minimum(np.diff(marks, append=np.inf), np.diff(marks, prepend=-np.inf))))
    places = np.maximum(places.astype(int), 0)
    axes.set_yscale("function", functions=(forward, back))
    told = {f"{mark:.{n}f}": round(mark, n) for mark, n in zip(marks.tolist(), places.tolist(), strict=True)}
    axes.yaxis.set_major_locator(FixedLocator(list(told.values())))
    axes.yaxis.set_major_formatter(FixedFormatter(list(told)))
    axes.set_ylim(*back(np.array([1.07 * least, -0.07 * least])))


def _plain_numbers(axes: Axes, x: NDArray[np.float64], letter: float) -> None:
    """A logarithmic axis with plain numbers, with the finest ticks whose labels of such letters fit."""
    axes.set_xscale("log")
    if not 0 < x.min() <= x.max() < np.inf:
        return
    margin = max(1.05, (x.max() / x.min()) ** 0.06)
    low, high = x.min() / margin, x.max() * margin
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    chosen: list[tuple[float, str]] = []
    for stride, steps in _STEPS:
        every = [s * 10.0**d for d in decades if d % stride == 0 for s in steps]
        marks = [float(mark) for mark in every if low <= mark <= high]
        told = [f"{m:,.0f}" if m >= 1000 else f"{m:.3g}" for m in marks]
        gaps = np.diff(np.log(marks)) / np.log(high / low)
        room = [1 + (len(a) + len(b)) / 2 for a, b in pairwise(told)]
        if len(marks) > len(chosen) and (gaps > letter * np.array(room)).all():
            chosen = list(zip(marks, told, strict=True))
    axes.xaxis.set_major_locator(FixedLocator([mark for mark, _ in chosen]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FixedFormatter([text for _, text in chosen]))
