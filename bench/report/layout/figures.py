"""The appearance of figures: colours, markers and line styles of methods, sizes, panels and legends.

Every figure is one column wide, with text of at least 7 pt there, and as high as its panels and its legend
need. Positions are computed from inches, not by a layout engine, which would take longer than drawing.

Uses matplotlib's object interface, without global figures or settings: the style applies only
inside `drawing_style()`, so that the same frames give the same bytes in every process.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
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
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bench import registry
from bench.report.configurations import method_family, plain_name

# From two colour-blind-safe palettes, without colours too light for thin lines on white: Okabe and
# Ito 2008, then Tol's "muted" (indigo, wine, olive), in an order with distinct neighbours; then grey.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#332288", "#56b4e9", "#882255", "#999933",
    "#5a5a5a",
)  # fmt: skip
# Lightness (CIE L*) of a method's variants: none so light that a thin line on white is lost, or near black.
LIGHTNESS = tuple(np.linspace(26, 68, 12).tolist())
MARKERS = "osD^vPXph<>d*H8"
CURVES = 7  # most lines of one kind in a panel
FEW = 4  # lines that share a panel whatever they are
# Maximum number of vertices per figure: at about 20 bytes each, an SVG stays below 300 KB.
VERTICES = 7_500
WIDTH = 3.3  # inches: one column of a page of two
SIZE = 7.0  # points, of all text
LINE = 0.13  # inches from one line of text to the next
LETTER = 0.05  # inches, of a letter on average
TICKS = 0.19  # inches from a panel to the label of its horizontal axis
_EDGE = 0.06  # inches, between the border and what is drawn
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "bench",  # otherwise ids in the SVG are random
    "svg.fonttype": "path",
    "pdf.fonttype": 3,
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs on every machine
    **dict.fromkeys(
        ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize",
         "legend.fontsize", "legend.title_fontsize", "figure.titlesize"),
        SIZE,
    ),
    "axes.titlepad": 3,
    "axes.titley": 1.0,  # otherwise every drawing measures all ticks to place the title above them
    "axes.edgecolor": "0.4",
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "xtick.color": "0.4",
    "xtick.labelcolor": "0.1",
    "ytick.labelcolor": "0.1",
    "lines.linewidth": 1.0,
    "lines.markersize": 3.5,
    "legend.handlelength": 2.0,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.0,
    "legend.labelspacing": 0.25,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.0,
    "legend.frameon": False,
}  # fmt: skip
# A white edge separates markers where curves meet.
EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}
DASHED: Any = (0, (3, 1.5))
# A method's and its variants': a curve does not completely hide another below it.
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2)))


@dataclass(frozen=True)
class MethodStyle:
    """A method's colour, marker and line style, the same in every figure of a report."""

    color: str
    marker: str
    line: Any = "-"


Styles = Mapping[str, MethodStyle]


def drawing_style() -> AbstractContextManager[None]:
    """The report's style, independent of the user's matplotlibrc, for as long as the context lasts."""
    return matplotlib.style.context(["default", sns.axes_style("whitegrid"), _STYLE])


def method_styles(methods: Sequence[str]) -> dict[str, MethodStyle]:
    """Colour, marker and line of each method: variants and configurations have its colour, lighter or darker.

    Registered methods have the same colour in every report. Beyond ten methods colours repeat; markers
    distinguish them, also in greyscale.
    """
    known = registry.methods()
    plain = {name: plain_name(name) for name in sorted(set(methods))}
    families = {name: method_family(name) for name in plain}
    order = [*dict.fromkeys(entry.base for entry in known.values())]
    order += [base for base in dict.fromkeys(families.values()) if base not in order]
    found: dict[str, MethodStyle] = {}
    for name, base in families.items():
        variants = [other for other, entry in known.items() if entry.base == base] or [base]
        earlier = sum(plain[other] == plain[name] for other in found)
        place = variants.index(plain[name]) + 2 * earlier
        color = _shades(COLORS[order.index(base) % len(COLORS)])[place % len(LIGHTNESS)]
        found[name] = MethodStyle(color, MARKERS[len(found) % len(MARKERS)], LINES[place % len(LINES)])
    return found


