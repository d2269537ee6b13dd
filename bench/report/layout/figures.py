"""The appearance of figures: colours and markers of methods, sizes, titles and legends.

Uses matplotlib's object interface, without global figures or settings: the style applies only
inside `drawing_style()`, so that the same frames give the same bytes in every process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import registry

# From two colour-blind-safe palettes, without colours too light for thin lines on white: Okabe and
# Ito 2008, then Tol's "muted" (indigo, wine, olive), in an order with distinct neighbours; then grey.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#332288", "#56b4e9", "#882255", "#999933",
    "#5a5a5a",
)  # fmt: skip
# Of a method, then of its variants: mixed with black (below 0) or with white.
SHADES = (0.0, -0.45, 0.35, -0.7, 0.5, -0.25, 0.65, -0.57, 0.2, -0.35, -0.12, 0.77)
MARKERS = "osD^vPXph<>d*H8"
# Maximum number of vertices per figure: at about 20 bytes each, an SVG stays below 300 KB.
VERTICES = 7_500
WIDTH = 7.2  # inches, the text width of a page
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "bench",  # otherwise ids in the SVG are random
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs on every machine
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
# A white edge separates markers where curves meet.
EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
DASHED: Any = (0, (3, 1.5))
# Line styles in turn, so that a curve does not completely hide another below it.
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.5)))


@dataclass(frozen=True)
class MethodStyle:
    """A method's colour and marker, the same in every figure of a report."""

    color: str
    marker: str


Styles = Mapping[str, MethodStyle]


def drawing_style() -> AbstractContextManager[None]:
    """The report's style, independent of the user's matplotlibrc, for as long as the context lasts."""
    return matplotlib.style.context(["default", sns.axes_style("whitegrid"), _STYLE])


def method_styles(methods: Sequence[str]) -> dict[str, MethodStyle]:
    """Colour and marker of each method: its variants and configurations have shades of its colour.

    Registered methods have the same colour in every report. Beyond ten methods colours repeat; markers
    distinguish them, also in greyscale.
    """
    known = registry.methods()
    # A configuration is named `name [epochs=9]`.
    plain = {name: name.partition(" [")[0] for name in sorted(set(methods))}
    families = {name: known[own].base if own in known else own for name, own in plain.items()}
    order = [*dict.fromkeys(entry.base for entry in known.values())]
    order += [base for base in dict.fromkeys(families.values()) if base not in order]
    found: dict[str, MethodStyle] = {}
    for name, base in families.items():
        variants = [other for other, entry in known.items() if entry.base == base] or [base]
        earlier = sum(plain[other] == plain[name] for other in found)
        shade = SHADES[(variants.index(plain[name]) + 2 * earlier) % len(SHADES)]
        color = _shaded(COLORS[order.index(base) % len(COLORS)], shade)
        found[name] = MethodStyle(color, MARKERS[len(found) % len(MARKERS)])
    return found


def _shaded(color: str, shade: float) -> str:
    """A colour mixed with white (shade above 0) or with black (below)."""
    goal = 1.0 if shade > 0 else 0.0
    red, green, blue = (part + (goal - part) * abs(shade) for part in to_rgb(color))
    return to_hex((red, green, blue))


def text(name: str) -> str:
    """A name escaped for matplotlib, for which `$` starts a formula."""
    return name.replace("$", r"\$")


def blank(width: float, height: float, title: str, note: str) -> Figure:
    """An empty figure with a title and a line on the data behind it; sizes in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure.suptitle(text(f"{title}\n{note}"))
    return figure


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


def legend(figure: Figure, handles: Sequence[Line2D], title: str | None = None) -> None:
    """One legend below the panels, in as many columns as its longest entry allows.

    Figures have room for a legend of three lines; a longer one increases the height of the figure.
    """
    longest = max(len(str(h.get_label())) for h in handles)
    # Inches: an 8 point letter and a handle, then a line.
    room = max(1, int(figure.get_figwidth() / (0.065 * longest + 0.55)))
    rows = math.ceil(len(handles) / min(room, len(handles)))
    figure.set_figheight(figure.get_figheight() + 0.17 * max(0, rows - 3))
    columns = math.ceil(len(handles) / rows)
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, title=title,
        title_fontsize=8,
    )  # fmt: skip


def handle(name: str, style: MethodStyle, label: str | None = None, **more: Any) -> Line2D:
    """A method's legend entry."""
    return Line2D([], [], color=style.color, marker=style.marker, label=text(label or name), **more)


def bare(axes: Axes) -> None:
    """Removes ticks and grid, for a panel that shows an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
