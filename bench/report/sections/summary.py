"""Section `summary`: each method at its largest ensemble, in one table."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import Table
from bench.report.rows import BLOCK, GROUP, TASK, Material, plain, shared_fits, summarise

NAME = "summary"
FIGURES: dict[str, str] = {}
SUMMARY = ("accuracy_single", "accuracy", "nll_nats", "auroc", "disagreement")


def tables(material: Material) -> list[Table]:
    """The table `summary`."""
    return [
        Table(
            "summary", "Summary",
            "Each method at its largest ensemble: sizes may differ, the tables below compare equal ones. "
            "Tasks that share their fits have one line. Where there are several outlying sets, the AUROC is "
            "that of the first.",
            summary(material.rows), BLOCK, ("task", "method", "members"), ("metric",), ("task",), SUMMARY,
        )
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """No figure."""
    return iter(())


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Each method at its largest size: accuracy (also of single networks), NLL, AUROC and disagreement.

    One task per fit, and one data set per metric, the first by name.
    """
    rows = shared_fits(rows)
    found = pd.concat(
        [
            plain(rows, ("accuracy", "nll_nats"), "accuracy"),
            plain(rows, ("auroc",), "ood"),
            plain(rows, ("disagreement",), "diversity"),
        ]
    )
    first = found.groupby([*TASK, "metric"])["dataset"].transform("min")
    found = found[found["dataset"] == first]
    single = found[(found["metric"] == "accuracy") & (found["members"] == 1)]
    place = [*TASK, "method"]
    largest = found.groupby([*place, "metric"])["members"].transform("max")
    found = pd.concat([found[found["members"] == largest], single.assign(metric="accuracy_single")])
    # One line per method: the size is that of its largest ensemble, for all metrics.
    found["members"] = found.groupby(place)["members"].transform("max")
    return summarise(found, GROUP)
