"""Section `accuracy`: accuracy and calibration by number of networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bench.report.layout.captions import BY_SIZE, INTERVALS, Drawing, figure_entry, where
from bench.report.layout.figures import (
    Styles,
    around,
    curve,
    handle,
    images_of,
    in_seeds,
    sheet,
    subsets,
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
    with_intervals,
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
            caption = f"Accuracy on {dataset} by number of networks; {INTERVALS}."
            title = f"Accuracy by ensemble size — {where(frame, subject)}"
            yield (
                figure_entry("accuracy", subject, frame, caption, str(task)),
                partial(lines_by_size, frame, styles, title),
            )


def calibration(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Negative log-likelihood (nats), Brier score and calibration error by number of networks, once a fit."""
    rows = shared_fits(rows[rows["evaluation"] == "accuracy"])
    return with_unreachable(summarise(plain(rows, CALIBRATION, "accuracy")), rows, abouts)


def lines_by_size(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """Accuracy (%) by number of networks: one line per method with its intervals, one panel per subset.

    frame: the accuracy table of one preset, device, task and data set. For one network it is the mean
    of single networks.
    """
    frame = frame[frame["mean"].notna()]
    parts = subsets(frame["method"])
    names = list(dict.fromkeys(name for part in parts for name in part))
    note = f"{images_of(frame)} · {in_seeds(frame)} · bars: 95 % · 1 network: mean of single ones"
    figure, grid = sheet(
        title, note, len(parts), 1, 1.6, sharex=True,
        entries=[handle(name, styles[name]) for name in names],
    )  # fmt: skip
    for axes, methods in zip(grid[:, 0], parts, strict=True):
        shown = frame[frame["method"].isin(methods)]
        for i, name in enumerate(methods):
            line = shown[shown["method"] == name].sort_values("members")
            # Shifted slightly: bars of equal accuracies would hide each other.
            x = line["members"].to_numpy(float) * 1.04 ** (i - (len(methods) - 1) / 2)
            curve(axes, x, *with_intervals(line, 100), styles[name])
        around(axes, *with_intervals(shown, 100), (0, 100))
        axes.set_ylabel("accuracy [%]")
    sizes = sorted({int(n) for n in frame["members"]})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.set_xlabel("networks in the ensemble, logarithmic scale")
    return figure
