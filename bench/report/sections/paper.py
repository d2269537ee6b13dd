"""Section `paper`: the paper's tables 1, 2, 5 and 6, with measured and published values.

A value that was published but not measured is a line without a mean, with the command that measures it.
The paper's HyperGAN stands beside HyperGAN as published, and beside HyperGAN at its best where measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from bench.records.runs import ages
from bench.report.data_sets import one_each
from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import Table
from bench.report.published import AS_PUBLISHED, PROPOSED, SIZES, TRAINS, family, named
from bench.report.rows import (
    BLOCK,
    Material,
    accuracy_by_size,
    command,
    norm_ratio,
    ordered,
    without_configuration,
)
from bench.report.sections.diversity import NORMS, weight_norms

NAME = "paper"
FIGURES: dict[str, str] = {}
MNIST_LAYERS = ("conv1", "conv2", "linear")
CIFAR_LAYERS = ("conv1", "conv2", "conv3", "linear1", "linear2")
BESIDE = (
    " The paper's HyperGAN stands beside hypergan-published, the paper's method as published, and beside "
    "hypergan, this project's best recipe."
)
COLUMNS = (
    *BLOCK, "train", "task", "dataset", "method", "members", "layer", "metric", "unit", "mean", "sd",
    "low", "high", "seeds", "examples", "published", "source", "gap", "command",
)  # fmt: skip


def tables(material: Material) -> list[Table]:
    """Tables 1, 2, 5 and 6 of the paper, one block per preset and device, with published values."""
    rows, published = one_each(material.rows, ages(material.abouts)), material.published
    blocks = list(dict.fromkeys(zip(rows["preset"], rows["device"], strict=True)))
    norms = _by_train(weight_norms(rows), rows)
    largest = norms.groupby([*BLOCK, "train", "method"])["members"].transform("max")
    norms = norms[norms["members"] == largest]
    accuracy = _by_train(accuracy_by_size(rows, material.abouts), rows)
    accuracy = accuracy[accuracy["members"].isin(SIZES)]
    six = _norm_cells(published, "Table 6")
    ablated = norms[without_configuration(norms["method"]).isin({*six["method"], "standard_ensemble"})]
    percent = (
        "Accuracy on test images [%] by training set and number of networks; 1 network is the mean of "
        "single networks. Where the test images are not the paper's own, the heading names them, and the "
        "paper's numbers stand apart, under its own." + BESIDE
    )
    spread = (
        "Mean, sd and sd/mean of each layer's weight 2-norm over the networks of the largest ensemble."
        + BESIDE
    )
    scale = (
        " Outputs of hypergan start at another scale, so its sd/mean compares, its mean does not; the mean "
        "compares with hypergan-published. The statistic is radial: independent networks of one norm have "
        "none."
    )
    return [
        _norms(
            "table1", "Table 1: weight norms, MNIST", spread + scale,
            _beside(_on(norms, "mnist", MNIST_LAYERS), _norm_cells(published, "Table 1"), blocks),
        ),
        Table(
            "table2", "Table 2: accuracy by training set and ensemble size [%] ↑", percent,
            _beside(accuracy, _cells(published, "Table 2"), blocks), BLOCK, ("method", "members"),
            ("train", "dataset"), ("members",), TRAINS, part="paper",
        ),
        _norms(
            "table5", "Table 5: weight norms, CIFAR-10", spread,
            _beside(_on(norms, "cifar10", CIFAR_LAYERS), _norm_cells(published, "Table 5"), blocks),
        ),
        _norms(
            "table6", "Table 6: weight norms, MNIST, without mixer and discriminator", spread,
            _beside(ablated[ablated["train"] == "mnist"], six, blocks),
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """No figure."""
    return iter(())


def _norms(name: str, title: str, note: str, frame: pd.DataFrame) -> Table:
    """A table of norms: one block per training set, lines that compare methods layer by layer."""
    lines = ("layer", "method", "members")
    blocks = (*BLOCK, "train")
    return Table(name, title, note, frame, blocks, lines, ("metric",), (), NORMS, part="paper")


def _cells(published: pd.DataFrame, number: str) -> pd.DataFrame:
    """Values of one of the paper's tables: train, method, members, layer, metric, value, unit, source, asked.

    The paper's HyperGAN appears under both names, and is asked for (a gap if not measured) as published.
    """
    found = published[published["source"].str.contains(number, regex=False)]
    found = found[["train", "method", "members", "layer", "metric", "unit", "value", "source"]]
    own = found[found["method"].isin(family(PROPOSED))]
    both = [named(found, AS_PUBLISHED).assign(asked=True), own.assign(asked=False)]
    return pd.concat(both, ignore_index=True)


def _norm_cells(published: pd.DataFrame, number: str) -> pd.DataFrame:
    """A table of norms with sd/mean, computed from its means and sds as for measured norms."""
    cells = _cells(published, number).assign(examples=0)
    cell = cells["source"].str.replace(r", (mean|sd)$", "", regex=True)
    ratio = norm_ratio(cells.assign(source=cell))
    return pd.concat([cells, ratio], ignore_index=True).drop(columns="examples")


def _by_train(found: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The table with its train keys; one task per train key, preferably the one named like the key."""
    trains = dict(zip(rows["task"], rows["train"], strict=True))
    found = found.assign(train=found["task"].map(trains).astype("str"))
    place = found["task"].mask(found["task"] == found["train"], "")
    first = place.groupby([found[c] for c in (*BLOCK, "train", "method")]).transform("min")
    return found[place == first]


