"""Section `diversity`: differences between the networks of an ensemble, in weights and in predictions.

Figure 8 of the paper shows the same filters of many networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.arrays import Arrays, first_kept
from bench.report.layout.captions import Drawing, figure_entry, gap, paper_entry, where
from bench.report.layout.figures import (
    EDGE,
    WIDTH,
    Styles,
    bare,
    blank,
    in_seeds,
    method_names,
    text,
)
from bench.report.layout.tables import Table, networks
from bench.report.rows import (
    PLACE,
    TASK,
    Abouts,
    Material,
    norm_ratio,
    plain,
    summarise,
    trained,
    with_unreachable,
)

NAME = "diversity"
FIGURES = {"weight-norms": "weight-norms", "figure8": "diversity"}
NORMS = ("weight_norm_mean", "weight_norm_sd", "weight_norm_ratio")
DIVERSITY = (
    "disagreement", "pairwise_kl_nats", "double_fault", "weight_distance", "weight_distance_aligned",
    "weight_spread", "weight_cosine",
)  # fmt: skip
SIDE = 5  # filters per side of a panel


def tables(material: Material) -> list[Table]:
    """The tables `weight-norms`, `diversity` and `effective-networks`."""
    rows, abouts = material.rows, material.abouts
    return [
        Table(
            "weight-norms", "Weight 2-norm of each layer over networks",
            "Mean and sd are over the networks of one ensemble; spread of norms is no merit by "
            "itself: read it beside disagreement.",
            weight_norms(rows), TASK, ("method", "members"), ("layer", "metric"), (), NORMS,
        ),
        Table(
            "diversity", "Diversity of the networks",
            "Disagreement is the share of images on which two networks predict differently, mean "
            "over pairs; KL is between their probabilities; double fault is the share that both have wrong. "
            "Distance is that of two networks' weights over their norm, 1.41 where they have nothing in "
            "common; aligned, after scaling and permutation of hidden channels, which change no prediction, "
            "were removed. Spread is sqrt(sum of variances) over the mean network's norm, cosine the mean "
            "between pairs.",
            diversity(rows), TASK, ("method", "members"), ("metric", "layer", "dataset"), (),
            DIVERSITY,
        ),
        Table(
            "effective-networks", "Effective number of networks",
            "How many networks that never agree would be as diverse in their probabilities: 1 where all are "
            "one function (Vendi score of their mean Bhattacharyya coefficients).",
            effective_networks(rows, abouts), PLACE, ("method",), ("members",),
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """The weight norms of every train key, then the stored filters."""
    yield from _weight_norms(part, styles)
    yield from kernels(part)


def weight_norms(rows: pd.DataFrame) -> pd.DataFrame:
    """Each layer's weight 2-norm: mean and sd over networks, and sd/mean, averaged over seeds."""
    norms = plain(rows, NORMS[:2], "diversity")
    return summarise(pd.concat([norms, norm_ratio(norms)], ignore_index=True))


