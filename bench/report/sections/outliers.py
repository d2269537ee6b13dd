"""Section `outliers`: how well entropy separates an outlying data set from the test set.

Figures 3 and 4 of the paper show distributions of entropy; Figure 9 shows images whose entropy misleads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from bench.records import store
from bench.report.arrays import Arrays, first_kept
from bench.report.data_sets import without_data
from bench.report.layout.captions import BY_SIZE, Drawing, figure_entry, gap, paper_entry, where
from bench.report.layout.figures import (
    EDGE,
    LINE,
    VERTICES,
    WIDTH,
    MethodStyle,
    Styles,
    bare,
    handle,
    sheet,
    subsets,
    text,
)
from bench.report.layout.tables import Table, networks
from bench.report.rows import (
    PLACE,
    Abouts,
    Material,
    outlying_sets,
    plain,
    summarise,
    with_unreachable,
)
from bench.report.uncertainty import dkw_half_width, ecdf

NAME = "outliers"
FIGURES = dict.fromkeys(("entropy-ecdf", "figure3", "figure4", "figure9"), "out-of-distribution")
OOD = (
    "auroc", "aupr_out", "aupr_in", "fpr95_id_positive", "fpr95_ood_positive", "auroc_mutual_information",
    "auroc_max_softmax", "entropy_in_nats", "entropy_out_nats",
)  # fmt: skip
ACCEPTED = ("accepted_accuracy_99", "accepted_accuracy_95", "accepted_accuracy_90")
# Figure numbers of the paper for the ECDF of the entropy: of its tasks, and of their embedded stand-ins.
_NUMBERS = {"notmnist": 3, "digits": 3, "cifar5-open": 4, "digits-open": 4}
BAND_POINTS = 40
MARKS = (0.001, 0.01, 0.1, 1)  # nats; curves enter at the share of images below the first
POINTS = 2_000  # maximum jumps per curve: finer than a page can show

SIDE_BY_SIDE = 4  # images
PANELS = 2


@dataclass(frozen=True)
class Curve:
    """One method's entropies (nats, one per image and seed) in one panel of the entropy figure.

    members: networks of the ensemble; auroc: mean over seeds; seeds: number of pooled seeds.
    """

    method: str
    panel: str
    members: int
    auroc: float
    seeds: int
    inside: np.ndarray
    outside: np.ndarray


def tables(material: Material) -> list[Table]:
    """The table `out-of-distribution`."""
    return [
        Table(
            "out-of-distribution", "Out-of-distribution detection",
            BY_SIZE + "The data set named is the outlying one. AUROC scores by predictive "
            "entropy, unless another score is named; entropies are means over images.",
            out_of_distribution(material.rows, material.abouts), PLACE, ("members", "method"), ("metric",),
            ("members",), OOD,
        ),
        Table(
            "selective-prediction", "Selective prediction with outliers mixed in",
            BY_SIZE + "The data set named is the outlying one. Accuracy, 1, 5 or 10 % rejected: the share of "
            "right answers among the images with the lowest predictive entropy, in a mixture of nine parts "
            "of test images and one of outliers, where an accepted outlier is an error; of images with the "
            "entropy at the threshold the fraction counts that keeps the share. A perfect score rejects at "
            "10 % the outliers and nothing else. Runs made before it was measured have none.",
            selective(material.rows, material.abouts), PLACE, ("members", "method"), ("metric",),
            ("members",), ACCEPTED,
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """The distributions of entropy, and the images with misleading entropy, for every task."""
    yield from _entropies(part, styles)
    yield from misfits(part)


def out_of_distribution(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Detection of an outlying set (`dataset`), and mean entropy (nats) of both sets, by size."""
    entropies = plain(rows, ("entropy_nats",), "ood")
    parts = [plain(rows, OOD, "ood")]
    for task, (inside, outside) in outlying_sets(rows).items():
        here = entropies[entropies["task"] == task]
        for name in outside:
            parts.append(here[here["dataset"] == inside].assign(dataset=name, metric="entropy_in_nats"))
            parts.append(here[here["dataset"] == name].assign(metric="entropy_out_nats"))
    return with_unreachable(summarise(pd.concat(parts, ignore_index=True)), rows, abouts)


