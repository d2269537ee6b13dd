"""Figures 6 to 9 of the paper: HyperGAN's ablations in training, its filters, and images that misfit.

The paper draws them of HyperGAN; where a block has no run of it that kept the arrays, another method
stands in for it, named in the title.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.records import store
from bench.report import figures, tables
from bench.report.figures import Looks, text
from bench.report.pictures import Drawing, Material, paper_picture, trained, where
from bench.report.published import base
from bench.report.sheets import networks

PROPOSED = "hypergan"
ABLATIONS = (PROPOSED, f"{PROPOSED}-no-mixer", f"{PROPOSED}-no-discriminator", f"{PROPOSED}-no-both")
SIDE = 5  # filters along one side of a panel
# A figure of arrays that older runs did not keep: such a run is stale, and done again only when asked.
_AGAIN = " --stale"

Arrays = Mapping[str, np.ndarray]


def ablations(part: Material, looks: Looks) -> Iterator[Drawing]:
    """Figures 6 and 7: accuracy and diversity along training, of HyperGAN and its ablations."""
    frame = tables.traces(part.rows)
    frame = frame[base(frame["method"]).isin(ABLATIONS)]
    for train, task, own in trained(frame, part.rows):
        if "accuracy" not in set(own["metric"]):  # of a regression
            continue
        lacking = [m for m in ABLATIONS if m not in set(base(own["method"]))]
        commands = [_command(own, lacking, task)] if lacking else []
        caption = "Networks drawn along training, evaluated on validation data; mean over seeds." + _same(own)
        accuracy = f"Figure 6: accuracy in training, with and without mixer and discriminator. {caption}"
        diversity = (
            "Figure 7: diversity in training, with and without mixer and discriminator. Left sd/mean over "
            "networks of each layer's weight norm, as the paper has it, which sees lengths only; right "
            "spread, sqrt(sum of variances) over the mean network's norm, which sees directions too. "
            + caption
        )
        title = where(own, train)
        yield (
            paper_picture(6, own, accuracy, task, subject=train, commands=commands),
            figures.training(own, looks, f"Figure 6: accuracy — {title}", ("accuracy_single", "accuracy"), 2),
        )
        norms = ("weight_norm_ratio", "weight_spread")
        yield (
            paper_picture(7, own, diversity, task, subject=train, commands=commands),
            figures.training(own, looks, f"Figure 7: diversity — {title}", norms, 2),
        )


def kernels(part: Material) -> Iterator[Drawing]:
    """Figure 8: the same filters of many networks of one ensemble, a panel a filter."""
    norms = tables.plain(part.rows, ("weight_norm_mean",), "diversity")
    # Networks without convolutions have no filters: that is no gap.
    for train, task, own in trained(norms[norms["layer"].str.startswith("conv")], part.rows):
        caption = (
            "Figure 8: the same two filters of the first two layers in many networks of one ensemble (the "
            "kernel of the first input channel); alike squares are networks that learned alike filters. "
            "Dark is negative, light positive, mid-grey zero, on one scale a panel."
        )
        place = paper_picture(8, own, caption, task, subject=train)
        found = _kept(part, own, "filters/")
        if found is None:
            yield _gap(own, task, train, 8, "filters")
            continue
        line, arrays = found
        count = len(next(iter(arrays.values())))
        note = f"{line['method']} · {count} of {networks(line['members'])} · seed {line['seed']}"
        yield place, _kernels(arrays, f"Figure 8: filters — {where(own, train)}", note)


def misfits(part: Material) -> Iterator[Drawing]:
    """Figure 9: test images of the highest entropy above outliers of the lowest."""
    for task, (inside, outside) in sorted(tables.outlying_sets(part.rows).items()):
        scores = tables.plain(part.rows[part.rows["task"] == task], ("auroc",), "ood")
        largest = scores.groupby("method")["members"].transform("max")
        own = scores[(scores["members"] == largest) & (scores["dataset"] == outside[0])]
        caption = (
            f"Figure 9: images of {inside} to which the ensemble gives the highest predictive entropy, and "
            f"images of {outside[0]} to which it gives the lowest: those that look like the other set. Below "
            "each its entropy and the class predicted (and, within, the true one), numbered from 0."
        )
        found = _kept(part, own, "/{members}/extreme_")
        if found is None:
            yield _gap(own, task, task, 9, "images")
            continue
        line, _ = found
        arrays = store.read_arrays(part.results, line["run"], f"/{line['members']}/")
        rows = [_row(arrays, f"{name}/{line['members']}") for name in (inside, outside[0])]
        note = f"{line['method']} · {networks(line['members'])} · seed {line['seed']}"
        headings = [
            f"in: {inside}, the highest of {rows[0]['of']:,} images",
            f"out: {outside[0]}, the lowest of {rows[1]['of']:,} images",
        ]
        title = f"Figure 9: entropy where it misleads — {where(own, task)}"
        yield paper_picture(9, own, caption, task), _misfits(rows, headings, title, note)


def _same(traces: pd.DataFrame) -> str:
    """Which methods have the same numbers throughout: one's curve hides the other's."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, own in traces.groupby("method"):
        numbers = own.sort_values(["metric", "layer", "epoch"])[["metric", "layer", "epoch", "mean"]]
        alike.setdefault(tuple(numbers.itertuples(index=False, name=None)), []).append(str(name))
    hidden = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return "".join(f" The numbers of {names} are the same: one curve lies on the other." for names in hidden)


