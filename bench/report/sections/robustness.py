"""Section `robustness`: robust accuracy and detection under each attack and under the worst of all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.report import flags
from bench.report.layout.captions import Drawing, figure_entry, where
from bench.report.layout.figures import EDGE, LETTER, LINE, Styles, handle, images_of, in_seeds, sheet
from bench.report.layout.tables import Table
from bench.report.rows import ATTACK, PLACE, Material, ordered, summarise, with_intervals

NAME = "robustness"
FIGURES = {"robustness": "robustness"}
# From the strongest to the controls; an unknown attack comes before these.
ORDER = (
    flags.WORST, "apgd-t", "apgd-ce", "fab", "square-mixture", "apgd-eot", "apgd-margin", "eot", "margin",
    "low-entropy", "low-entropy-targeted", "pgd", "fgsm", "square", "noise",
)  # fmt: skip
# Metric with the images that count, by column.
_COLUMNS = (
    ("robust_accuracy", "fused"), ("robust_accuracy", "mixture"), ("evasion_rate", "fused"),
    ("detected_share", "fused"),
)  # fmt: skip
_TABLE = (
    "Of all images, the share classified correctly before and after each attack, by the attacked networks "
    "(own) and by as many fresh ones: by mean logits (fused) and by the mean probability (mixture), which "
    "apgd-ce, apgd-t, fab and square-mixture attack. worst: right under every attack of this epsilon, "
    "image by image; its evasion counts images that some attack gets past the detector, and its detected "
    "share the images fooled by some attack of which every fooling version is detected. A claim of detection "
    "counts only against the worst. Evasion: wrong by mean logits and not detected, of the images classified "
    "correctly before; detected: of the images that fool, entropy above the threshold that rejects 5 % of "
    "clean validation images. † is flagged."
)
PANELS = 3  # side by side
# Hollow markers are larger: where both coincide, both are seen.
_SIZES = {"own": 4.5, "": 2.5}


def tables(material: Material) -> list[Table]:
    """The table `robustness`."""
    frame = means(material.rows)
    lines = ("epsilon", "crafted_members", "attack", "method")
    first = (*dict.fromkeys(metric for metric, _ in _COLUMNS), "own", "")
    return [
        Table(
            "robustness", "Robust accuracy ↑ under each attack, and under the worst of all", _TABLE, frame,
            PLACE, lines, ("metric", "success", "variant"), lines[:-1], first,
        )
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """Robust accuracy by attack, one figure per task of a block."""
    whole = means(part.rows)
    for name, frame in whole[whole["metric"] == "robust_accuracy"].groupby("task", sort=True):
        task = str(name)
        caption = (
            "Robust accuracy under each attack and under the worst of all, image by image: of all images, "
            "the share that the mean logits classify correctly before and after. Solid: as many fresh "
            "networks; hollow: the attacked ones. One panel per epsilon; attacks from the strongest to the "
            "controls. Lines: 95 % intervals, over seeds if several (t), otherwise over images."
        )
        title = f"Robust accuracy — {where(frame, task)}"
        yield figure_entry(NAME, task, frame, caption, task), partial(robustness, frame, styles, title)


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds at the sizes at which the worst over all attacks was taken, with flags.

    variant: `own` for the attacked networks, empty for fresh ones.
    """
    found = rows[rows["evaluation"].isin(("attack", "adaptive")) & rows["value"].notna()]
    pairs = zip(found["metric"].tolist(), found["success"].tolist(), strict=True)
    found = found[np.array([pair in _COLUMNS for pair in pairs], dtype=bool)]
    found = found[found["members"] == found["crafted_members"]]
    found = found[~found["attack"].isin(flags.STOPPED)]  # not a measure of robustness
    place = [*PLACE, "method", "crafted_members"]
    found = found.merge(found.loc[found["attack"] == flags.WORST, place].drop_duplicates(), on=place)
    kept = {"same": "own", "fresh": "", "adaptive": ""}
    found = found[found["variant"].isin(tuple(kept))]
    frame = summarise(found.assign(variant=found["variant"].map(kept)), ATTACK)
    frame = frame.astype({"crafted_members": "Int64", "epsilon": "float64"})
    frame = flags.marked(frame, flags.find(rows))
    others = sorted(set(frame["attack"]) - set(ORDER))
    kinds = pd.Categorical(frame["attack"], [*others, *ORDER], ordered=True)
    return ordered(frame.assign(attack=kinds), [*PLACE[1:], "epsilon", "attack"])


def robustness(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """One panel per epsilon: robust accuracy by mean logits, attacks below each other.

    frame: lines of `means` of one block and task.
    """
    frame = frame[frame["success"] == "fused"]
    kinds = [k for k in frame["attack"].cat.categories if (frame["attack"] == k).any()]
    names, epsilons = sorted(set(frame["method"])), sorted(set(frame["epsilon"]))
    note = f"{images_of(frame)} · {in_seeds(frame)} · lines: 95 %"
    columns = min(len(epsilons), PANELS)
    deep = math.ceil(len(epsilons) / columns)
    grey: dict[str, Any] = {"color": "0.3", "marker": "o", "linestyle": ""}
    keys = [
        Line2D([], [], label="fresh networks", **grey, **EDGE),
        Line2D([], [], label="attacked networks", **grey, markerfacecolor="white", markeredgecolor="0.3"),
    ]
    figure, grid = sheet(
        title, note, deep, columns, (0.1 + 0.06 * len(names)) * len(kinds), sharex=True, sharey=True,
        left=0.14 + LETTER * max(map(len, kinds)), above=LINE, between=(0.1, 0.12 + LINE),
        entries=[*(handle(name, styles[name], linestyle="") for name in names), *keys],
    )  # fmt: skip
    for axes in grid.flatten()[len(epsilons) :]:
        axes.remove()
    height = {kind: i for i, kind in enumerate(kinds)}
    for axes, epsilon in zip(grid.flat, epsilons, strict=False):
        own = frame[frame["epsilon"] == epsilon]
        for i, name in enumerate(names):
            shift = 0.7 * ((i + 0.5) / len(names) - 0.5)
            for variant, part in own[own["method"] == name].groupby("variant", sort=True):
                color = styles[name].color
                hollow = {"markerfacecolor": "white", "markeredgecolor": color} if variant == "own" else EDGE
                y = np.array([height[kind] for kind in part["attack"]]) + shift
                mean, ends = with_intervals(part, 100)
                axes.hlines(y, *ends, color=color, linewidth=0.7, zorder=1.6)
                axes.plot(
                    mean, y, color=color, marker=styles[name].marker, linestyle="",
                    markersize=_SIZES[str(variant)], **hollow,
                )  # fmt: skip
        axes.axhspan(height[flags.WORST] - 0.5, height[flags.WORST] + 0.5, color="0.93", zorder=0)
        axes.set_title(f"epsilon {epsilon:g}")
        axes.set_xlim(-6, 106)
        axes.grid(axis="x")
    grid[0, 0].set_yticks(range(len(kinds)), kinds)
    grid[0, 0].set_ylim(len(kinds) - 0.5, -0.5)
    grid[-1, columns // 2 if len(epsilons) % columns == 0 else 0].set_xlabel("robust accuracy [%]")
    return figure
