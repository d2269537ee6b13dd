"""Section `shift`: accuracy and calibration on corrupted test images, by corruption and severity.

Ovadia et al. 2019 show accuracy and calibration against the severity of a shift.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from bench.records.schema import METRICS
from bench.report.arrays import Arrays, first_kept
from bench.report.layout.captions import (
    BY_SIZE,
    INTERVALS,
    OVER_SEEDS,
    Drawing,
    figure_entry,
    numbered,
    where,
)
from bench.report.layout.figures import (
    LINE,
    Styles,
    bare,
    curve,
    handle,
    images_of,
    in_seeds,
    method_names,
    sheet,
    subsets,
)
from bench.report.layout.tables import Table, heading, networks
from bench.report.rows import (
    GROUP,
    PLACE,
    Material,
    ordered,
    summarise,
    with_intervals,
    with_unreachable,
)

NAME = "shift"
FIGURES = {"shift": "shift"}
SHIFT = (*GROUP, "corruption", "severity")
MEASURED = ("accuracy", "nll_nats", "ece", "entropy_nats", "aurc")
DRAWN = ("accuracy", "nll_nats", "ece", "entropy_nats")
CLEAN, ALL = "clean", "all corruptions"  # columns of the table, beside the corruptions
APART = 0.05  # between neighbouring methods, in severities
COLUMNS = 2  # panels side by side
# Of NLL's square-root scale: a few confident errors reach tens of nats.
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
TICKS_APART = 0.15  # of the height
_IMAGES = (
    "Test images are rotated (up to 180 degrees), translated (cyclically), given Gaussian noise, blurred, "
    "reduced in contrast or covered by a grey square; all methods and seeds see the same corrupted images. "
    "Strengths are in bench/task.py (`ShiftScale`); severity 0 is the clean image. "
)
_MEANS = _IMAGES + "Means over severities 1 to {most}. " + BY_SIZE
_BY_SEVERITY = _IMAGES + (
    "Of the ensemble size that most methods have, the largest of these; methods without it are missing."
)


def tables(material: Material) -> list[Table]:
    """The tables `shift` (means over severities) and `shift-severity`."""
    rows = shifted(material.rows)
    names = [*dict.fromkeys(rows["corruption"])]
    most = 0 if rows.empty else int(rows["severity"].max())
    return [
        Table(
            "shift", "Under shift", _MEANS.format(most=most),
            with_unreachable(over_severities(rows), material.rows, material.abouts, ("corruption",)),
            (*PLACE, "metric"), ("members", "method"), ("corruption",), ("members",), (CLEAN, ALL, *names),
        ),
        Table(
            "shift-severity", "Under shift, by severity", _BY_SEVERITY, shared(by_severity(rows)),
            (*PLACE, "corruption"), ("severity", "members", "method"), ("metric",), ("severity",), MEASURED,
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """One figure per task, data set and metric, with a panel for each corruption."""
    rows = shifted(part.rows)
    names = [*dict.fromkeys(rows["corruption"])]
    for (task, dataset), own in shared(by_severity(rows)).groupby(["task", "dataset"], sort=False):
        there = rows[(rows["task"] == task) & (rows["dataset"] == dataset)]
        kept = first_kept(part, there, "shift/")
        omitted = sorted(set(there["method"]) - set(own["method"]))
        subject = (
            str(task) if rows.loc[rows["task"] == task, "dataset"].nunique() == 1 else f"{task}-{dataset}"
        )
        for metric in DRAWN:
            frame = own[own["metric"] == metric]
            caption = (
                f"{heading(metric)} of {networks(frame['members'].iloc[0])}, the ensemble size that most "
                f"methods have, on {dataset} by severity of the corruption (0: clean images); "
                f"{INTERVALS if metric == 'accuracy' else OVER_SEEDS}."
            )
            caption += " Above each panel the first test image at every severity." if kept else ""
            caption += f" Without this size: {', '.join(omitted)}." if omitted else ""
            shown = {} if kept is None else {k: v for k, v in kept[1].items() if k.startswith("shift/")}
            for place, methods in numbered(subsets(frame["method"])):
                title = f"Under shift: {heading(metric, unit=False)}{place.words} — {where(frame, subject)}"
                name = place.name(f"{subject}-{METRICS[metric].heading.lower()}")
                # Of the means: an interval over two seeds may be far wider than the range of the metric.
                top = 1.0 if metric == "accuracy" else float(frame["mean"].max())
                drawn = frame[frame["method"].isin(methods)]
                yield (
                    figure_entry("shift", name, frame, caption, str(task)),
                    partial(panels, drawn, names, shown, styles, title, top),
                )


def shifted(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the evaluation, those of clean images repeated as severity 0 of every corruption."""
    found = rows[(rows["evaluation"] == "shift") & rows["value"].notna()]
    clean, others = found[found["severity"] == 0], found[found["severity"] > 0]
    repeated = [clean.assign(corruption=name) for name in dict.fromkeys(others["corruption"])]
    return pd.concat([others, *repeated], ignore_index=True)


