"""Section `outliers`: how well entropy separates an outlying data set from the test set.

Figures 3 and 4 of the paper show distributions of entropy; Figure 9 shows images whose entropy misleads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.records import store
from bench.report.arrays import Arrays, first_kept
from bench.report.data_sets import without_data
from bench.report.layout.captions import BY_SIZE, Drawing, figure_entry, gap, paper_entry, where
from bench.report.layout.figures import (
    DASHED,
    EDGE,
    VERTICES,
    WIDTH,
    MethodStyle,
    Styles,
    bare,
    blank,
    handle,
    legend,
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
POINTS = 2_000  # maximum jumps per curve: finer than a page can show


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
        half = dkw_half_width(min(min(counts[0]), min(counts[1])))
        caption = (
            "Share of images whose predictive entropy is at most the value, largest ensemble of each method: "
            f"{max(counts[0]):,} images of {inside} (dashed), {max(counts[1]):,} of {', '.join(outside)} "
            "(solid); several seeds are pooled. A solid curve far below its dashed one tells outliers apart. "
            f"With 95 % confidence one seed's curve lies within ± {half:.3f} of its distribution (DKW band)."
        )
        number = _NUMBERS.get(without_data(task))
        title = ("" if number is None else f"Figure {number}: ") + f"predictive entropy — {where(rows, task)}"
        figure = entropy_ecdf(found, styles, title, inside, _classes(part, scores["run"]))
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
    """ECDF of predictive entropy per image: in-distribution dashed, out-of-distribution solid.

    curves: one per method and panel (an outlying set); classes: K, as the maximum entropy is ln K nats.
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
            _steps(axes, curve, styles[curve.method], math.log(classes), points, 0.12 * i / len(own))
        _entropy_axes(axes, math.log(classes), inside, panel, own[0])
    row[0].set_ylabel("share of images at or below")
    handles = []
    for name in methods:
        own = sorted((c for c in curves if c.method == name), key=lambda c: c.panel)
        scores = " / ".join(f"{c.auroc:.3f}" for c in own)
        handles.append(handle(name, styles[name], f"{name} · {own[0].members:,} · {scores}"))
    legend(figure, handles, "method · networks · AUROC of the entropy")
    return figure


def _steps(axes: Axes, curve: Curve, style: MethodStyle, top: float, points: int, start: float) -> None:
    """One method's two step functions, from 0 to the maximum entropy."""
    for values, line in ((curve.inside, DASHED), (curve.outside, "-")):
        x, y = thin(*ecdf(values), points)
        axes.plot(
            np.concatenate([[0.0], x, [top]]), np.concatenate([[0.0], y, [1.0]]), drawstyle="steps-post",
            color=style.color, linestyle=line, marker=style.marker, markevery=(start, 0.12), markersize=4.5,
            **EDGE,
        )  # fmt: skip


def thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` jumps of a step function, including first and last, evenly spaced in y."""
    if len(x) <= points:
        return x, y
    wanted = np.linspace(y[0], y[-1], points)
    keep = np.unique(np.searchsorted(y, wanted).clip(0, len(y) - 1))
    return x[keep], y[keep]


def _entropy_axes(axes: Axes, top: float, inside: str, outside: str, curve: Curve) -> None:
    """Labels of one panel: its data sets with their images, the axes, and the line at ln K."""
    within, beyond = len(curve.inside) // curve.seeds, len(curve.outside) // curve.seeds
    keys = [
        Line2D([], [], color="0.3", linestyle=DASHED, label=text(f"in: {inside}, {within:,} images")),
        Line2D([], [], color="0.3", label=text(f"out: {outside}, {beyond:,} images")),
    ]
    columns = 1 if len(inside) + len(outside) > 30 else 2  # two long names do not fit side by side
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
        yield paper_entry(9, own, caption, task), _misfits(rows, headings, title, note)


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
    figure = blank(WIDTH, 3.3, title, note)
    bands = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for i, (band, row, heading) in enumerate(zip(bands, rows, headings, strict=True)):
        band.suptitle(text(heading), size=9)
        panels = band.subplots(1, len(row["images"]), squeeze=False)[0]
        for axes, image, entropy, prediction, label in zip(
            panels, row["images"], row["entropies"], row["predictions"], row["labels"], strict=True
        ):
            shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="none")
            says = f"says {prediction}, is {label}" if i == 0 else f"says {prediction}"
            nats = f"{entropy:.2f}" if entropy >= 0.005 else f"{entropy:.0e}"
            axes.set_xlabel(f"{nats} nats\n{says}", size=8)
            bare(axes)
    return figure
