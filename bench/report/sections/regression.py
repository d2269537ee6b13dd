"""Section `regression`: the toy regression, as Figure 2 of the paper for every method, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bench.records import store
from bench.report.arrays import Arrays
from bench.report.data_sets import without_data
from bench.report.layout.captions import BY_SIZE, Drawing, paper_entry, where
from bench.report.layout.figures import (
    COLORS,
    DASHED,
    EDGE,
    LINE,
    VERTICES,
    WIDTH,
    MethodStyle,
    Styles,
    sheet,
    text,
    wrapped,
)
from bench.report.layout.tables import Table
from bench.report.rows import TASK, Material, plain, summarise, with_unreachable

NAME = "regression"
FIGURES = {"figure2": "regression"}
METRICS = (
    "rmse", "log_likelihood_nats", "band_coverage", "band_width", "wasserstein2_to_reference",
)  # fmt: skip
SHOWN_SIZES = 2  # the paper shows 10 and 100 networks
BAND = 3  # standard deviations on either side of the mean; paper, Figure 2
COLUMNS = 3
HEADROOM = 1.6  # upper limit of the axis relative to the reference's largest mean
# Vertices per grid point: two bands, two edges, target, mean, three lines of the reference.
VERTICES_PER_POINT = 10


@dataclass(frozen=True)
class Panel:
    """A method's means and sds on the grid by number of networks, and arrays shared by all panels.

    task: the prefix of the arrays' names; seed: of the run.
    """

    method: str
    task: str
    seed: int
    sizes: tuple[int, ...]
    arrays: Arrays

    def grid(self, quantity: str) -> np.ndarray:
        """An array on the grid, [G] float64."""
        return self.arrays[f"{self.task}:grid/{quantity}"].astype(float)


def tables(material: Material) -> list[Table]:
    """The table `regression`: error, likelihood, band and distance to the reference by number of networks."""
    rows, abouts = material.rows, material.abouts
    frame = with_unreachable(summarise(plain(rows, METRICS, "regression")), rows, abouts)
    note = (
        f"{BY_SIZE}RMSE to the function without noise. The log-likelihood of held-out points is that of the "
        f"mixture of the networks' normal distributions. The band is the mean ± {BAND} sd (ddof = 1) of the "
        "networks' means: coverage of the function, and width. W2 is the Wasserstein-2 distance to the "
        "networks of the posterior (Hamiltonian Monte Carlo), both as normal distributions at each input, "
        "mean over inputs."
    )
    size = ("members", "method")
    columns = ("metric", "dataset")
    return [Table("regression", "Regression", note, frame, TASK, size, columns, ("members",), METRICS)]


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """Figure 2: the band of every method whose curves are stored, one figure per task."""
    found = plain(part.rows, ("band_width",), "regression")
    for task, own in found.groupby("task", sort=True):
        panels = [
            panel
            for _, rows in own.groupby("method", sort=True)
            if (panel := _panel(part, without_data(str(task)), rows)) is not None
        ]
        if not panels:
            continue
        sizes = " and ".join(f"{n:,}" for n in sorted({n for panel in panels for n in panel.sizes}))
        seeds = ", ".join(str(seed) for seed in sorted({panel.seed for panel in panels}))
        points = len(panels[0].arrays[f"{panels[0].task}/x"])
        note = f"{points} points · {sizes} networks · seed {seeds}"
        caption = (
            f"Figure 2: regression of {points} points (black). Dashed the function without noise; in colour "
            f"the mean of a method's networks and ± {BAND} sd of their means, filled for the larger ensemble "
            f"and between thin lines for the smaller one ({sizes} networks, where a method has them); grey "
            f"the same band of the posterior by Hamiltonian Monte Carlo. Preset {own['preset'].iloc[0]}, "
            f"seed {seeds}. The points lie between the dotted lines; curves may leave the frame."
        )
        title = f"Figure 2: regression — {where(own, str(task))}"
        yield paper_entry(2, own, caption, str(task)), partial(bands, panels, styles, title, note)


def _panel(part: Material, task: str, rows: pd.DataFrame) -> Panel | None:
    """A method's curves of its first seed; None if that run has not kept them."""
    first = rows[rows["seed"] == rows["seed"].min()]
    arrays = store.read_arrays(part.results, str(first["run"].iloc[0]))
    sizes = [n for n in sorted({int(n) for n in first["members"]}) if f"{task}:grid/{n}/mean" in arrays]
    if not sizes:
        return None
    method, seed = str(first["method"].iloc[0]), int(first["seed"].iloc[0])
    return Panel(method, task, seed, tuple(sizes[-SHOWN_SIZES:]), arrays)


