"""Section `training`: traces during training; Figures 6 and 7 of the paper, HyperGAN's ablations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.layout.captions import Drawing, command_for, figure_entry, paper_entry, where
from bench.report.layout.figures import (
    EDGE,
    LINES,
    WIDTH,
    Styles,
    blank,
    handle,
    images_of,
    in_seeds,
    legend,
    method_names,
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
    without_configuration,
)

NAME = "training"
FIGURES = dict.fromkeys(("training", "figure6", "figure7"), "diversity")
TRACE = ("accuracy_single", "accuracy", "disagreement", "weight_norm_ratio", "weight_spread")
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
            "drawn after a round and evaluated on validation data; mean over seeds."
        )
        title = f"Training — {where(frame, train)}"
        yield figure_entry("training", train, frame, caption, task), curves(frame, styles, title)


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
    caption = "Networks drawn along training, evaluated on validation data; mean over seeds."
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
        curves(own, styles, f"Figure 6: accuracy — {title}", ("accuracy_single", "accuracy"), 2),
    )
    norms = ("weight_norm_ratio", "weight_spread")
    yield (
        paper_entry(7, own, diversity, task, subject=subject, commands=commands),
        curves(own, styles, f"Figure 7: diversity — {title}", norms, 2),
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
    columns: int = 3,
) -> Figure:
    """Traces by round of training, one panel per metric (and layer), one line per method.

    frame: the traces of one preset, device and task. metrics: those shown, grouped by layer.
    """
    place = {metric: i for i, metric in enumerate(metrics)}
    held = set(zip(frame["metric"], frame["layer"], strict=True))
    wanted = sorted((p for p in held if p[0] in place), key=lambda p: (p[1], place[p[0]]))
    columns = min(columns, len(wanted))
    rows = math.ceil(len(wanted) / columns)
    drawn_of = frame[frame["metric"] != "accuracy_single"].groupby("method")["members"].max()
    sizes = sorted({int(n) for n in drawn_of})
    drawn = f"ensembles of {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"ensembles of {sizes[0]}"
    seen = f" · {images_of(frame)} of validation data" if frame["examples"].notna().any() else ""
    note = f"{drawn} networks{seen} · {in_seeds(frame)}"
    names = method_names(frame)
    narrow = columns < 3 and len(names) <= 8  # otherwise the legend needs the width
    figure = blank(WIDTH * (0.75 if narrow else 1), 1.4 + 1.65 * rows, title, note)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    lines = {name: LINES[i % len(LINES)] for i, name in enumerate(names)}
    for i, (axes, (metric, layer)) in enumerate(zip(grid.flat, wanted, strict=False)):
        part = frame[(frame["metric"] == metric) & (frame["layer"] == layer)]
        factor = 1 if layer else 100
        for name in method_names(part):
            line = part[part["method"] == name].sort_values("epoch")
            style = styles[name]
            axes.plot(
                line["epoch"].to_numpy(float), line["mean"] * factor, color=style.color, marker=style.marker,
                markersize=3.5, markevery=max(1, len(line) // 12), linestyle=lines[name], **EDGE,
            )  # fmt: skip
        axes.set_title(text(f"{layer}: {_TRACED[metric]}") if layer else _TRACED[metric], size=9)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        sns.despine(ax=axes)
        if i + columns >= len(wanted):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("round of training", size=8)
    for spare in list(grid.flat)[len(wanted) :]:
        spare.set_axis_off()
    labels = {n: n if len(sizes) == 1 else f"{n} · {int(drawn_of[n]):,} networks" for n in drawn_of.index}
    legend(figure, [handle(n, styles[n], labels.get(n), linestyle=lines[n]) for n in names])
    return figure
