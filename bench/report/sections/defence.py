"""Section `defence`: adaptive attacks, the resampling matrix, flags and canaries, those of the data too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from bench.report import flags
from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import MARK, MISSING, Table, digits, heading
from bench.report.rows import ATTACK, PLACE, TASK, Material, ordered, summarise

NAME = "defence"
FIGURES: dict[str, str] = {}
OBLIVIOUS = ("fgsm", "pgd")
ORDER = (
    *OBLIVIOUS, *flags.MIXTURE[:3], "eot", "apgd-eot", "margin", "apgd-margin", "low-entropy",
    "low-entropy-targeted", "square", "square-mixture", "noise",
)  # fmt: skip
# Metrics of the tables, with the images that count.
_METRICS = {
    "success_rate": "fused", "evasion_rate": "fused", "entropy_nats": "all", "auroc": "all",
    "detected_share": "all",
}  # fmt: skip
_ADAPTIVE = (
    "Every attack on the same number of networks and the same images: fgsm and pgd are oblivious of the "
    "defence, eot takes fresh networks at every step, margin does not saturate, low-entropy and "
    "low-entropy-targeted aim at confident errors, square needs no gradient, noise is a control. Of "
    "AutoAttack, apgd-ce, apgd-t, fab and square-mixture attack the mean probability; apgd-eot and "
    "apgd-margin ascend what eot and margin do. Success on "
    "the attacked networks (own) and on as many fresh ones, by mean logits, over images classified correctly "
    "before. Detected: entropy above a threshold that rejects 5 % of clean validation images. Evasion: wrong "
    "on the fresh networks and not detected. AUROC: attacked against clean images by entropy. † is flagged."
)
_MATRIX = (
    "Crafted against n networks (lines), tested on m fresh ones that are not among them (columns; 1 is the "
    "mean of single networks). In brackets the 95 % interval: over seeds or, with one seed, of success over "
    "images (Wilson). † is flagged."
)
_FLAGS = (
    "Attacks that look weaker than they should: what they say of a defence is in doubt; and networks whose "
    "numbers are in doubt. "
    + "; ".join(f"{name}: {text}" for name, text in flags.MEANING.items())
    + ". Evidence is from the first flagged seed."
)
_CANARIES = (
    "Checks with known answers. In every cell: how far outputs for an image change with the other images of "
    "its batch, relative to the largest output; rounding gives 1e-6, and more than 1e-4 is flagged. In cells "
    "of out-of-distribution detection, where a wrong answer fails the cell: the test set against itself, "
    "predicted twice, has AUROC 0.5; shuffled labels give "
    "chance accuracy; equal probabilities have entropy ln K."
)
_DATA = (
    "Checks of images and labels before training; data that are certainly wrong fail the cell, † is a doubt. "
    "Outliers that are images of the other sets; images within 0.015 (root mean square of pixels) of one of "
    "a set before it; invalid ones and ones of one colour; share of training labels that agree with the "
    "nearest centroid, and its difference in other sets; classes whose names are exchanged; class shares and "
    "mean pixels against training; and differences from what is on record of known sets. `bench data verify` "
    "names the images."
)
# Metrics of the evaluation `data`, in the order of their table.
_CHECKS = (
    "shared_images", "near_duplicates", "invalid_images", "constant_images", "label_agreement",
    "label_agreement_gap", "swapped_classes", "class_share_gap", "pixel_mean_gap", "record_share_gap",
    "record_distance", "record_agreement_gap",
)  # fmt: skip


def tables(material: Material) -> list[Table]:
    """The tables `adaptive-attacks`, `resampling`, `flags`, `canaries`, `data-canaries`; some are empty."""
    rows = material.rows
    whole = attack_means(rows)
    return [_adaptive(rows, whole), _matrix(whole), _flagged(rows), _canaries(rows), _data(rows)]


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """No figure."""
    return iter(())


def attack_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the attacks of both evaluations, with flags; variant `adaptive` becomes `fresh`."""
    found = rows[rows["evaluation"].isin(("attack", "adaptive")) & rows["value"].notna()]
    found = found[
        found["metric"].isin(tuple(_METRICS)) & found["variant"].isin(("same", "fresh", "adaptive"))
    ]
    found = found[found["success"] == found["metric"].map(_METRICS)]
    found = found.assign(variant=found["variant"].replace("adaptive", "fresh"))
    means = summarise(found, ATTACK)
    means = means.astype({"crafted_members": "Int64", "epsilon": "float64"})
    return flags.marked(means, flags.find(rows))


def _adaptive(rows: pd.DataFrame, whole: pd.DataFrame) -> Table:
    """Each attack at the sizes of the adaptive attacks, the oblivious ones first."""
    sizes = rows.loc[
        rows["evaluation"] == "adaptive", [*PLACE, "method", "crafted_members"]
    ].drop_duplicates()
    own = whole.merge(sizes.astype({"crafted_members": "Int64"}), on=[*PLACE, "method", "crafted_members"])
    own = own[own["members"] == own["crafted_members"]]
    own = own[(own["variant"] == "fresh") | (own["metric"] == "success_rate")]
    # Not a measure of robustness, and of no images of its own (table `robustness`).
    own = own[~own["attack"].isin((*flags.STOPPED, flags.WORST))]
    kept = {"same": "own", "fresh": ""}
    # Categorical, so that sorting puts the oblivious attacks first.
    others = sorted(set(own["attack"]) - set(ORDER))
    own = own.assign(
        variant=own["variant"].map(kept),
        attack=pd.Categorical(own["attack"], [*ORDER, *others], ordered=True),
    )
    own = ordered(own, [*PLACE[1:], "epsilon", "attack"])
    lines = ("epsilon", "crafted_members", "attack", "method")
    return Table(
        "adaptive-attacks", "Attacks that know the defence", _ADAPTIVE, own, PLACE, lines,
        ("metric", "variant"), lines[:-1], tuple(_METRICS),
    )  # fmt: skip