def diversity(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairwise differences of networks, and spread and cosine of each layer's weights, by ensemble size."""
    return summarise(plain(rows, DIVERSITY, "diversity"))


def effective_networks(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Effective number of networks, by ensemble size."""
    return with_unreachable(summarise(plain(rows, ("effective_networks",), "diversity")), rows, abouts)


def _weight_norms(part: Material, styles: Styles) -> Iterator[Drawing]:
    table = weight_norms(part.rows)
    largest = table.groupby(["task", "method"])["members"].transform("max")
    for train, task, frame in trained(table[table["members"] == largest], part.rows):
        caption = (
            "Weight 2-norm of each layer over the networks of the largest ensemble: mean ± sd above (scales "
            "differ between layers), sd/mean below."
        )
        title = f"Weight norms — trained on {where(frame, train)}"
        yield figure_entry("weight-norms", train, frame, caption, task), norms_by_layer(frame, styles, title)


def norms_by_layer(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """Each layer's weight 2-norm over networks: mean ± sd above, sd/mean below, one column per layer.

    frame: the weight-norm table of one preset, device and task, one size per method. Above, every layer has
    its own scale, as norms differ tenfold between layers; below, all share one.
    """
    layers, methods = sorted(set(frame["layer"])), method_names(frame)
    sizes = {str(m): int(n) for m, n in frame.groupby("method")["members"].max().items()}
    width = max(WIDTH, 2.2 + 1.35 * len(layers))
    figure = blank(width, 1.9 + 2 * (0.35 + 0.22 * len(methods)), title, in_seeds(frame))
    grid = figure.subplots(2, len(layers), sharey=True, squeeze=False)
    places = {name: -i for i, name in enumerate(methods)}
    for column, layer in enumerate(layers):
        wide = frame[frame["layer"] == layer].pivot(index="method", columns="metric", values="mean")
        above, below = grid[0][column], grid[1][column]
        for name, item in wide.iterrows():
            style, y = styles[str(name)], places[str(name)]
            drawn = {"color": style.color, "marker": style.marker, **EDGE}
            above.errorbar(item["weight_norm_mean"], y, xerr=item["weight_norm_sd"], capsize=2, **drawn)
            ratio = item.get("weight_norm_ratio", math.nan)
            below.plot([0, ratio], [y, y], color=style.color, linewidth=1)
            below.plot([ratio], [y], linestyle="", **drawn)
            if math.isfinite(ratio):
                below.annotate(
                    f"{ratio:.3f}", (ratio, y), (5, 0), textcoords="offset points", va="center", size=7
                )
        above.set_title(text(layer))
        above.xaxis.set_major_locator(MaxNLocator(3))
        below.xaxis.set_major_locator(MaxNLocator(3))
    _share_from_zero(grid[1], float(frame.loc[frame["metric"] == "weight_norm_ratio", "mean"].max()))
    for axes in grid.flat:
        axes.set_yticks(list(places.values()), [f"{text(m)} · {sizes[m]}" for m in methods])
        axes.set_ylim(-len(methods) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        sns.despine(ax=axes)
    grid[0][0].set_ylabel("method · networks")
    grid[1][0].set_ylabel("method · networks")
    middle = len(layers) // 2
    grid[0][middle].set_xlabel("weight 2-norm, mean ± sd over networks")
    grid[1][middle].set_xlabel("sd/mean of the norm over networks")
    return figure


def _share_from_zero(row: Sequence[Axes], top: float) -> None:
    """A common scale from zero for a row of panels, with room for the number after the last point."""
    for axes in row:
        axes.set_xlim(0, (top if math.isfinite(top) and top > 0 else 1) * 1.5)


def kernels(part: Material) -> Iterator[Drawing]:
    """Figure 8: the same filters of many networks of one ensemble, one panel per filter."""
    norms = plain(part.rows, ("weight_norm_mean",), "diversity")
    # Networks without convolutions have no filters, which is not a gap.
    for train, task, own in trained(norms[norms["layer"].str.startswith("conv")], part.rows):
        caption = (
            "Figure 8: the same two filters of the first two layers in many networks of one ensemble (the "
            "kernel of the first input channel); alike squares are networks that learned alike filters. "
            "Dark is negative, light positive, mid-grey zero, on one scale a panel."
        )
        place = paper_entry(8, own, caption, task, subject=train)
        found = first_kept(part, own, "filters/")
        if found is None:
            yield gap(own, task, train, 8, "filters")
            continue
        line, arrays = found
        count = len(next(iter(arrays.values())))
        note = f"{line['method']} · {count} of {networks(line['members'])} · seed {line['seed']}"
        yield place, _kernels(arrays, f"Figure 8: filters — {where(own, train)}", note)


def _kernels(arrays: Arrays, title: str, note: str) -> Figure:
    """Panels of filters, `filters/<layer>/<index>` -> [M, height, width], side by side."""
    names = sorted(arrays)
    figure = blank(WIDTH * 0.75, 2.3, title, note)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _, layer, index = name.split("/")
        stack = arrays[name][: SIDE * SIDE]
        most = float(np.abs(stack).max()) or 1.0
        scale = 1.25 * most  # the lightest filter stays darker than the gaps
        # `none` stores the pixels in an SVG without resampling.
        whole = mosaic(stack, math.ceil(math.sqrt(len(stack))))
        axes.imshow(whole, cmap="gray", vmin=-scale, vmax=scale, interpolation="none")
        axes.set_title(text(f"{layer}, filter {int(index) + 1}"), size=9)
        axes.set_xlabel(f"weights ± {most:.2g}", size=8)
        bare(axes)
    return figure


def mosaic(stack: np.ndarray, side: int) -> np.ndarray:
    """Filters [M, height, width] in rows of `side`, separated by one blank (NaN) pixel."""
    count, height, width = stack.shape
    rows = -(-count // side)
    whole = np.full((rows * (height + 1) - 1, min(side, count) * (width + 1) - 1), np.nan)
    for i, tile in enumerate(stack):
        top, left = (i // side) * (height + 1), (i % side) * (width + 1)
        whole[top : top + height, left : left + width] = tile
    return whole
