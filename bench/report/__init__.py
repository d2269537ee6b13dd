"""The report: tables, figures, the ledger of claims and the page, from a results folder alone. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bench.records import store
from bench.report import claims, figures, page, published, saving, sheets, tables
from bench.report.catalogue import all_figures, all_tables
from bench.report.pictures import Material, Picture
from bench.system.files import write_atomic

__all__ = ["build", "departures"]

# What a build may have written: a file of these names that the rows no longer give is removed.
_OWN = {
    "tables": re.compile(
        r"(summary|accuracy|calibration|out-of-distribution|weight-norms|diversity|attacks|fooling-epsilon"
        r"|adaptive-attacks|resampling|flags|canaries|effective-networks"
        r"|spread|verdicts|entropy-distances|regression|cost|budgets|failures|claims|table[1256])\.(csv|md)"
    ),
    "figures": re.compile(
        r"(accuracy|weight-norms|entropy-ecdf|training|pareto|figure([2-9]|10))-.+\.(svg|png)"
    ),
}


def build(results: Path) -> list[Path]:
    """Write every table, figure and `report.html` of a results folder, the same bytes each time.

    results: the folder whose `raw/` holds the runs; it gets a copy of the published values where it
    lacks them. Returns the written paths, sorted. Tables and figures of an earlier build that no longer
    have rows are removed. Raises: BenchError where there is no run, a file is not readable, or the
    folder cannot be written.
    """
    results = Path(results)
    rows = store.read(results)
    abouts = {run: store.read_about(results, run) for run in sorted(set(rows["run"]))}
    copied = published.provide(results)
    material = Material(results, tables.prepare(rows, abouts), abouts, published.read(results))
    files: dict[Path, bytes] = {}

    found = all_tables(material)
    for table in found:
        files[results / "tables" / f"{table.name}.csv"] = sheets.to_csv(table.frame).encode()
        files[results / "tables" / f"{table.name}.md"] = sheets.to_markdown(table).encode()
    failed = tables.failures(material.rows, abouts)
    if len(failed):
        files[results / "tables" / "failures.csv"] = sheets.to_csv(failed).encode()
        files[results / "tables" / "failures.md"] = page.failures_markdown(failed).encode()

    ledger = claims.ledger(material.rows, abouts, material.published)
    files[results / "tables" / "claims.csv"] = sheets.to_csv(ledger).encode()
    copies = tables.copies(material.rows)
    files[results / "tables" / "claims.md"] = page.claims_markdown(ledger, copies).encode()

    with figures.style():
        pictures: list[tuple[Picture, bool]] = []
        saved = iter(saving.images(_figures(material, pictures)))
    drawn: list[tuple[Picture, bytes]] = []
    for picture, there in pictures:
        images = next(saved) if there else {}
        drawn.append((picture, images.get("svg", b"")))
        files |= {results / "figures" / f"{picture.name}.{kind}": data for kind, data in images.items()}

    files[results / "report.html"] = page.render(material, found, ledger, failed, drawn).encode()
    for path, data in files.items():
        write_atomic(path, data)
    _remove_stale(results, set(files))
    return sorted([*files, *copied])


def _figures(material: Material, pictures: list[tuple[Picture, bool]]) -> Iterator[Figure]:
    """The figures as they are made; fills `pictures` with all of them, also those that are gaps."""
    for picture, figure in all_figures(material):
        pictures.append((picture, figure is not None))
        if figure is not None:
            yield figure


def departures(results: Path) -> list[str]:
    """The lines of the ledger that `build` has written whose verdict is not what is expected."""
    ledger = pd.read_csv(Path(results) / "tables" / "claims.csv", keep_default_na=False)
    return [
        f"{line.claim} · {line.preset} · {line.device}: {line.verdict}, expected: {line.expected}. "
        f"{line.statement} ({line.section}). {line.evidence}"
        for line in ledger[ledger["departs"] == "yes"].itertuples()
    ]


def _remove_stale(results: Path, written: set[Path]) -> None:
    for folder, own in _OWN.items():
        for path in sorted((results / folder).glob("*")):
            if path not in written and own.fullmatch(path.name):
                path.unlink(missing_ok=True)
