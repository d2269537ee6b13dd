"""What the report holds: every table and every figure, with names, notes and captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.records import store
from bench.report import (
    attack_figures,
    budgets,
    comparisons,
    defence,
    figures,
    paper_figures,
    pareto,
    regression,
    tables,
)
from bench.report import published as paper
from bench.report.figures import Curve, Looks
from bench.report.pictures import (
    Drawing,
    Material,
    Picture,
    named,
    paper_picture,
    picture,
    trained,
    where,
)
from bench.report.sheets import Table
from bench.statistics import dkw_half_width

_TASK = (*tables.BLOCK, "task")
_DATA = (*_TASK, "dataset")

# The paper's numbers of the ECDF of the entropy: of its own tasks, and of the embedded ones like them.
_ECDF = {"notmnist": 3, "digits": 3, "cifar5-open": 4, "digits-open": 4}

_BY_SIZE = "Lines of one ensemble size compete with each other; 1 network is the mean of single networks. "


def all_tables(material: Material) -> list[Table]:
    """Every table that has lines, the summary first, those of the paper last."""
    rows, abouts = material.rows, material.abouts
    size = ("members", "method")
    accuracy, norms = tables.accuracy(rows, abouts), tables.weight_norms(rows)
    found = [
        Table(
            "summary", "Summary",
            "Each method at its largest ensemble: sizes may differ, the tables below compare equal ones. "
            "Where a task has several outlying sets, the AUROC is that of the first.",
            tables.summary(rows), tables.BLOCK, ("task", "method", "members"), ("metric",),
            ("task",), tables.SUMMARY,
        ),
        Table(
            "accuracy", "Accuracy by ensemble size [%] ↑",
            "1 network is the mean of single networks.",
            accuracy, _DATA, ("method",), ("members",),
        ),
        Table(
            "calibration", "Calibration", _BY_SIZE,
            tables.calibration(rows, abouts), _DATA, size, ("metric",), ("members",), tables.CALIBRATION,
        ),
        Table(
            "out-of-distribution", "Out-of-distribution detection",
            _BY_SIZE + "The data set named is the outlying one. AUROC scores by predictive "
            "entropy, unless another score is named; entropies are means over images.",
            tables.out_of_distribution(rows, abouts), _DATA, size, ("metric",), ("members",), tables.OOD,
        ),
        *_diversity(rows, abouts, norms),
        Table(
            "cost", "Cost", "A fit that was reused counts with its original time.",
            tables.cost(rows), _TASK, ("method", "members"), ("metric",), ("members",), tables.COST,
        ),
        budgets.budget_table(material),
        *attack_figures.attack_tables(rows, abouts),
        *defence.defence_tables(rows),
        *comparisons.comparison_tables(material),
        *regression.regression_tables(rows, abouts),
        *paper.paper_tables(rows, accuracy, norms, material.published),
    ]  # fmt: skip
    copies = tables.copies(rows)
    return [replace(table, copies=copies) for table in found if len(table.frame)]


def _diversity(rows: pd.DataFrame, abouts: tables.Abouts, norms: pd.DataFrame) -> list[Table]:
    """How different the networks of an ensemble are, in weights and in what they predict."""
    return [
        Table(
            "weight-norms", "Weight 2-norm of each layer over networks",
            "Mean and sd are over the networks of one ensemble; spread of norms is no merit by "
            "itself: read it beside disagreement.",
            norms, _TASK, ("method", "members"), ("layer", "metric"), (), tables.NORMS,
        ),
        Table(
            "diversity", "Diversity of the networks",
            "Disagreement is the share of images on which two networks predict differently, mean "
            "over pairs; KL is between their probabilities; double fault is the share that both have wrong. "
            "Distance is that of two networks' weights over their norm, 1.41 where they have nothing in "
            "common; aligned, after scaling and permutation of hidden channels, which change no prediction, "
            "were removed. Spread is sqrt(sum of variances) over the mean network's norm, cosine the mean "
            "between pairs.",
            tables.diversity(rows), _TASK, ("method", "members"), ("metric", "layer", "dataset"), (),
            tables.DIVERSITY,
        ),
        Table(
            "effective-networks", "Effective number of networks",
            "How many networks that never agree would be as diverse in their probabilities: 1 where all are "
            "one function (Vendi score of their mean Bhattacharyya coefficients).",
            tables.effective_networks(rows, abouts), _DATA, ("method",), ("members",),
        ),
    ]  # fmt: skip


def all_figures(material: Material) -> Iterator[Drawing]:
    """Every figure that has rows, and the gaps of those that lack arrays; drawn inside `figures.style()`."""
    copies = tables.copies(material.rows)
    for place, figure in named(_drawn(material)):
        caption = " ".join(filter(None, (place.caption, tables.remark(copies, place.block))))
        yield replace(place, caption=caption), figure


def _drawn(material: Material) -> Iterator[Drawing]:
    measured = material.rows["metric"] != "failed"
    looks = figures.looks(material.rows.loc[measured, "method"].tolist())
    for _, rows in material.rows.groupby(list(tables.BLOCK), sort=False):
        part = replace(material, rows=rows)
        yield from _accuracy(part, looks)
        yield from _weight_norms(part, looks)
        yield from _entropy(part, looks)
        yield from _training(part, looks)
        yield from pareto.pareto_figures(part, looks)
        yield from paper_figures.ablations(part, looks)
        yield from paper_figures.kernels(part)
        yield from paper_figures.misfits(part)
        yield from attack_figures.attack_figures(part, looks)
        yield from regression.regression_figures(part, looks)


def _accuracy(part: Material, looks: Looks) -> Iterator[tuple[Picture, Figure]]:
    table = tables.accuracy(part.rows, part.abouts)
    for task, own in table.groupby("task", sort=False):
        for dataset, frame in own.groupby("dataset", sort=False):
            subject = str(task) if own["dataset"].nunique() == 1 else f"{task}-{dataset}"
            caption = f"Accuracy on {dataset} by number of networks; bars ± 1 sd over seeds, if several."
            title = f"Accuracy by ensemble size — {where(frame, subject)}"
            yield (
                picture("accuracy", subject, frame, caption, str(task)),
                figures.accuracy(frame, looks, title),
            )


def _weight_norms(part: Material, looks: Looks) -> Iterator[tuple[Picture, Figure]]:
    table = tables.weight_norms(part.rows)
    largest = table.groupby(["task", "method"])["members"].transform("max")
    for train, task, frame in trained(table[table["members"] == largest], part.rows):
        caption = (
            "Weight 2-norm of each layer over the networks of the largest ensemble: mean ± sd above (scales "
            "differ between layers), sd/mean below."
        )
        title = f"Weight norms — trained on {where(frame, train)}"
        yield picture("weight-norms", train, frame, caption, task), figures.weight_norms(frame, looks, title)


def _training(part: Material, looks: Looks) -> Iterator[tuple[Picture, Figure]]:
    for train, task, frame in trained(tables.traces(part.rows), part.rows):
        caption = (
            "Accuracy, disagreement and sd/mean of each layer's weight norm along training, of networks "
            "drawn after a round and evaluated on validation data; mean over seeds."
        )
        title = f"Training — {where(frame, train)}"
        yield picture("training", train, frame, caption, task), figures.training(frame, looks, title)


def _entropy(part: Material, looks: Looks) -> Iterator[tuple[Picture, Figure]]:
    for task, (inside, outside) in sorted(tables.outlying_sets(part.rows).items()):
        rows = part.rows[part.rows["task"] == task]
        scores = tables.plain(rows, ("auroc",), "ood")
        found = [
            curve
            for (_, panel), own in scores[scores["dataset"].isin(outside)].groupby(["method", "dataset"])
            if (curve := _curve(part.results, own, inside, str(panel))) is not None
        ]
        if not found:
            continue
        # The seeds of a curve evaluate the same images: pooled, they are no more of them.
        counts = [len(c.inside) // c.seeds for c in found], [len(c.outside) // c.seeds for c in found]
        half = dkw_half_width(min(min(counts[0]), min(counts[1])))
        caption = (
            "Share of images whose predictive entropy is at most the value, largest ensemble of each method: "
            f"{max(counts[0]):,} images of {inside} (dashed), {max(counts[1]):,} of {', '.join(outside)} "
            "(solid); several seeds are pooled. A solid curve far below its dashed one tells outliers apart. "
            f"With 95 % confidence one seed's curve lies within ± {half:.3f} of its distribution (DKW band)."
        )
        number = _ECDF.get(task)
        title = ("" if number is None else f"Figure {number}: ") + f"predictive entropy — {where(rows, task)}"
        figure = figures.entropy_ecdf(found, looks, title, inside, _classes(part, scores["run"]))
        if number is None:
            yield picture("entropy-ecdf", task, rows, caption, task), figure
        else:
            yield paper_picture(number, rows, caption, task), figure


def _classes(part: Material, names: pd.Series) -> int:
    """K of a task: from its runs' JSON or, where that lacks it, from the labels and predictions stored."""
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
    """A method's entropies at its largest size, seeds pooled; None where no run has kept them."""
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
