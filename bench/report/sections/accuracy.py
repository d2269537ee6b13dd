"""Section `accuracy`: accuracy and calibration by number of networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bench.report.layout.captions import BY_SIZE, Drawing, figure_entry, where
from bench.report.layout.figures import (
    EDGE,
    WIDTH,
    Styles,
    blank,
    handle,
    images_of,
    in_seeds,
    legend,
    method_names,
)
from bench.report.layout.tables import Table
from bench.report.rows import (
    PLACE,
    Abouts,
    Material,
    accuracy_by_size,
    notes_on_fits,
    plain,
    shared_fits,
    summarise,
    with_unreachable,
)

NAME = "accuracy"
FIGURES = {"accuracy": "accuracy"}
CALIBRATION = ("nll_nats", "brier", "ece", "adaptive_ece", "aurc")


def tables(material: Material) -> list[Table]:
    """The tables `accuracy` and `calibration`."""
    rows, abouts = material.rows, material.abouts
    accuracy = accuracy_by_size(rows, abouts)
    notes = notes_on_fits(rows, accuracy)
    return [
        Table(
            "accuracy", "Accuracy by ensemble size [%] ↑",
            "1 network is the mean of single networks.",
            accuracy, PLACE, ("method",), ("members",), remarks=notes,
        ),
        Table(
            "calibration", "Calibration", BY_SIZE,
            calibration(rows, abouts), PLACE, ("members", "method"), ("metric",), ("members",), CALIBRATION,
            remarks=notes,
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """One figure per task and data set."""
    table = accuracy_by_size(part.rows, part.abouts)
    for task, own in table.groupby("task", sort=False):
        for dataset, frame in own.groupby("dataset", sort=False):
            subject = str(task) if own["dataset"].nunique() == 1 else f"{task}-{dataset}"
            caption = f"Accuracy on {dataset} by number of networks; bars ± 1 sd over seeds, if several."
            title = f"Accuracy by ensemble size — {where(frame, subject)}"
            yield (
                figure_entry("accuracy", subject, frame, caption, str(task)),
                lines_by_size(frame, styles, title),
            )


def calibration(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Negative log-likelihood (nats), Brier score and calibration error by number of networks, once a fit."""
    rows = shared_fits(rows[rows["evaluation"] == "accuracy"])
    return with_unreachable(summarise(plain(rows, CALIBRATION, "accuracy")), rows, abouts)


def lines_by_size(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """Accuracy (%) by number of networks, one line per method, error bars of one sd over seeds.

    frame: the accuracy table of one preset, device, task and data set. For one network it is the mean
    of single networks.
    """
    frame = frame[frame["mean"].notna()]
    spread = ", bars: ± 1 sd over seeds" if frame["sd"].notna().any() else ""
    figure = blank(WIDTH * 0.75, 3.8, title, f"{images_of(frame)} · {in_seeds(frame)}{spread}")
    axes = figure.add_subplot()
    methods = method_names(frame)
    for i, name in enumerate(methods):
        line = frame[frame["method"] == name].sort_values("members")
        style = styles[name]
        # Shifted slightly: error bars of equal accuracies would hide each other.
        x = line["members"].to_numpy(float) * 1.02 ** (i - (len(methods) - 1) / 2)
        bars = np.nan_to_num(line["sd"].to_numpy(float)) * 100
        axes.errorbar(
            x, line["mean"] * 100, yerr=bars if bars.any() else None, color=style.color, marker=style.marker,
            capsize=2, elinewidth=1, **EDGE,
        )  # fmt: skip
    sizes = sorted({int(n) for n in frame["members"]})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{n:,}" for n in sizes])
    axes.set_xlabel("networks in the ensemble (1: mean of single networks)")
    axes.set_ylabel("accuracy [%]")
    sns.despine(ax=axes)
    legend(figure, [handle(name, styles[name]) for name in methods])
    return figure
