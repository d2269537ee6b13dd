"""Every figure of the report: pure functions of tidy frames (and arrays), each returning a Figure.

Drawn with matplotlib's object interface, without a global figure or a global setting: the style holds
inside `style()` alone, so that the same frames give the same bytes in every process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from bench import registry
from bench.report.sheets import heading
from bench.statistics import ecdf

# From two sets made for colour-blind readers, less what is too light for thin lines on white: Okabe and
# Ito 2008, then Tol's "muted" (indigo, wine, olive), in an order that keeps neighbours apart; then grey.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#332288", "#56b4e9", "#882255", "#999933",
    "#5a5a5a",
)  # fmt: skip
SHADES = (0.0, -0.45, 0.35, -0.7, 0.5, -0.25)  # of a method and its variants in turn: to black, to white
MARKERS = "osD^vPXph<>d*H8"
# Vertices of all curves of one figure: an SVG spends about 20 bytes on each, and stays below 300 KB.
VERTICES = 7_500
POINTS = 2_000  # most jumps of one curve: finer than a page can show
WIDTH = 7.2  # inches, the text width of a page

_STYLE: dict[str, Any] = {
    "svg.hashsalt": "bench",  # the ids inside an SVG are random without it
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # matplotlib carries it: the same glyphs on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 9.5,
    "axes.edgecolor": "0.4",
    "grid.color": "0.9",
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
}
# A white rim keeps markers apart where curves meet.
EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}

DASHED: Any = (0, (3, 1.5))
# One after the other, so that a curve that lies on another leaves it to be seen.
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.5)))


@dataclass(frozen=True)
class Look:
    """A method's colour and marker, the same in every figure of a report."""

    color: str
    marker: str


Looks = Mapping[str, Look]


@dataclass(frozen=True)
class Curve:
    """One method's entropies (nats, one an image and seed) in one panel of the entropy figure.

    members: networks of the ensemble; auroc: mean over seeds; seeds: how many are pooled.
    """

    method: str
    panel: str
    members: int
    auroc: float
    seeds: int
    inside: np.ndarray
    outside: np.ndarray


def style() -> AbstractContextManager[None]:
    """The report's look, independent of the user's matplotlibrc, for as long as the context lasts."""
    return matplotlib.style.context(["default", sns.axes_style("whitegrid"), _STYLE])


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of each method: its variants and configurations have shades of its colour.

    Registered methods keep their colour in every report. Where there are more than ten, colours come round
    again; the marker tells them apart, and in greyscale too.
    """
    known = registry.methods()
    plain = {
        name: name.partition(" [")[0] for name in sorted(set(methods))
    }  # configurations: `name [epochs=9]`
    families = {name: known[own].base if own in known else own for name, own in plain.items()}
    order = [*dict.fromkeys(entry.base for entry in known.values())]
    order += [base for base in dict.fromkeys(families.values()) if base not in order]
    found: dict[str, Look] = {}
    for name, base in families.items():
        variants = [other for other, entry in known.items() if entry.base == base] or [base]
        earlier = sum(plain[other] == plain[name] for other in found)
        shade = SHADES[(variants.index(plain[name]) + 2 * earlier) % len(SHADES)]
        color = _shaded(COLORS[order.index(base) % len(COLORS)], shade)
        found[name] = Look(color, MARKERS[len(found) % len(MARKERS)])
    return found


def _shaded(color: str, shade: float) -> str:
    """A colour mixed with white (shade above 0) or with black (below)."""
    goal = 1.0 if shade > 0 else 0.0
    red, green, blue = (part + (goal - part) * abs(shade) for part in to_rgb(color))
    return to_hex((red, green, blue))


def text(name: str) -> str:
    """A name as matplotlib draws it letter by letter: `$` would open a formula."""
    return name.replace("$", r"\$")


def blank(width: float, height: float, title: str, note: str) -> Figure:
    """An empty figure under its title and a line on what the numbers rest on; sizes in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(text(f"{title}\n{note}"))
    return figure


def _methods(frame: pd.DataFrame) -> list[str]:
    return sorted(set(frame["method"]))


def in_seeds(frame: pd.DataFrame) -> str:
    """How many seeds the frame rests on, in words."""
    least, most = int(frame["seeds"].min()), int(frame["seeds"].max())
    return f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"


def _images(frame: pd.DataFrame) -> str:
    counts = frame["examples"].dropna()
    return f"{int(counts.max()):,} images" if len(counts) else "images not counted"


