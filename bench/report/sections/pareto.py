"""Section `pareto`: quality over cost, all ensembles of a task in one figure with the Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from bench.records.schema import METRICS
from bench.report.costs import IMAGES, QUALITIES, machines, placed, points
from bench.report.layout.captions import Drawing, figure_entry, where
from bench.report.layout.figures import EDGE, WIDTH, Styles, blank, handle, in_seeds, legend
from bench.report.layout.tables import Table, heading
from bench.report.rows import Material, shared_fits

NAME = "pareto"
FIGURES = {"pareto": "budgets"}
MARKS = 5  # ticks of a vertical axis
LETTER = 0.034  # width of an 8 point letter, relative to a panel of a third of a page
# Ticks of a logarithmic axis, coarse to fine: every how many decades, and the positions within one.
_STEPS: tuple[tuple[int, tuple[float, ...]], ...] = (
    (4, (1,)), (2, (1,)), (1, (1,)), (1, (1, 3)), (1, (1, 2, 5)), (1, (1, 1.5, 2, 3, 5, 7)),
    (1, tuple(np.arange(10, 100) / 10)),
)  # fmt: skip
_AXES = {
    "fit_seconds": ("fit [s]", 1.0),
    "fit_cpu_seconds": ("fit, CPU time [s]", 1.0),
    "fit_gflop": ("fit [GFLOP]", 1.0),
    "predict_seconds_1000": (f"predict\n{IMAGES:,} {{}} [s]", 1.0),
    "peak_memory_bytes": ("peak memory\n[MiB]", 1 / 2**20),
}


def tables(material: Material) -> list[Table]:
    """No table: the numbers are in that of equal budgets."""
    return []


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """Quality against each cost, one figure per task and data set of a block."""
    part = replace(part, rows=shared_fits(part.rows))
    frame = points(part.rows)
    frame = frame[frame[list(_AXES)].notna().any(axis=1)]
    for task, own in frame.groupby("task", sort=False):
        for dataset, place in own.groupby("dataset", sort=False):
            subject = str(task) if own["dataset"].nunique() == 1 else f"{task}-{dataset}"
            at = placed(part.rows[part.rows["task"] == task])
            at = at.loc[at["dataset"] == dataset, ["run", "method"]].drop_duplicates()
            told = {"fit_cpu_seconds": "CPU seconds of all threads", "fit_gflop": "counted GFLOP"}
            efforts = ["seconds", *(words for cost, words in told.items() if place[cost].notna().any())]
            fitting = f"{' and '.join(filter(None, (', '.join(efforts[:-1]), efforts[-1])))} to fit"
            caption = (
                f"Quality of ensembles against their cost: {fitting}, seconds in which the ensemble "
                f"predicts {IMAGES:,} images or points, peak memory of the run. One marker per ensemble "
                "size, that of the largest is larger; all sizes share one fit and one peak, and prediction "
                "time scales with size. "
                "Grey: the Pareto front, the best at no higher cost. Heights are spread towards the best "
                "(asinh of the distance from it). " + machines(at, part.abouts)
            )
            title = f"Quality and cost — {where(place, subject)}"
            yield figure_entry("pareto", subject, place, caption, str(task)), pareto(place, styles, title)


def front(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points that no other exceeds in y at no higher x, sorted by x; both increase strictly."""
    order = np.lexsort((-y, x))
    x, y = x[order], y[order]
    best = np.maximum.accumulate(y)
    keep = np.concatenate([[True], best[1:] > best[:-1]])[: len(y)]
    return x[keep], y[keep]


def pareto(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """Quality over cost: one row per metric, one column per cost, one point per method and size.

    frame: the points of one preset, device, task and data set.
    """
    metrics = [metric for metric in QUALITIES if frame[metric].notna().any()]
    costs = [cost for cost in _AXES if frame[cost].notna().any()]
    names = sorted(set(frame["method"]))
    noun = "images" if "accuracy" in metrics else "points"
    note = f"{int(frame['examples'].max()):,} {noun} · {in_seeds(frame)}"
    figure = blank(WIDTH, 1.4 + 2.6 * len(metrics), title, note)
    grid = figure.subplots(len(metrics), len(costs), sharex="col", sharey="row", squeeze=False)
    for line, metric in zip(grid, metrics, strict=True):
        factor = METRICS[metric].factor
        line[0].set_ylabel(heading(metric))
        _stretch(line[0], frame[metric].dropna().to_numpy(float) * factor)
        for axes, cost in zip(line, costs, strict=True):
            held = frame[frame[metric].notna() & frame[cost].notna()]
            x, y = held[cost].to_numpy(float) * _AXES[cost][1], held[metric].to_numpy(float) * factor
            _panel(axes, x, y, held["method"].to_numpy(), styles)
    for axes, cost in zip(grid[-1], costs, strict=True):
        axes.set_xlabel(_AXES[cost][0].format(noun))
        x = frame[cost].dropna().to_numpy(float) * _AXES[cost][1]
        if cost == "peak_memory_bytes":
            _memory(axes, x, 4 if len(costs) < 5 else 2)
        else:
            _plain_numbers(axes, x, LETTER * len(costs) / 3)
    legend(figure, [handle(name, styles[name], linestyle="") for name in names])
    return figure


def _panel(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], methods: NDArray[Any], styles: Styles
) -> None:
    """Points of one metric and cost by method, in order of size, and their front."""
    for name in sorted(set(methods)):
        own = methods == name
        drawn = {"color": styles[name].color, "marker": styles[name].marker, **EDGE}
        joined = "-" if len(set(x[own])) > 1 else ""
        axes.plot(x[own], y[own], linestyle=joined, linewidth=0.8, markersize=3.5, **drawn)
        axes.plot(x[own][-1:], y[own][-1:], linestyle="", markersize=6, **drawn)
    if len(x):
        edge, height = front(x, y)
        axes.step([*edge, x.max()], [*height, height[-1]], where="post", color="0.6", linewidth=1, zorder=1)
    sns.despine(ax=axes)


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


def _memory(axes: Axes, x: NDArray[np.float64], marks: int) -> None:
    """A linear axis spanning at least a tenth of its largest value: tiny differences are irrelevant."""
    middle, half = (x.max() + x.min()) / 2, max((x.max() - x.min()) / 2, x.max() / 20) * 1.1
    axes.set_xlim(middle - half, middle + half)
    axes.xaxis.set_major_locator(MaxNLocator(marks))
    axes.ticklabel_format(axis="x", useOffset=False)


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