def bands(panels: list[Panel], styles: Styles, title: str, note: str) -> Figure:
    """One panel per method: target, points, the mean and band of its networks, and the reference's band."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    # Long names take two lines.
    names = {p.method: "\n".join(wrapped(p.method, (WIDTH - 0.6) / columns)) for p in panels}
    lines = max(name.count("\n") + 1 for name in names.values())
    figure, grid = sheet(
        title, note, rows, columns, 0.62, entries=_legend(), left=0.44, between=(0.08, 0.06 + LINE * lines),
        above=LINE * lines, sharex=True, sharey=True,
    )  # fmt: skip
    places = len(panels[0].grid("x"))
    step = math.ceil(len(panels) * places * VERTICES_PER_POINT / VERTICES)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw(axes, panel, styles[panel.method], slice(None, None, step))
        axes.set_title(text(names[panel.method]))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[len(panels) - columns : len(panels)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("x")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    return figure


def _draw(axes: Axes, panel: Panel, style: MethodStyle, kept: slice) -> None:
    x, target = panel.grid("x")[kept], panel.grid("target")[kept]
    points = panel.arrays[f"{panel.task}/x"], panel.arrays[f"{panel.task}/y"]
    mean, sd = panel.grid("reference_mean")[kept], panel.grid("reference_sd")[kept]
    for edge in (mean - BAND * sd, mean + BAND * sd):
        axes.plot(x, edge, color="0.45", linewidth=0.6, zorder=3)
    for size in panel.sizes:
        mean, sd = (panel.grid(f"{size}/{quantity}")[kept] for quantity in ("mean", "sd"))
        low, high = mean - BAND * sd, mean + BAND * sd
        if size == panel.sizes[-1]:
            axes.fill_between(x, low, high, color=style.color, alpha=0.25, linewidth=0, zorder=1)
            axes.plot(x, mean, color=style.color, zorder=4)
        else:
            for edge in (low, high):
                axes.plot(x, edge, color=style.color, linewidth=0.6, linestyle=DASHED, zorder=2)
    axes.plot(x, target, color="black", linewidth=0.7, linestyle=DASHED, zorder=5)
    axes.plot(*points, linestyle="", marker="o", markersize=2, color="black", zorder=6, **EDGE)
    for end in (points[0].min(), points[0].max()):
        axes.axvline(end, color="0.6", linewidth=0.6, linestyle=":", zorder=0)
    # Scaled to the reference, equal in all panels: the target far from the points would flatten the curves.
    top = HEADROOM * float(np.abs(panel.grid("reference_mean")).max())
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(-top, top)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="both"))


def _legend() -> list[Line2D | Patch]:
    grey = "0.45"
    return [
        Line2D([], [], color="black", linewidth=0.7, linestyle=DASHED, label="target"),
        Line2D([], [], color="black", linestyle="", marker="o", markersize=2, label="points"),
        Line2D([], [], color=COLORS[0], label="mean, larger ensemble"),
        Patch(color=COLORS[0], alpha=0.25, linewidth=0, label=f"± {BAND} sd, larger"),
        Line2D([], [], color=COLORS[0], linewidth=0.6, linestyle=DASHED, label=f"± {BAND} sd, smaller"),
        Line2D([], [], color=grey, linewidth=0.6, label=f"posterior (HMC) ± {BAND} sd"),
    ]