def _command(frame: pd.DataFrame, methods: Sequence[str], task: str) -> str:
    return tables.command(methods, [task], str(frame["preset"].iloc[0]), str(frame["device"].iloc[0]))


def _gap(own: pd.DataFrame, task: str, subject: str, number: int, lacks: str) -> Drawing:
    """A place on the page that says which command keeps what a figure needs."""
    methods = sorted(set(base(own["method"])))
    again = _command(own, [PROPOSED] if PROPOSED in methods else methods[:1], task) + _AGAIN
    caption = f"Figure {number} is not drawn: no run of this block kept the {lacks} it shows; this does:"
    return paper_picture(number, own, caption, task, subject=subject, commands=[again]), None


def _kept(
    part: Material, own: pd.DataFrame, name: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The first run whose arrays have such names, with them: the proposed method's, then by name and seed.

    name: a part of the names, with the columns of a line in braces.
    """
    order = own.assign(later=base(own["method"]) != PROPOSED)
    for found in order.sort_values(["later", "method", "seed"], kind="stable").to_dict("records"):
        line = {str(column): value for column, value in found.items()}
        arrays = store.read_arrays(part.results, line["run"], name.format(**line))
        if arrays:
            return line, arrays
    return None


def _kernels(arrays: Arrays, title: str, note: str) -> Figure:
    """Panels of filters, `filters/<layer>/<index>` -> [M, height, width], side by side."""
    names = sorted(arrays)
    figure = figures.blank(figures.WIDTH * 0.75, 2.3, title, note)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _, layer, index = name.split("/")
        stack = arrays[name][: SIDE * SIDE]
        most = float(np.abs(stack).max()) or 1.0
        scale = 1.25 * most  # the lightest filter stays darker than the gaps
        # `none` keeps the pixels in an SVG as they are, instead of resampling them.
        whole = mosaic(stack, math.ceil(math.sqrt(len(stack))))
        axes.imshow(whole, cmap="gray", vmin=-scale, vmax=scale, interpolation="none")
        axes.set_title(text(f"{layer}, filter {int(index) + 1}"), size=9)
        axes.set_xlabel(f"weights ± {most:.2g}", size=8)
        _bare(axes)
    return figure


def mosaic(stack: np.ndarray, side: int) -> np.ndarray:
    """Filters [M, height, width] in rows of `side`, a blank (NaN) pixel between two of them."""
    count, height, width = stack.shape
    rows = -(-count // side)
    whole = np.full((rows * (height + 1) - 1, min(side, count) * (width + 1) - 1), np.nan)
    for i, tile in enumerate(stack):
        top, left = (i // side) * (height + 1), (i % side) * (width + 1)
        whole[top : top + height, left : left + width] = tile
    return whole


def _row(arrays: Arrays, prefix: str) -> dict[str, Any]:
    """Images with their entropies, predictions and labels, and of how many they are the extremes."""
    index = arrays[f"{prefix}/extreme_index"]
    return {
        "images": arrays[f"{prefix}/extreme_image"],
        "entropies": arrays[f"{prefix}/entropy_nats"][index],
        "predictions": arrays[f"{prefix}/prediction"][index],
        "labels": arrays[f"{prefix}/extreme_label"],
        "of": len(arrays[f"{prefix}/entropy_nats"]),
    }


def _misfits(rows: Sequence[Mapping[str, Any]], headings: Sequence[str], title: str, note: str) -> Figure:
    """Two rows of images with their entropy and class; rows: within, then without."""
    figure = figures.blank(figures.WIDTH, 3.3, title, note)
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for i, (band, row, heading) in enumerate(zip(bands, rows, headings, strict=True)):
        band.suptitle(text(heading), size=9)
        panels = band.subplots(1, len(row["images"]), squeeze=False)[0]
        for axes, image, entropy, prediction, label in zip(
            panels, row["images"], row["entropies"], row["predictions"], row["labels"], strict=True
        ):
            shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="none")
            says = f"says {prediction}, is {label}" if i == 0 else f"says {prediction}"
            nats = f"{entropy:.2f}" if entropy >= 0.005 else f"{entropy:.0e}"
            axes.set_xlabel(f"{nats} nats\n{says}", size=8)
            _bare(axes)
    return figure


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