def by_severity(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by corruption and severity."""
    return summarise(rows, SHIFT)


def over_severities(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over severities and seeds, by corruption and over all corruptions, and of clean images."""
    if rows.empty:
        return summarise(rows, (*GROUP, "corruption"))
    clean = rows[(rows["severity"] == 0) & (rows["corruption"] == rows["corruption"].iloc[0])]
    hit = rows[rows["severity"] > 0]
    parts = [clean.assign(corruption=CLEAN)]
    for part in (hit, hit.assign(corruption=ALL)):
        keys = [*GROUP, "corruption", "seed", "unit"]
        means = part.groupby(keys, dropna=False, sort=False).agg(
            value=("value", "mean"), examples=("examples", "max")
        )
        parts.append(means.reset_index())
    return summarise(pd.concat(parts, ignore_index=True), (*GROUP, "corruption"))


def shared(frame: pd.DataFrame) -> pd.DataFrame:
    """The lines of one ensemble size per place: the one that most methods have, the largest of these."""
    counts = frame.groupby([*PLACE, "members"])["method"].nunique().reset_index(name="methods")
    counts = counts.sort_values(["methods", "members"], kind="stable")
    chosen = counts.drop_duplicates(list(PLACE), keep="last")[[*PLACE, "members"]]
    return ordered(frame.merge(chosen, on=[*PLACE, "members"]), SHIFT[1:])


def panels(
    frame: pd.DataFrame, names: Sequence[str], shown: Arrays, styles: Styles, title: str, top: float
) -> Figure:
    """One metric over severity: a panel for each corruption, below images of it, one line per method.

    frame: lines of one place, size and metric. shown: images by `shift/<corruption>`, [severities, C, H, W].
    top: the end of the axis, in the unit of rows.
    """
    metric = str(frame["metric"].iloc[0])
    count = networks(frame["members"].iloc[0])
    lines = math.ceil(len(names) / COLUMNS)
    scale = ", square-root scale" if metric == "nll_nats" else ""
    figure, grid = sheet(
        title, f"{count} · {images_of(frame)} · {in_seeds(frame)} · {heading(metric)}{scale}", 2 * lines,
        COLUMNS, [0.28 if shown else 0.02, 0.85] * lines, sharex=True, above=LINE, between=(0.1, 0.16),
        entries=[handle(name, styles[name]) for name in method_names(frame)],
    )  # fmt: skip
    plots, strips = grid[1::2].ravel(), grid[::2].ravel()
    for axes, strip, name in zip(plots, strips, names, strict=False):
        strip.set_title(name)
        _images(strip, shown.get(f"shift/{name}"))
        _curves(axes, frame[frame["corruption"] == name], styles)
        axes.sharey(plots[0])
    for axes in (*strips[len(names) :], *plots[len(names) :]):
        axes.set_visible(False)
    for line in grid[1::2]:
        line[0].set_ylabel(heading(metric, unit=True))
        line[-1].tick_params(labelleft=False)
    severities = sorted(set(frame["severity"]))
    plots[0].xaxis.set_major_locator(FixedLocator(severities))
    plots[0].set_xlim(severities[0] - 0.5, severities[-1] + 0.5)
    top *= METRICS[metric].factor
    if metric == "nll_nats":
        plots[0].set_yscale("function", functions=(_root, np.square))
        plots[0].yaxis.set_major_locator(FixedLocator(_ticks(top)))
        plots[0].yaxis.set_major_formatter("{x:g}")
    plots[0].set_ylim(0, 1.06 * top)
    for axes in grid[-1]:
        axes.set_xlabel("severity")
    return figure


def _ticks(top: float) -> list[float]:
    """Ticks of a square-root scale from 0 to `top`, far enough apart to be read."""
    found = [0.0]
    for tick in TICKS:
        if tick <= top and math.sqrt(tick) - math.sqrt(found[-1]) >= TICKS_APART * math.sqrt(top):
            found.append(tick)
    return found


def _curves(axes: Axes, frame: pd.DataFrame, styles: Styles) -> None:
    """One line per method with its intervals, methods shifted slightly to keep bars apart."""
    methods = method_names(frame)
    for i, name in enumerate(methods):
        own = frame[frame["method"] == name].sort_values("severity")
        x = own["severity"].to_numpy(float) + APART * (i - (len(methods) - 1) / 2)
        metric = str(own["metric"].iloc[0])
        # Over images only of accuracy: the maximum of an entropy is not known here.
        known = own if metric == "accuracy" else own.assign(examples=0)
        curve(axes, x, *with_intervals(known, METRICS[metric].factor), styles[name], markersize=3)


def _root(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square root; of what lies below 0, as the lower end of an interval may, 0."""
    return np.sqrt(np.maximum(values, 0))


def _images(axes: Axes, images: np.ndarray | None) -> None:
    """Images [S, C, H, W] in 256 levels side by side, each above its severity."""
    bare(axes)
    axes.spines[:].set_visible(False)
    for severity, image in enumerate(() if images is None else images):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        place = (severity - 0.45, severity + 0.45, 0, 0.9)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="none", extent=place, aspect="auto")
    axes.set_ylim(0, 0.9)
