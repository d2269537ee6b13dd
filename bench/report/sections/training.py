"""Section `training`: traces during training; Figures 6 and 7 of the paper, HyperGAN's ablations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bench.report.layout.captions import Drawing, command_for, figure_entry, paper_entry, where
from bench.report.layout.figures import (
    LINE,
    Styles,
    around,
    curve,
    handle,
    images_of,
    in_seeds,
    sheet,
    subsets,
    text,
)
from bench.report.layout.tables import Table, heading
from bench.report.published import JUDGED, PROPOSED, family
from bench.report.rows import (
    GROUP,
    TASK,
    Material,
    norm_ratio,
    summarise,
    trained,
    with_intervals,
    without_configuration,
)

NAME = "training"
_BANDS = (
    "Bands are 95 % intervals, over seeds if several (t), otherwise of accuracy and disagreement over images."
)
FIGURES = dict.fromkeys(("training", "figure6", "figure7"), "diversity")
TRACE = ("accuracy_single", "accuracy", "disagreement", "weight_norm_ratio", "weight_spread")
MOST = 3  # panels side by side
_TRACED = {
    "accuracy_single": "accuracy, one network [%]",
    "accuracy": "accuracy, ensemble [%]",
    "disagreement": heading("disagreement"),
    "weight_norm_ratio": "sd/mean of norm",
    "weight_spread": "spread",
}


def tables(material: Material) -> list[Table]:
    """No table: traces are shown in figures."""
    return []


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """The traces of every train key, then of HyperGAN and its ablations."""
    yield from _training(part, styles)
    yield from ablations(part, styles)


def traces(rows: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy, disagreement, sd/mean of the weight norms and spread by round of training.

    Accuracy of one network (`accuracy_single`) is separate from that of the ensemble; if a
    method was traced with several numbers of networks, the largest counts.
    """
    trace = rows[(rows["evaluation"] == "trace") & rows["epoch"].notna() & rows["value"].notna()]
    trace = pd.concat([trace, norm_ratio(trace)], ignore_index=True)
    single = (trace["metric"] == "accuracy") & (trace["members"] == 1)
    trace = trace.assign(metric=trace["metric"].mask(single, "accuracy_single"))
    trace = trace[trace["metric"].isin(TRACE)]
    largest = trace.groupby([*TASK, "method", "metric"])["members"].transform("max")
    return summarise(trace[trace["members"] == largest], (*GROUP, "epoch"))


def _training(part: Material, styles: Styles) -> Iterator[Drawing]:
    for train, task, frame in trained(traces(part.rows), part.rows):
        caption = (
            "Accuracy, disagreement and sd/mean of each layer's weight norm along training, of networks "
            f"drawn after a round and evaluated on validation data; mean over seeds. {_BANDS}"
        )
        title = f"Training — {where(frame, train)}"
        yield figure_entry("training", train, frame, caption, task), partial(curves, frame, styles, title)


def ablations(part: Material, styles: Styles) -> Iterator[Drawing]:
    """Figures 6 and 7: accuracy and diversity during training, of each HyperGAN traced and its ablations."""
    frame = traces(part.rows)
    base = without_configuration(frame["method"])
    for method in JUDGED:
        for train, task, own in trained(frame[base.isin(family(method))], part.rows):
            if "accuracy" in set(own["metric"]):  # not a regression
                yield from _ablated(own, method, train, task, styles)


def _ablated(own: pd.DataFrame, method: str, train: str, task: str, styles: Styles) -> Iterator[Drawing]:
    """Figures 6 and 7 of one HyperGAN on one train key; own: its traces and those of its ablations."""
    lacking = [m for m in family(method) if m not in set(without_configuration(own["method"]))]
    subject = train + method.removeprefix(PROPOSED)
    commands = [command_for(own, lacking, task)] if lacking else []
    caption = f"Networks drawn along training, evaluated on validation data; mean over seeds. {_BANDS}"
    caption += hidden_curves(own)
    ablated = "in training, with and without mixer and discriminator."
    accuracy = f"Figure 6: accuracy of {method} {ablated} {caption}"
    diversity = (
        f"Figure 7: diversity of {method} {ablated} Left sd/mean over networks of each layer's weight norm, "
        "as the paper has it, which sees lengths only; right spread, sqrt(sum of variances) over the mean "
        f"network's norm, which sees directions too. {caption}"
    )
    title = where(own, train)
    yield (
        paper_entry(6, own, accuracy, task, subject=subject, commands=commands),
        partial(curves, own, styles, f"Figure 6: accuracy — {title}", ("accuracy_single", "accuracy")),
    )
    norms = ("weight_norm_ratio", "weight_spread")
    yield (
        paper_entry(7, own, diversity, task, subject=subject, commands=commands),
        partial(curves, own, styles, f"Figure 7: diversity — {title}", norms),
    )


