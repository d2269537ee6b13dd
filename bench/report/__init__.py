"""The report: every table, figure and the page, from the files of `<results>/raw` alone. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench import records
from bench.report import figures, page, sheets, tables
from bench.report.sheets import Table

__all__ = ["build"]

# What a build may have written: a file of these names that the rows no longer give is removed.
_TABLES = (
    "summary", "accuracy", "calibration", "out-of-distribution", "weight-norms", "diversity", "cost", "failures",
)  # fmt: skip
_FIGURES = ("accuracy", "weight-norms", "entropy-ecdf", "training")
_OWN = {
    "tables": re.compile(rf"({'|'.join(_TABLES)})\.(csv|md)"),
    "figures": re.compile(rf"({'|'.join(_FIGURES)})-.+\.(svg|png)"),
}


@dataclass(frozen=True)
class Report:
    """What a build works from: prepared rows, and each of their runs' JSON by name."""

    results: Path
    rows: pd.DataFrame
    abouts: dict[str, dict[str, Any]]


def build(results: Path) -> list[Path]:
    """Write every table, figure and `report.html` into the results folder, byte for byte the same each time.

    results: the folder whose `raw/` holds the runs. Returns the written paths, sorted. Tables and
    figures of an earlier build that no longer have rows are removed. Raises: BenchError where there
    is no run, a file is not readable, or the folder cannot be written.
    """
    results = Path(results)
    rows = records.read(results)
    used = sorted(set(rows["run"]))
    abouts = {run: records.read_about(results, run) for run in used}
    report = Report(results, tables.prepare(rows, abouts), abouts)
    files: dict[Path, bytes] = {}
    found = _tables(report)
    for table in found:
        files[results / "tables" / f"{table.name}.csv"] = sheets.to_csv(table.frame).encode()
        files[results / "tables" / f"{table.name}.md"] = sheets.to_markdown(table).encode()
    failed = tables.failures(report.rows, abouts)
    if len(failed):
        files[results / "tables" / "failures.csv"] = sheets.to_csv(failed).encode()
        files[results / "tables" / "failures.md"] = page.failures_markdown(failed).encode()
    drawn: list[page.Picture] = []
    with figures.style():
        for picture, figure in _figures(report):
            svg = figures.image(figure, "svg")
            files[results / "figures" / f"{picture.name}.svg"] = svg
            files[results / "figures" / f"{picture.name}.png"] = figures.image(figure, "png")
            drawn.append(picture.with_svg(svg))
    files[results / "report.html"] = page.render(report.rows, abouts, found, failed, drawn).encode()
    for path, data in files.items():
        records.write_atomic(path, data)
    _remove_stale(results, set(files))
    return sorted(files)


def _remove_stale(results: Path, written: set[Path]) -> None:
    for folder, own in _OWN.items():
        for path in sorted((results / folder).glob("*")):
            if path not in written and own.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _tables(report: Report) -> list[Table]:
    """Every table that has rows."""
    rows, abouts = report.rows, report.abouts
    place, data = (*tables.BLOCK, "task"), (*tables.BLOCK, "task", "dataset")
    size, by_size = ("members", "method"), ("members",)
    spread = "Mean over training seeds, ± sd over seeds (ddof = 1) where there are several; the best of a column is bold, ties included. — was not measured, N/A cannot be reached by the method. "
    found = [
        Table("summary", "Summary", spread + "Each method at its largest ensemble; different sizes are not the same question, see the next tables.", tables.summary(rows), tables.BLOCK, ("task", "method", "members"), ("metric", "dataset"), ("task",), tables.SUMMARY),
        Table("accuracy", "Accuracy by ensemble size [%]", spread, tables.accuracy(rows, abouts), data, ("method",), ("members",)),
        Table("calibration", "Calibration", spread, tables.calibration(rows, abouts), data, size, ("metric",), by_size, tables.CALIBRATION),
    ]
    return [table for table in found if len(table.frame)]