def _matrix(whole: pd.DataFrame) -> Table:
    """Success and AUROC for every attacked size and every testing size."""
    found = whole[(whole["variant"] == "fresh") & whole["attack"].isin(OBLIVIOUS)]
    found = found[found["metric"].isin(("success_rate", "auroc"))]
    keys = [*PLACE, "metric", "attack", "epsilon", "method", "crafted_members"]
    lines: list[dict[str, Any]] = []
    for key, group in found.groupby(keys, sort=False):
        cells = zip(group["members"], group.itertuples(index=False), strict=True)
        texts = {int(members): _with_interval(item) for members, item in cells}
        line = dict(zip(keys, key, strict=True))
        lines.append(
            line | {"cells": texts, "examples": group["examples"].max(), "seeds": group["seeds"].max()}
        )
    matrix = pd.DataFrame(lines, columns=[*keys, "cells", "examples", "seeds"])
    sizes = sorted({int(n) for n in found["members"]})
    for size in sizes:
        matrix[f"on_{size}"] = [cells.get(size, MISSING) for cells in matrix["cells"]]
    show = tuple(
        (f"on {size:,} fresh", lambda item, size=size: getattr(item, f"on_{size}")) for size in sizes
    )
    return Table(
        "resampling", "Made against n networks, shown to m fresh ones", _MATRIX,
        matrix.drop(columns="cells"), (*PLACE, "metric"), ("attack", "epsilon", "method", "crafted_members"),
        (), show=(*show, ("seeds", lambda item: str(item.seeds))),
    )  # fmt: skip


def _with_interval(item: Any) -> str:
    """A mean with its interval, as text; marked if the attack is flagged."""
    low, high = item.low, item.high
    if item.seeds == 1 and item.metric == "success_rate" and item.members > 1:
        # Wilson, not bootstrap, whose interval for 32 of 32 would be a point.
        low, high = binomtest(round(item.mean * item.examples), int(item.examples)).proportion_ci(
            method="wilson"
        )
    text = digits(item.metric, item.mean)
    if np.isfinite(low) and np.isfinite(high):
        # A fraction or an AUROC is between 0 and 1; a t-interval may exceed this range.
        low, high = (digits(item.metric, min(1.0, max(0.0, value))) for value in (low, high))
        text += f" [{low}, {high}]"
    return text + (MARK if item.flags else "")


def _flagged(rows: pd.DataFrame) -> Table:
    found = flags.find(rows).assign(examples=np.nan)
    lines = ("method", "crafted_members", "attack", "epsilon")
    return Table(
        "flags", "Flagged attacks", _FLAGS, found, PLACE, lines, (), show=(
            ("flag", lambda item: item.flag),
            ("evidence", lambda item: item.evidence),
            ("seeds", lambda item: f"{item.fired} of {item.seeds}"),
        ),
    )  # fmt: skip


def _canaries(rows: pd.DataFrame) -> Table:
    found = rows[(rows["variant"] == "canary") & rows["value"].notna()]
    names = {
        "auroc": "itself_auroc", "accuracy": "shuffled_accuracy",
        "entropy_nats": "uniform_entropy_nats", "batch_dependence": "batch_dependence",
    }  # fmt: skip
    found = found[found["metric"].isin(names) & found["evaluation"].isin(("ood", "canary"))]
    found = found.assign(metric=found["metric"].map(names), dataset="")
    return Table(
        "canaries", "Canaries", _CANARIES, summarise(found), TASK,
        ("method", "members"), ("metric",), first=tuple(names.values()),
    )  # fmt: skip


def _data(rows: pd.DataFrame) -> Table:
    """Canaries of the data, the same for all methods and seeds unless their data differ.

    Outliers among the inliers were once counted after training, by the evaluation `ood`.
    """
    found = rows[rows["metric"].isin(_CHECKS) & rows["variant"].isin(("canary", "doubt"))]
    found = found[found["value"].notna()]
    keys = list(PLACE)
    lines = []
    for key, group in found.groupby(keys, sort=False):
        cells = {metric: _checked(str(metric), own) for metric, own in group.groupby("metric")}
        lines.append(
            dict(zip(keys, key, strict=True)) | {"cells": cells, "examples": group["examples"].max()}
        )
    frame = pd.DataFrame(lines, columns=[*keys, "cells", "examples"])
    show = tuple(
        (heading(metric), lambda item, metric=metric: item.cells.get(metric, MISSING)) for metric in _CHECKS
    )
    return Table(
        "data-canaries", "Canaries of the data", _DATA, frame, TASK, ("dataset",), (), show=show
    )  # fmt: skip


def _checked(metric: str, group: pd.DataFrame) -> str:
    """The value of one check, or the smallest and the largest; marked if one is in doubt."""
    texts = dict.fromkeys(digits(metric, value) for value in (group["value"].min(), group["value"].max()))
    return " to ".join(texts) + (MARK if (group["variant"] == "doubt").any() else "")
