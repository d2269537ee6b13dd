"""The report: every table, figure and the page, from the files of `<results>/raw` alone. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from bench import records
from bench.report import figures, page, sheets, tables
from bench.report.catalogue import Material, Picture, all_figures, all_tables

__all__ = ["build"]

# What a build may have written: a file of these names that the rows no longer give is removed.
_OWN = {
    "tables": re.compile(
        r"(summary|accuracy|calibration|out-of-distribution|weight-norms|diversity|cost|failures)\.(csv|md)"
    ),
    "figures": re.compile(r"(accuracy|weight-norms|entropy-ecdf|training)-.+\.(svg|png)"),
}


def build(results: Path) -> list[Path]:
    """Write every table, figure and `report.html` of a results folder, the same bytes each time.

    results: the folder whose `raw/` holds the runs. Returns the written paths, sorted. Tables and
    figures of an earlier build that no longer have rows are removed. Raises: BenchError where there
    is no run, a file is not readable, or the folder cannot be written.
    """
    results = Path(results)
    rows = records.read(results)
    abouts = {run: records.read_about(results, run) for run in sorted(set(rows["run"]))}
    material = Material(results, tables.prepare(rows, abouts), abouts)
    files: dict[Path, bytes] = {}

    found = all_tables(material)
    for table in found:
        files[results / "tables" / f"{table.name}.csv"] = sheets.to_csv(table.frame).encode()
        files[results / "tables" / f"{table.name}.md"] = sheets.to_markdown(table).encode()
    failed = tables.failures(material.rows, abouts)
    if len(failed):
        files[results / "tables" / "failures.csv"] = sheets.to_csv(failed).encode()
        files[results / "tables" / "failures.md"] = page.failures_markdown(failed).encode()

    drawn: list[tuple[Picture, bytes]] = []
    with figures.style():
        for picture, figure in all_figures(material):
            for kind in ("svg", "png"):
                files[results / "figures" / f"{picture.name}.{kind}"] = figures.image(figure, kind)
            drawn.append((picture, files[results / "figures" / f"{picture.name}.svg"]))

    files[results / "report.html"] = page.render(material, found, failed, drawn).encode()
    for path, data in files.items():
        records.write_atomic(path, data)
    _remove_stale(results, set(files))
    return sorted(files)


def _remove_stale(results: Path, written: set[Path]) -> None:
    for folder, own in _OWN.items():
        for path in sorted((results / folder).glob("*")):
            if path not in written and own.fullmatch(path.name):
                path.unlink(missing_ok=True)