def subsets(names: Iterable[str]) -> list[list[str]]:
    """The methods of each panel, at most `CURVES`: first one of each family, then variants beside it.

    Up to `FEW` methods share a panel. A family is a method with its variants and configurations.
    """
    ordered = sorted(set(names))
    if len(ordered) <= FEW:
        return [ordered]
    families: dict[str, list[str]] = {}
    for name in sorted(ordered, key=lambda name: (name != method_family(name), name)):
        families.setdefault(method_family(name), []).append(name)
    leading = sorted(own[0] for own in families.values())
    parts = -(-len(leading) // CURVES)
    found = [list(part) for part in np.array_split(leading, parts)] if len(leading) > 1 else []
    packed: list[str] = []
    for base in sorted(families):
        first, *others = families[base]
        for start in range(0, len(others), CURVES - 1):
            group = [first, *others[start : start + CURVES - 1]]
            if len(packed) + len(group) > CURVES:
                found.append(packed)
                packed = []
            packed = [*packed, *group]
    return [[str(name) for name in part] for part in (*found, packed) if len(part)]


def _shades(color: str) -> list[str]:
    """A colour, then the same hue at other values of `LIGHTNESS`, each far from those before."""
    linear = np.array([((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in to_rgb(color)])
    own = float(linear @ (0.2126, 0.7152, 0.0722))  # relative luminance
    levels, left, found = [116 * own ** (1 / 3) - 16], list(LIGHTNESS), [color]
    while len(found) < len(LIGHTNESS):
        level = max(left, key=lambda level: min(abs(level - used) for used in levels))
        left.remove(level)
        levels.append(level)
        wanted = ((level + 16) / 116) ** 3
        # Mixed with black or white in linear light.
        mixed = linear * wanted / own if wanted < own else 1 - (1 - linear) * (1 - wanted) / (1 - own)
        mixed = np.where(mixed > 0.0031308, 1.055 * mixed.clip(0, 1) ** (1 / 2.4) - 0.055, 12.92 * mixed)
        found.append(to_hex(tuple(mixed.clip(0, 1).tolist())))
    return found


def text(name: str) -> str:
    """A name escaped for matplotlib, for which `$` starts a formula."""
    return name.replace("$", r"\$")


def wrapped(words: str, width: float) -> list[str]:
    """Words in lines of so many inches, broken at a middle dot, else at a space or within a name."""
    letters = max(1, int(width / LETTER))
    found: list[str] = []
    for part in words.split(" · "):
        if found and len(found[-1]) + 3 + len(part) <= letters:
            found[-1] += f" · {part}"
        else:
            lines = textwrap.wrap(part.replace("_", "_ "), letters)
            found += [line.replace("_ ", "_") for line in lines] or [""]
    return found


def sheet(
    title: str,
    note: str,
    rows: int,
    columns: int,
    height: float | Sequence[float],
    *,
    entries: Sequence[Line2D | Patch] = (),
    naming: str = "",
    left: float = 0.46,
    right: float = 0.08,
    between: tuple[float, float] = (0.1, 0.2),
    above: float = 0.0,
    below: float = 0.34,
    **shared: Any,
) -> tuple[Figure, NDArray[Any]]:
    """A figure of one column with panels [rows, columns], title and note above them, and a legend below.

    Lengths in inches. height: of a panel, or of those of each row. entries: of the legend, under the
    heading `naming`. left, right, above, below: room for labels beside all panels. between: room between
    neighbours, horizontally and vertically. shared: `sharex` and `sharey` of the panels. A dash in the title
    starts a new line.
    """
    heights = [height] * rows if isinstance(height, int | float) else list(height)
    told = [line for part in (*title.split(" — "), note) for line in wrapped(part, WIDTH - 2 * _EDGE)]
    columns_of_legend, lines = _legend_lines(entries, naming)
    top = _EDGE + LINE * len(told) + 0.05 + above
    bottom = _EDGE + LINE * lines + (0.06 if lines else 0) + below
    whole = top + sum(heights) + between[1] * (rows - 1) + bottom
    figure = Figure(figsize=(WIDTH, whole))
    FigureCanvasAgg(figure)
    figure.suptitle(text("\n".join(told)), y=1 - _EDGE / whole, va="top", linespacing=1.25)
    wide = (WIDTH - left - right - between[0] * (columns - 1)) / columns
    grid = figure.subplots(
        rows, columns, squeeze=False, **shared,
        gridspec_kw={
            "left": left / WIDTH, "right": 1 - right / WIDTH, "top": 1 - top / whole,
            "bottom": bottom / whole, "wspace": between[0] / wide,
            "hspace": between[1] * rows / sum(heights), "height_ratios": heights,
        },
    )  # fmt: skip
    beside = between[0] - 0.08
    for line, tall in zip(grid, heights, strict=True):
        for axes in line:
            sns.despine(ax=axes)
            # At a fixed distance: otherwise every drawing measures all tick labels to find it.
            axes.xaxis.set_label_coords(0.5, -TICKS / tall)
            axes.yaxis.set_label_coords(-(left - _EDGE) / wide if axes is line[0] else -beside / wide, 0.5)
            axes.yaxis.label.set_verticalalignment("top")
    if entries:
        figure.legend(
            handles=list(entries), loc="lower center", bbox_to_anchor=(0.5, _EDGE / whole),
            ncols=columns_of_legend, title=naming or None,
        )  # fmt: skip
    return figure, grid


def _legend_lines(entries: Sequence[Line2D | Patch], naming: str) -> tuple[int, int]:
    """The columns of a legend, as many as its longest entry allows, and its lines of text."""
    if not entries:
        return 1, 0
    for entry in entries:
        entry.set_label("\n".join(wrapped(str(entry.get_label()), WIDTH - 0.5)))
    labels = [str(entry.get_label()).split("\n") for entry in entries]
    longest = max(len(line) for label in labels for line in label)
    # Inches: a handle with its text, and a gap between columns.
    columns = max(1, min(len(labels), int((WIDTH - 2 * _EDGE + 0.1) / (LETTER * longest + 0.245 + 0.1))))
    columns = math.ceil(len(labels) / math.ceil(len(labels) / columns))
    lines = math.ceil(len(labels) / columns) * max(len(label) for label in labels)
    return columns, lines + bool(naming)


def method_names(frame: pd.DataFrame) -> list[str]:
    """The methods of a frame, sorted, without duplicates."""
    return sorted(set(frame["method"]))


def in_seeds(frame: pd.DataFrame) -> str:
    """The number of seeds of the frame, in words."""
    least, most = int(frame["seeds"].min()), int(frame["seeds"].max())
    return f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"


def images_of(frame: pd.DataFrame) -> str:
    """The number of images of the frame, in words."""
    counts = frame["examples"].dropna()
    return f"{int(counts.max()):,} images" if len(counts) else "images not counted"


def handle(name: str, style: MethodStyle, label: str | None = None, **more: Any) -> Line2D:
    """A method's legend entry."""
    drawn = {"color": style.color, "marker": style.marker, "linestyle": style.line, **more}
    return Line2D([], [], label=text(label or name), **drawn)


def curve(
    axes: Axes,
    x: NDArray[Any],
    y: NDArray[Any],
    ends: tuple[NDArray[Any], NDArray[Any]],
    style: MethodStyle,
    *,
    band: bool = False,
    **more: Any,
) -> None:
    """A line of one method with its intervals where they are known: bars, or a band where points are many.

    ends: of the intervals, NaN where unknown. more: of the line, in place of what `style` says.
    """
    drawn = {"color": style.color, "marker": style.marker, "linestyle": style.line, **EDGE, **more}
    axes.plot(x, y, **drawn)
    known = np.isfinite(ends[0]) & np.isfinite(ends[1])
    if known.any():
        low, high = ends[0][known], ends[1][known]
        if band:
            axes.fill_between(x[known], low, high, color=style.color, alpha=0.15, linewidth=0, zorder=1.5)
        else:
            # One line with gaps: quicker than as many lines.
            gaps = np.full(len(low), np.nan)
            bars = np.repeat(x[known], 3), np.stack([low, high, gaps], axis=1).ravel()
            axes.plot(*bars, color=style.color, linewidth=0.7, zorder=1.6)


def around(
    axes: Axes, means: NDArray[Any], ends: tuple[NDArray[Any], NDArray[Any]], limits: tuple[float, float]
) -> None:
    """Vertical limits around means and their intervals, within the limits of the metric.

    An interval may exceed the range of the means by no more than that range: the t-interval of two seeds may
    be many times wider than what methods differ by, and leaves the panel.
    """
    means = means[np.isfinite(means)]
    if not len(means):
        return
    low, high = float(means.min()), float(means.max())
    span = high - low or math.inf
    known = np.isfinite(ends[0]) & np.isfinite(ends[1])
    if known.any():
        bottom, top = float(ends[0][known].min()), float(ends[1][known].max())
        low, high = min(low, max(bottom, low - span)), max(high, min(top, high + span))
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_ylim(max(low, limits[0]) - room, min(high, limits[1]) + room)


def bare(axes: Axes) -> None:
    """Removes ticks and grid, for a panel that shows an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