def legend(figure: Figure, handles: Sequence[Line2D], title: str | None = None) -> None:
    """One legend under the panels, in as many columns as its longest entry allows.

    Heights of figures leave room for a legend of three lines; a longer one makes its figure higher.
    """
    longest = max(len(str(h.get_label())) for h in handles)
    # Inches: of an 8 point letter and a handle, then of a line.
    room = max(1, int(figure.get_figwidth() / (0.065 * longest + 0.55)))
    rows = math.ceil(len(handles) / min(room, len(handles)))
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, rows - 3))
    columns = math.ceil(len(handles) / rows)
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, title=title,
        title_fontsize=8,
    )  # fmt: skip


def handle(name: str, look: Look, label: str | None = None, **more: Any) -> Line2D:
    """A method's line in a legend."""
    return Line2D([], [], color=look.color, marker=look.marker, label=text(label or name), **more)


def accuracy(frame: pd.DataFrame, looks: Looks, title: str) -> Figure:
    """Accuracy (%) by number of networks, one line a method, bars of one sd over seeds.

    frame: the accuracy table of one preset, device, task and data set. One network stands for the mean
    of single networks.
    """
    frame = frame[frame["mean"].notna()]
    spread = ", bars: ± 1 sd over seeds" if frame["sd"].notna().any() else ""
    figure = blank(WIDTH * 0.75, 3.8, title, f"{_images(frame)} · {in_seeds(frame)}{spread}")
    axes = figure.add_subplot()
    methods = _methods(frame)
    for i, name in enumerate(methods):
        line = frame[frame["method"] == name].sort_values("members")
        look = looks[name]
        # Neighbours stand a little apart: bars of equal accuracies would hide each other.
        x = line["members"].to_numpy(float) * 1.02 ** (i - (len(methods) - 1) / 2)
        bars = np.nan_to_num(line["sd"].to_numpy(float)) * 100
        axes.errorbar(
            x, line["mean"] * 100, yerr=bars if bars.any() else None, color=look.color, marker=look.marker,
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
    legend(figure, [handle(name, looks[name]) for name in methods])
    return figure


def weight_norms(frame: pd.DataFrame, looks: Looks, title: str) -> Figure:
    """Each layer's weight 2-norm over networks: mean ± sd above, sd/mean below, one column a layer.

    frame: the weight-norm table of one preset, device and task, one size a method. Every layer has its
    own scale above, as norms differ tenfold between layers; below all share one.
    """
    layers, methods = sorted(set(frame["layer"])), _methods(frame)
    sizes = {str(m): int(n) for m, n in frame.groupby("method")["members"].max().items()}
    width = max(WIDTH, 2.2 + 1.35 * len(layers))
    figure = blank(width, 1.9 + 2 * (0.35 + 0.22 * len(methods)), title, in_seeds(frame))
    grid = figure.subplots(2, len(layers), sharey=True, squeeze=False)
    places = {name: -i for i, name in enumerate(methods)}
    for column, layer in enumerate(layers):
        wide = frame[frame["layer"] == layer].pivot(index="method", columns="metric", values="mean")
        above, below = grid[0][column], grid[1][column]
        for name, item in wide.iterrows():
            look, y = looks[str(name)], places[str(name)]
            drawn = {"color": look.color, "marker": look.marker, **EDGE}
            above.errorbar(item["weight_norm_mean"], y, xerr=item["weight_norm_sd"], capsize=2, **drawn)
            ratio = item.get("weight_norm_ratio", math.nan)
            below.plot([0, ratio], [y, y], color=look.color, linewidth=1)
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
    """One scale from zero for a row of panels, with room for the number after the last point."""
    for axes in row:
        axes.set_xlim(0, (top if math.isfinite(top) and top > 0 else 1) * 1.5)


def thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` jumps of a step function, first and last kept, equally far apart in y."""
    if len(x) <= points:
        return x, y
    wanted = np.linspace(y[0], y[-1], points)
    keep = np.unique(np.searchsorted(y, wanted).clip(0, len(y) - 1))
    return x[keep], y[keep]


def entropy_ecdf(curves: Sequence[Curve], looks: Looks, title: str, inside: str, classes: int) -> Figure:
    """ECDF of predictive entropy per image: in-distribution dashed, out-of-distribution solid.

    curves: one a method and panel (an outlying set); classes: K, whose ln K nats no entropy exceeds.
    """
    panels = sorted({curve.panel for curve in curves})
    methods = sorted({curve.method for curve in curves})
    seeds = sorted({curve.seeds for curve in curves})
    pooled = (
        f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed" + "s" * (seeds[0] > 1)
    )
    note = f"largest ensemble of each method · {pooled}" + (", pooled" if seeds[-1] > 1 else "")
    narrow = len(panels) == 1 and len(methods) <= 6
    figure = blank(WIDTH * (0.75 if narrow else 1), 3.7 + 0.1 * len(methods), title, note)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    points = min(POINTS, VERTICES // (4 * len(curves)))
    for axes, panel in zip(row, panels, strict=True):
        own = [curve for curve in curves if curve.panel == panel]
        for i, curve in enumerate(own):
            # Markers of methods whose curves coincide must not coincide as well.
            _steps(axes, curve, looks[curve.method], math.log(classes), points, 0.12 * i / len(own))
        _entropy_axes(axes, math.log(classes), inside, panel, own[0])
    row[0].set_ylabel("share of images at or below")
    handles = []
    for name in methods:
        own = sorted((c for c in curves if c.method == name), key=lambda c: c.panel)
        scores = " / ".join(f"{c.auroc:.3f}" for c in own)
        handles.append(handle(name, looks[name], f"{name} · {own[0].members:,} · {scores}"))
    legend(figure, handles, "method · networks · AUROC of the entropy")
    return figure


def _steps(axes: Axes, curve: Curve, look: Look, top: float, points: int, start: float) -> None:
    """One method's two step functions, from 0 to the most that an entropy can be."""
    for values, line in ((curve.inside, DASHED), (curve.outside, "-")):
        x, y = thin(*ecdf(values), points)
        axes.plot(
            np.concatenate([[0.0], x, [top]]), np.concatenate([[0.0], y, [1.0]]), drawstyle="steps-post",
            color=look.color, linestyle=line, marker=look.marker, markevery=(start, 0.12), markersize=4.5,
            **EDGE,
        )  # fmt: skip


def _entropy_axes(axes: Axes, top: float, inside: str, outside: str, curve: Curve) -> None:
    """Labels of one panel: its data sets with their images, the axes, and the line at ln K."""
    within, beyond = len(curve.inside) // curve.seeds, len(curve.outside) // curve.seeds
    keys = [
        Line2D([], [], color="0.3", linestyle=DASHED, label=text(f"in: {inside}, {within:,} images")),
        Line2D([], [], color="0.3", label=text(f"out: {outside}, {beyond:,} images")),
    ]
    columns = 1 if len(inside) + len(outside) > 30 else 2  # two long names have no room side by side
    axes.legend(handles=keys, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, frameon=False)
    axes.axvline(top, color="0.3", linewidth=1, linestyle=":")
    axes.annotate(
        f"ln K = {top:.3f}", (top, 0.5), (-3, 0), textcoords="offset points", rotation=90, ha="right",
        va="center", size=8, color="0.3", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    axes.set_xlim(0, top * 1.015)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("predictive entropy of an image [nats]")
    sns.despine(ax=axes)


_TRACED = {
    "accuracy_single": "accuracy, one network [%]",
    "accuracy": "accuracy, ensemble [%]",
    "disagreement": heading("disagreement"),
    "weight_norm_ratio": "sd/mean of norm",
    "weight_spread": "spread",
}


def training(
    frame: pd.DataFrame,
    looks: Looks,
    title: str,
    metrics: Sequence[str] = ("accuracy_single", "accuracy", "disagreement", "weight_norm_ratio"),
    columns: int = 3,
) -> Figure:
    """What was traced by round of training, one panel a metric (and layer), one line a method.

    frame: the traces of one preset, device and task. metrics: those shown, each layer's together.
    """
    place = {metric: i for i, metric in enumerate(metrics)}
    held = set(zip(frame["metric"], frame["layer"], strict=True))
    wanted = sorted((p for p in held if p[0] in place), key=lambda p: (p[1], place[p[0]]))
    columns = min(columns, len(wanted))
    rows = math.ceil(len(wanted) / columns)
    drawn_of = frame[frame["metric"] != "accuracy_single"].groupby("method")["members"].max()
    sizes = sorted({int(n) for n in drawn_of})
    drawn = f"ensembles of {sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"ensembles of {sizes[0]}"
    seen = f" · {_images(frame)} of validation data" if frame["examples"].notna().any() else ""
    note = f"{drawn} networks{seen} · {in_seeds(frame)}"
    names = _methods(frame)
    narrow = columns < 3 and len(names) <= 8  # else the legend asks for the width
    figure = blank(WIDTH * (0.75 if narrow else 1), 1.4 + 1.65 * rows, title, note)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    lines = {name: LINES[i % len(LINES)] for i, name in enumerate(names)}
    for i, (axes, (metric, layer)) in enumerate(zip(grid.flat, wanted, strict=False)):
        part = frame[(frame["metric"] == metric) & (frame["layer"] == layer)]
        factor = 1 if layer else 100
        for name in _methods(part):
            line = part[part["method"] == name].sort_values("epoch")
            look = looks[name]
            axes.plot(
                line["epoch"].to_numpy(float), line["mean"] * factor, color=look.color, marker=look.marker,
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
    legend(figure, [handle(n, looks[n], labels.get(n), linestyle=lines[n]) for n in names])
    return figure