def hidden_curves(traces: pd.DataFrame) -> str:
    """Sentences on methods with equal numbers in all rounds, whose curves hide each other."""
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, own in traces.groupby("method"):
        numbers = own.sort_values(["metric", "layer", "epoch"])[["metric", "layer", "epoch", "mean"]]
        alike.setdefault(tuple(numbers.itertuples(index=False, name=None)), []).append(str(name))
    hidden = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return "".join(f" The numbers of {names} are the same: one curve lies on the other." for names in hidden)


def curves(
    frame: pd.DataFrame,
    styles: Styles,
    title: str,
    metrics: Sequence[str] = ("accuracy_single", "accuracy", "disagreement", "weight_norm_ratio"),
) -> Figure:
    """Traces along training: one panel per metric (and layer) and subset of the methods.

    frame: the traces of one preset, device and task. metrics: those shown, grouped by layer. Panels of one
    metric stand in a row and share its axis; of one subset alone, two metrics stand in a row.
    """
    place = {metric: i for i, metric in enumerate(metrics)}
    frame, along = _along(frame[frame["metric"].isin(metrics)])
    held = set(zip(frame["metric"], frame["layer"], strict=True))
    wanted = sorted(held, key=lambda p: (p[1], place[p[0]]))
    parts = subsets(frame["method"])
    columns = 2 if len(parts) == 1 else min(MOST, len(parts))
    cells = [
        [(metric, layer, part) for part in parts[start : start + columns]]
        for metric, layer in wanted
        for start in range(0, len(parts), columns)
    ]
    if len(parts) == 1:
        every = [line[0] for line in cells]
        cells = [every[start : start + columns] for start in range(0, len(every), columns)]
    handles, note = _named(frame, parts, styles)
    figure, grid = sheet(
        title, note, len(cells), columns, 0.8, entries=handles, sharex=True, left=0.4, above=LINE,
        between=(0.32 if len(parts) == 1 else 0.1, 0.12 + LINE), naming="method · networks",
    )  # fmt: skip
    for row, line in zip(grid, cells, strict=True):
        for axes, (metric, layer, methods) in zip(row, line, strict=False):
            _traced(axes, frame[(frame["metric"] == metric) & (frame["layer"] == layer)], methods, styles)
            if len(parts) == 1 or axes is row[0]:
                axes.set_title(text(f"{layer}: {_TRACED[metric]}") if layer else _TRACED[metric], loc="left")
            axes.tick_params(labelleft=len(parts) == 1 or axes is row[0])
        for spare in row[len(line) :]:
            spare.set_axis_off()
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
    for column in grid.T:
        last = [axes for axes in column if axes.axison][-1]
        last.tick_params(labelbottom=True)
        last.set_xlabel(along)
    return figure


def _along(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The frame with the column `along` for the horizontal axis, and its label.

    Rounds if all methods take equally many, otherwise the share of a method's rounds: those of different
    methods are epochs, draws of a chain or networks one after the other, which do not compare.
    """
    last = frame.groupby("method")["epoch"].transform("max")
    if last.nunique() == 1:
        return frame.assign(along=frame["epoch"]), "round of training"
    return frame.assign(along=100 * frame["epoch"].astype(float) / last.astype(float)), "rounds done [%]"


def _traced(axes: Axes, frame: pd.DataFrame, methods: Sequence[str], styles: Styles) -> None:
    """One panel: the lines of these methods, on the scale of all methods of the frame."""
    shares = frame["layer"].iloc[0] == ""
    factor, limits = (100.0, (0.0, 100.0)) if shares else (1.0, (0.0, math.inf))
    for name in methods:
        line = frame[frame["method"] == name].sort_values("epoch")
        curve(
            axes, line["along"].to_numpy(float), *with_intervals(line, factor), styles[name], band=True,
            markersize=3, markevery=max(1, len(line) // 5),
        )  # fmt: skip
    around(axes, *with_intervals(frame, factor), limits)
    axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))


def _named(frame: pd.DataFrame, parts: Sequence[Sequence[str]], styles: Styles) -> tuple[list[Line2D], str]:
    """The legend, each method with the networks that were drawn, and the note of a figure of traces."""
    drawn = frame[frame["metric"] != "accuracy_single"].groupby("method")["members"].max()
    sizes = sorted({int(n) for n in drawn})
    told = f"ensembles of {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"ensembles of {sizes[0]}"
    seen = f" · {images_of(frame)} of validation data" if frame["examples"].notna().any() else ""
    handles = [
        handle(name, styles[name], f"{name} · {int(drawn[name]):,}" if name in drawn else name)
        for name in dict.fromkeys(name for part in parts for name in part)
    ]
    return handles, f"{told} networks{seen} · {in_seeds(frame)}"
