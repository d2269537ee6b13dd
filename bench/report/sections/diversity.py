"""Section `diversity`: differences between the networks of an ensemble, in weights and in predictions.

Figure 8 of the paper shows the same filters of many networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.arrays import Arrays, first_kept
from bench.report.layout.captions import Drawing, figure_entry, gap, paper_entry, where
from bench.report.layout.figures import (
    EDGE,
    LETTER,
    LINE,
    Styles,
    bare,
    in_seeds,
    method_names,
    sheet,
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
from bench.report.uncertainty import variation_interval

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
            "Weight 2-norm of each layer over the networks of the largest ensemble, one row per layer: left "
            "mean ± sd over networks, right sd/mean, which alone compares between layers; mean over seeds, "
            "bars of sd/mean are 95 % intervals over seeds (t), of one seed over networks (normal norms)."
        )
        title = f"Weight norms — trained on {where(frame, train)}"
        yield (
            figure_entry("weight-norms", train, frame, caption, task),
            partial(norms_by_layer, frame, styles, title),
        )


def norms_by_layer(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """Each layer's weight 2-norm over networks: mean ± sd left, sd/mean right, one row per layer.

    frame: the weight-norm table of one preset, device and task, one size per method. Left, every layer has
    its own scale, as norms differ tenfold between layers; right, all share one.
    """
    layers, methods = sorted(set(frame["layer"])), method_names(frame)
    sizes = {str(m): int(n) for m, n in frame.groupby("method")["members"].max().items()}
    names = [text(f"{name} · {sizes[name]}") for name in methods]
    figure, grid = sheet(
        title, f"{in_seeds(frame)} · method · networks · 2-norm over networks", len(layers), 2,
        0.06 + 0.125 * len(methods), left=0.14 + LETTER * max(map(len, names)),
        between=(0.24, 0.1 + 3 * LINE), above=2 * LINE, below=0.2, sharey=True,
    )  # fmt: skip
    ratios = frame[frame["metric"] == "weight_norm_ratio"]
    most = float(ratios["mean"].max())
    for line, layer in zip(grid, layers, strict=True):
        own = frame[frame["layer"] == layer].set_index(["metric", "method"])
        for place, name in enumerate(methods):
            drawn = {"color": styles[name].color, "marker": styles[name].marker, **EDGE}
            mean, sd = (own["mean"].get((f"weight_norm_{q}", name), math.nan) for q in ("mean", "sd"))
            line[0].plot([mean - sd, mean + sd], [place, place], color=styles[name].color, linewidth=1)
            line[0].plot([mean], [place], linestyle="", **drawn)
            if ("weight_norm_ratio", name) not in own.index:
                continue
            item = own.loc[("weight_norm_ratio", name)]
            ratio, low, high = (float(item[c]) for c in ("mean", "low", "high"))
            if item["seeds"] == 1 and sizes[name] > 1 and ratio >= 0:
                low, high = variation_interval(ratio, sizes[name])
            line[1].plot([low, high], [place, place], color=styles[name].color, linewidth=1)
            line[1].plot([ratio], [place], linestyle="", **drawn)
        line[0].set_title(text(f"{layer}\nmean ± sd"))
        line[1].set_title(text(f"{layer}\nsd/mean, 95 %"))
        line[1].set_xlim(0, (most if math.isfinite(most) and most > 0 else 1) * 1.25)
        for axes in line:
            axes.xaxis.set_major_locator(MaxNLocator(2))
            axes.grid(axis="x")
    grid[0][0].set_yticks(range(len(methods)), names)
    grid[0][0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


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
        yield place, partial(_kernels, arrays, f"Figure 8: filters — {where(own, train)}", note)


def _kernels(arrays: Arrays, title: str, note: str) -> Figure:
    """Panels of filters, `filters/<layer>/<index>` -> [M, height, width], side by side."""
    names = sorted(arrays)
    columns = 2 if len(names) % 2 == 0 else 1
    figure, grid = sheet(
        title, note, len(names) // columns, columns, 1.4, left=0.1, right=0.1, above=LINE, below=0.2,
        between=(0.12, 0.42),
    )  # fmt: skip
    for axes, name in zip(grid.flat, names, strict=True):
        _, layer, index = name.split("/")
        stack = arrays[name][: SIDE * SIDE]
        most = float(np.abs(stack).max()) or 1.0
        scale = 1.25 * most  # the lightest filter stays darker than the gaps
        # `none` stores the pixels in an SVG without resampling.
        whole = mosaic(stack, math.ceil(math.sqrt(len(stack))))
        axes.imshow(whole, cmap="gray", vmin=-scale, vmax=scale, interpolation="none")
        axes.set_title(text(f"{layer}, filter {int(index) + 1}"))
        axes.set_xlabel(f"dark −{most:.2g}, light +{most:.2g}")
        axes.xaxis.set_label_coords(0.5, -0.03)
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