def _on(norms: pd.DataFrame, train: str, layers: Sequence[str]) -> pd.DataFrame:
    """Norms of a training set of the paper, and of other training sets with the same layers."""
    own = norms.groupby("train")["layer"].transform(lambda names: frozenset(names) == frozenset(layers))
    other = own.astype("bool") & ~norms["train"].isin(TRAINS)
    return norms[other | (norms["train"] == train)]


def _beside(found: pd.DataFrame, cells: pd.DataFrame, blocks: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Measured lines with their published values, and a line for every one asked for and not measured.

    Accuracies are joined by number of networks, norms are not: the paper uses other numbers.
    """
    sized = bool((cells["metric"] == "accuracy").all())
    keys = ["train", "base", "layer", "metric", *(["members", "copy"] if sized else [])]
    # The paper's numbers are about its own images: they stand beside no number of a lossy copy.
    found = found.assign(
        base=without_configuration(found["method"]),
        copy=found["dataset"].str.contains("-jpeg", regex=False),
        gap=found.get("gap", ""),
    )
    cells = cells.assign(copy=False)
    cells = cells.rename(columns={"method": "base", "value": "published", "unit": "_unit"})
    cells = cells if sized else cells.rename(columns={"members": "_members"})
    parts = []
    for preset, device in blocks:
        own = found[(found["preset"] == preset) & (found["device"] == device)]
        both = own.merge(cells, how="outer", on=keys, indicator=True)
        gap = both["_merge"] == "right_only"
        lossy = own[own["copy"]].groupby(["base", "train"])["dataset"].first()
        on = lossy.reindex(pd.MultiIndex.from_frame(both[["base", "train"]])).set_axis(both.index)
        kept = ~gap | both["asked"].eq(True) | on.notna()
        both, gap, on = both[kept], gap[kept], on[kept]
        read = own[~own["copy"]].groupby("train")["dataset"].first()
        both["method"] = both["method"].where(~gap, both["base"])
        both["unit"] = both["unit"].where(~gap, both["_unit"])
        both["task"] = both["task"].where(~gap, both["train"])
        both["dataset"] = both["dataset"].where(~gap, both["train"].map(read)).fillna("")
        if not sized:
            both["members"] = both["members"].where(~gap, both["_members"])
        both = both.assign(preset=preset, device=device, source=both["source"].fillna(""))
        both["seeds"] = both["seeds"].fillna(0)
        both["command"] = [
            command([m], [t], preset, device) if g and not lossy else ""
            for m, t, g, lossy in zip(both["base"], both["train"], gap, on.notna(), strict=True)
        ]
        reasons = "measured on " + on.where(gap & on.notna(), "") + " alone"
        both["gap"] = both["gap"].fillna("").where(~gap, reasons.where(on.notna(), "not measured"))
        parts.append(both)
    frame = pd.concat(parts, ignore_index=True)
    order = {train: i for i, train in enumerate(TRAINS)}
    frame = frame.assign(order=frame["train"].map(lambda t: order.get(t, len(order))))
    keys = ["device", "order", "train", "dataset", "layer", "method", "members", "metric"]
    frame = ordered(frame, keys)[list(COLUMNS)]
    frame["sd"] = frame["sd"].astype(np.float64)
    return frame