def selective(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Accuracy on accepted images with outliers mixed in, the share that is accepted in the metric's name."""
    own = rows[(rows["metric"] == "accepted_accuracy") & (rows["evaluation"] == "ood")]
    own = own[own["value"].notna() & own["quantile"].notna()]
    names = [f"accepted_accuracy_{100 * share:.0f}" for share in own["quantile"]]
    return with_unreachable(summarise(own.assign(metric=names)), rows, abouts)


def _entropies(part: Material, styles: Styles) -> Iterator[Drawing]:
    for task, (inside, outside) in sorted(outlying_sets(part.rows).items()):
        rows = part.rows[part.rows["task"] == task]
        scores = plain(rows, ("auroc",), "ood")
        found = [
            curve
            for (_, panel), own in scores[scores["dataset"].isin(outside)].groupby(["method", "dataset"])
            if (curve := _curve(part.results, own, inside, str(panel))) is not None
        ]
        if not found:
            continue
        # All seeds evaluate the same images: pooling does not increase their number.
        counts = [len(c.inside) // c.seeds for c in found], [len(c.outside) // c.seeds for c in found]
        caption = (
            "Share of images whose predictive entropy is at most the value, largest ensemble of each method: "
            f"above {max(counts[0]):,} images of {inside}, below {max(counts[1]):,} of {', '.join(outside)}; "
            f"several seeds are pooled. Curves begin at the share of images below {MARKS[0]} nats; dotted: "
            "ln K, the maximum. A curve far lower below than above tells outliers apart. Bands contain the "
            "distribution that the images are drawn from with 95 % confidence (DKW)."
        )
        number = _NUMBERS.get(without_data(task))
        title = ("" if number is None else f"Figure {number}: ") + f"predictive entropy — {where(rows, task)}"
        figure = partial(entropy_ecdf, found, styles, title, inside, _classes(part, scores["run"]))
        if number is None:
            yield figure_entry("entropy-ecdf", task, rows, caption, task), figure
        else:
            yield paper_entry(number, rows, caption, task), figure


def _classes(part: Material, names: pd.Series) -> int:
    """K of a task: from its runs' JSON or, if missing there, from stored labels and predictions."""
    known = [int(part.abouts[run].get("classes") or 0) for run in sorted(set(names))]
    if any(known):
        return max(known)
    seen = [
        int(values.max())
        for run in sorted(set(names))
        for name, values in store.read_arrays(part.results, run).items()
        if name.endswith(("/label", "/prediction")) and values.size
    ]
    return 1 + max(seen, default=1)


def _curve(results: Path, scores: pd.DataFrame, inside: str, panel: str) -> Curve | None:
    """A method's entropies at its largest size, seeds pooled; None if no run has kept them."""
    scores = scores[scores["members"] == scores["members"].max()]
    members = int(scores["members"].iloc[0])
    within, beyond = [], []
    for run in sorted(set(scores["run"])):
        arrays = store.read_arrays(results, run)
        names = [f"{dataset}/{members}/entropy_nats" for dataset in (inside, panel)]
        if all(name in arrays for name in names):
            within.append(arrays[names[0]])
            beyond.append(arrays[names[1]])
    if not within:
        return None
    auroc = float(scores["value"].mean())
    method = str(scores["method"].iloc[0])
    return Curve(method, panel, members, auroc, len(within), np.concatenate(within), np.concatenate(beyond))


def entropy_ecdf(curves: Sequence[Curve], styles: Styles, title: str, inside: str, classes: int) -> Figure:
    """ECDF of predictive entropy per image: in distribution above, each outlying set in a row below.

    Beside and below each other for subsets of the methods. curves: one per method and panel (an outlying
    set); classes: K, as the maximum entropy is ln K nats.
    """
    outlying = sorted({curve.panel for curve in curves})
    parts = subsets(curve.method for curve in curves)
    seeds = sorted({curve.seeds for curve in curves})
    pooled = (
        f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed" + "s" * (seeds[0] > 1)
    )
    note = f"largest ensemble of each method · {pooled}" + (", pooled" if seeds[-1] > 1 else "")
    handles = []
    for name in dict.fromkeys(name for part in parts for name in part):
        own = sorted((c for c in curves if c.method == name), key=lambda c: c.panel)
        scores = " / ".join(f"{c.auroc:.3f}" for c in own)
        handles.append(handle(name, styles[name], f"{name} · {own[0].members:,} · {scores}", linestyle="-"))
    # Side by side as many subsets as have room, further ones below.
    columns, sets = min(PANELS, len(parts)), (inside, *outlying)
    bands = -(-len(parts) // columns)
    figure, grid = sheet(
        title, note, bands * len(sets), columns, 1.35, entries=handles, sharex=True, sharey=True,
        naming="method · networks · AUROC of the entropy", above=LINE, between=(0.14, 0.26),
    )  # fmt: skip
    top = math.log(classes)
    points = min(POINTS, VERTICES // (9 * len(curves)))
    for place, axes in np.ndenumerate(grid):
        number = place[0] // len(sets) * columns + place[1]
        name = sets[place[0] % len(sets)]
        if number >= len(parts):
            axes.set_axis_off()
            continue
        panel = outlying[0] if name == inside else name
        own = [c for c in curves if c.method in parts[number] and c.panel == panel]
        held = [curve.inside if name == inside else curve.outside for curve in own]
        for i, (curve, values) in enumerate(zip(own, held, strict=True)):
            # Markers of methods whose curves coincide must not coincide as well.
            start = 0.12 * i / len(own)
            _steps(axes, values, len(values) // curve.seeds, styles[curve.method], top, points, start)
        axes.axvline(top, color="0.3", linewidth=0.7, linestyle=":")
        if place[1] == 0:
            images = max(len(values) // curve.seeds for curve, values in zip(own, held, strict=True))
            axes.set_title(
                text(f"{'in' if name == inside else 'out'}: {name}, {images:,} images"), loc="left"
            )
            axes.set_ylabel("share at or below")
    _entropy_axis(grid[-1], top)
    return figure


def _steps(
    axes: Axes, values: np.ndarray, images: int, style: MethodStyle, top: float, points: int, start: float
) -> None:
    """A method's step function from 0 to the maximum entropy, with its band for so many images."""
    x, y = thin(*ecdf(values), points)
    x, y = np.concatenate([[0.0], x, [top]]), np.concatenate([[0.0], y, [1.0]])
    half = dkw_half_width(images)
    few = slice(None, None, max(1, len(x) // BAND_POINTS))
    axes.fill_between(
        x[few], (y[few] - half).clip(0), (y[few] + half).clip(None, 1), step="post", color=style.color,
        alpha=0.12, linewidth=0,
    )  # fmt: skip
    axes.plot(
        x, y, drawstyle="steps-post", color=style.color, marker=style.marker, markevery=(start, 0.12), **EDGE,
        linewidth=0.9, markersize=3,
    )  # fmt: skip


def thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` jumps of a step function, including first and last, evenly spaced in y."""
    if len(x) <= points:
        return x, y
    wanted = np.linspace(y[0], y[-1], points)
    keep = np.unique(np.searchsorted(y, wanted).clip(0, len(y) - 1))
    return x[keep], y[keep]


def _entropy_axis(row: Sequence[Axes], top: float) -> None:
    """A logarithmic scale up to ln K: most images in distribution have an entropy near 0."""
    row[0].set_xscale("log")
    row[0].xaxis.set_major_locator(FixedLocator(MARKS))
    row[0].xaxis.set_minor_locator(NullLocator())
    row[0].xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in MARKS]))
    row[0].set_xlim(MARKS[0], top * 1.03)
    row[0].set_ylim(0, 1.02)
    for axes in row:
        axes.set_xlabel("[nats], logarithmic scale" if len(row) > 1 else "entropy [nats], logarithmic scale")


def misfits(part: Material) -> Iterator[Drawing]:
    """Figure 9: test images with the highest entropy, above outliers with the lowest."""
    for task, (inside, outside) in sorted(outlying_sets(part.rows).items()):
        scores = plain(part.rows[part.rows["task"] == task], ("auroc",), "ood")
        largest = scores.groupby("method")["members"].transform("max")
        own = scores[(scores["members"] == largest) & (scores["dataset"] == outside[0])]
        caption = (
            f"Figure 9: images of {inside} to which the ensemble gives the highest predictive entropy, and "
            f"images of {outside[0]} to which it gives the lowest: those that look like the other set. Below "
            "each its entropy and the predicted class (and, in distribution, the true one), numbered from 0."
        )
        found = first_kept(part, own, "/{members}/extreme_")
        if found is None:
            yield gap(own, task, task, 9, "images")
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
        yield paper_entry(9, own, caption, task), partial(_misfits, rows, headings, title, note)


def _row(arrays: Arrays, prefix: str) -> dict[str, Any]:
    """Images with their entropies, predictions and labels, and the number of all images."""
    index = arrays[f"{prefix}/extreme_index"]
    return {
        "images": arrays[f"{prefix}/extreme_image"],
        "entropies": arrays[f"{prefix}/entropy_nats"][index],
        "predictions": arrays[f"{prefix}/prediction"][index],
        "labels": arrays[f"{prefix}/extreme_label"],
        "of": len(arrays[f"{prefix}/entropy_nats"]),
    }


def _misfits(rows: Sequence[Mapping[str, Any]], headings: Sequence[str], title: str, note: str) -> Figure:
    """Two rows of images with their entropy and class; rows: in, then out of distribution."""
    count = len(rows[0]["images"])
    columns = min(count, SIDE_BY_SIDE)
    deep = -(-count // columns)
    figure, grid = sheet(
        title, note, len(rows) * deep, columns, (WIDTH - 0.2 - 0.08 * (columns - 1)) / columns, left=0.1,
        right=0.1, between=(0.08, 3 * LINE + 0.04), above=LINE, below=2 * LINE + 0.06,
    )  # fmt: skip
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (row, heading) in enumerate(zip(rows, headings, strict=True)):
        own = grid[i * deep : (i + 1) * deep].ravel()
        own[0].set_title(text(heading), loc="left")
        for axes, image, entropy, prediction, label in zip(
            own, row["images"], row["entropies"], row["predictions"], row["labels"], strict=False
        ):
            shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="none")
            says = f"says {prediction}, is {label}" if i == 0 else f"says {prediction}"
            nats = f"{entropy:.2f}" if entropy >= 0.005 else f"{entropy:.0e}"
            axes.set_xlabel(f"{nats} nats\n{says}")
            axes.xaxis.set_label_coords(0.5, -0.03)
            axes.set_visible(True)
            bare(axes)
    return figure
