"""`bench export`: rows as one tidy file, tables for a paper, and the README that explains them."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

from bench.errors import BenchError
from bench.records import export as rows
from bench.records import readme, runs
from bench.report import published
from bench.report.layout.tables import Table
from bench.report.output.latex import to_latex
from bench.report.rows import Material, prepare
from bench.report.sections import all_tables
from bench.system.files import write_atomic

FOLDER = "export"


def write(results: Path, kind: str) -> list[Path]:
    """Write `export/rows.csv`, `export/rows.parquet`, or `export/<table>.tex`, and the folder's README.

    kind: csv, parquet or latex.

    Returns the written paths. The same rows give the same bytes. Raises: BenchError if there is no run, or
    pyarrow is missing for parquet.
    """
    results = Path(results)
    if kind == "parquet" and find_spec("pyarrow") is None:
        raise BenchError(
            "parquet: expected the package pyarrow, found none; "
            "pip install 'ensemble-bench[parquet]', or take --format csv"
        )
    found = runs.read(results)
    files = {f"{FOLDER}/{name}": data for name, data in _files(results, found, kind).items()}
    files[readme.NAME] = readme.text().encode()
    for name, data in files.items():
        write_atomic(results / name, data)
    return [results / name for name in sorted(files)]


def _files(results: Path, found: runs.Found, kind: str) -> dict[str, bytes]:
    if kind == "latex":
        return {f"{table.name}.tex": to_latex(table).encode() for table in _tables(results, found)}
    frame = rows.tidy(found)
    if kind == "csv":
        return {"rows.csv": frame.to_csv(index=False, lineterminator="\n").encode()}
    packed = io.BytesIO()
    frame.to_parquet(packed, engine="pyarrow", index=False)
    return {"rows.parquet": packed.getvalue()}


def _tables(results: Path, found: runs.Found) -> list[Table]:
    """The tables of the report that have rows."""
    frame = found.newest()
    abouts = {run: found.runs[run].about for run in sorted(set(frame["run"]))}
    published.provide(results)
    material = Material(results, prepare(frame, abouts), abouts, published.read(results))
    return [table for table in all_tables(material) if len(table.frame)]
