"""The report: tables, figures, the ledger of claims and the page, from a results folder. Needs no torch.

Imports go down this list: `output` writes files; `first_screen` and `methods` say what the page begins and
ends with; `families` and `ranks` rank the methods by the `questions`; `claims` tests the paper's claims; each
module of `sections` owns the numbers, tables and figures of one subject; `layout` defines how tables and
figures look; `paired` tests differences of methods, for sections and claims alike; `rows`, `arrays`, `flags`,
`costs` and `uncertainty` compute numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from bench.records import readme, runs
from bench.report import data_sets, published
from bench.report.claims.ledger import ledger
from bench.report.layout.captions import FigureEntry
from bench.report.layout.tables import Table
from bench.report.output import page
from bench.report.output.images import KINDS, RECORD, images
from bench.report.output.markdown import claims_markdown, failures_markdown, to_csv, to_markdown
from bench.report.rows import Abouts, Material, copies, failures, prepare
from bench.report.sections import all_figures, all_tables, figure_kinds
from bench.system.files import write_atomic

__all__ = ["build", "departures"]

_log = logging.getLogger("bench")
_UNSEALED = (
    "{} runs were stored without a digest of their rows, by an older version; they are read as they are"
)


def build(
    results: Path, single_file: bool = False, told: Callable[[str], None] = lambda step: None
) -> list[Path]:
    """Write all tables, figures, `report.html` and the README of a results folder, deterministically.

    results: the folder whose `raw/` holds the runs; a copy of the published values is added if
    missing. single_file: with the figures inside the page. told: called with what is done next, as
    "tables". Returns the written paths, sorted. Tables and
    figures of an earlier build that no longer have rows are removed. What is left out, and a name that holds
    several data sets, is logged and stands on the page. Raises: BenchError if there is no run, or the folder
    cannot be written.
    """
    results = Path(results)
    told("rows")
    found = runs.read(results)
    rows = found.newest()
    abouts = {run: found.runs[run].about for run in sorted(set(rows["run"]))}
    copied = published.provide(results)
    material = _material(results, found, prepare(rows, abouts), abouts)
    files: dict[Path, bytes] = {}

    told("tables")
    tables = all_tables(material)
    known = {table.name for table in tables} | {"failures", "claims"}
    tables = [table for table in tables if len(table.frame)]
    failed = failures(material.rows, abouts)
    told("claims")
    verdicts = ledger(material)
    for name, text in _texts(material, tables, failed, verdicts):
        files[results / "tables" / name] = text.encode()
    drawn = []
    told("figures")
    figures, record = _drawn(material)
    files |= {results / "figures" / RECORD: record} if any(kinds for _, kinds in figures) else {}
    for entry, kinds in figures:
        drawn.append((entry, kinds))
        files |= {results / "figures" / f"{entry.name}.{kind}": data for kind, data in kinds.items()}
    told("page")
    shown = page.render(material, tables, verdicts, failed, drawn, single_file)
    files[results / "report.html"] = shown.encode()
    files[results / readme.NAME] = readme.text().encode()

    for path, data in files.items():
        write_atomic(path, data)
    _remove_stale(results, set(files), known)
    return sorted([*files, *copied])


def _material(results: Path, found: runs.Found, rows: pd.DataFrame, abouts: Abouts) -> Material:
    """The input of the report, with alarms; those that `runs.read` has not logged are logged."""
    mixed = data_sets.notes(rows, abouts)
    if found.unsealed:
        # Said, not raised: their files are from before digests of rows were stored.
        _log.warning("Note: %s", _UNSEALED.format(len(found.unsealed)))
    for line in mixed:
        _log.warning("Warning: %s", line)
    left_out = tuple(f"Left out: {line}." for line in found.left_out)
    return Material(results, rows, abouts, published.read(results), (*left_out, *mixed))


def _texts(
    material: Material, tables: list[Table], failed: pd.DataFrame, verdicts: pd.DataFrame
) -> Iterator[tuple[str, str]]:
    """Name and text of every file of the folder `tables`."""
    for table in tables:
        yield f"{table.name}.csv", to_csv(table.frame)
        yield f"{table.name}.md", to_markdown(table)
    if len(failed):
        yield "failures.csv", to_csv(failed)
        yield "failures.md", failures_markdown(failed)
    yield "claims.csv", to_csv(verdicts)
    yield "claims.md", claims_markdown(verdicts, copies(material.rows))


def _drawn(material: Material) -> tuple[list[tuple[FigureEntry, dict[str, bytes]]], bytes]:
    """Every figure with its bytes by file type, empty for a gap; and the record of what they show."""
    entries = list(all_figures(material))
    plans = {entry.name: plan for entry, plan in entries if plan is not None}
    saved, record = images(plans, material.results / "figures")
    return [(entry, saved[entry.name] if plan is not None else {}) for entry, plan in entries], record


def _remove_stale(results: Path, written: set[Path], tables: set[str]) -> None:
    """Remove tables and figures of an earlier build that this one did not write."""
    stale = [results / "tables" / f"{name}.{kind}" for name in tables for kind in ("csv", "md")]
    for kind in KINDS:
        for name in figure_kinds():
            stale += (results / "figures").glob(f"{name}-*.{kind}")
    for path in stale:
        if path not in written:
            path.unlink(missing_ok=True)


def departures(results: Path) -> list[str]:
    """Lines of the ledger written by `build` whose verdict is not the expected one."""
    ledger = pd.read_csv(Path(results) / "tables" / "claims.csv", keep_default_na=False)
    return [
        f"{line.claim} · {line.judged_on} · {line.preset} · {line.device}: {line.verdict}, "
        f"expected: {line.expected}, {line.reason}. {line.statement} ({line.section}). {line.evidence}"
        for line in ledger[ledger["departs"] == "yes"].itertuples()
    ]
