"""What a report has written, in five lines, from the files themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.records import runs


def summary(results: Path, paths: Sequence[Path]) -> list[str]:
    """Five lines: runs, verdicts on claims, tables, figures, and the page. paths: as `build` returns them."""
    names, strays = runs.names(results)
    failed = _frame(results, "failures")
    claims = _frame(results, "claims")
    verdicts = claims["verdict"].value_counts()
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    departs = int((claims["departs"] == "yes").sum())
    tables = {path.stem for path in paths if path.parent == results / "tables"}
    figures = {path.stem for path in paths if path.suffix == ".svg"}
    besides = {"failed": len(failed), "left out": len(strays)}
    beside = "".join(f", {count} {what}" for what, count in besides.items() if count)
    return [
        f"runs     {len(names):,}{beside}",
        f"claims   {told or 'none tested'}; {departs} not as expected",
        f"tables   {len(tables)} in {results / 'tables'}",
        f"figures  {len(figures)} in {results / 'figures'}",
        f"page     {results / 'report.html'}",
    ]


def _frame(results: Path, table: str) -> pd.DataFrame:
    path = results / "tables" / f"{table}.csv"
    columns = ["verdict", "departs"]
    return pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame(columns=columns)
