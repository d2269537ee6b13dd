"""The report's page: an HTML file that needs no network; its figures are files beside it or embedded.

Its content is collected here; `page.html` is the template, with autoescape, `page.css` the style and
`page.js` a script that sorts and filters, without which everything can still be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from bench.report.claims import ledger as claims
from bench.report.claims.comparison import UNKNOWN
from bench.report.configurations import method_family
from bench.report.families import Family, RankedTable, families, ranked_table
from bench.report.first_screen import MARKS, claim_key, first_screen
from bench.report.layout.captions import FigureEntry
from bench.report.layout.tables import GAPS, GENERAL, Cell, Table, failure_table, text_tables
from bench.report.methods import cards
from bench.report.output.folds import (
    Drawn,
    Gap,
    ShownFigure,
    ShownTable,
    gap,
    shown_figure,
    shown_table,
)
from bench.report.output.provenance import Run, changed, provenance, runs_of
from bench.report.paired import VERDICTS
from bench.report.rows import BLOCK, Material, copies, note_on_copies, paper_first


@dataclass(frozen=True)
class ShownTask:
    """A task: its ranked table, if it answers a question, then what is folded below."""

    name: str
    ranked: RankedTable | None
    parts: Sequence[ShownTable | ShownFigure]
    gap: Gap | None


@dataclass(frozen=True)
class ShownBlock:
    """One preset on one device.

    tasks: in report order. whole: tables over all tasks, then those of the paper. runs: by task and method.
    """

    preset: str
    device: str
    tasks: Sequence[ShownTask]
    whole: Sequence[ShownTable]
    runs: Mapping[tuple[str, str], Sequence[Run]]


def render(
    material: Material,
    tables: Sequence[Table],
    ledger: pd.DataFrame,
    failed: pd.DataFrame,
    drawn: Sequence[Drawn],
    single_file: bool = False,
) -> str:
    """The whole page. ledger: of `claims`. drawn: each figure's entry with its bytes by type; none is a gap.

    single_file: with the figures inside; otherwise it shows the files in the folder `figures`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    verdicts = next((table.frame for table in tables if table.name == "verdicts"), None)
    found = families(material, pd.DataFrame(columns=list(VERDICTS)) if verdicts is None else verdicts)
    blocks = list(_blocks(material, tables, drawn, found, single_file))
    return environment.get_template("page.html").render(
        anchor=anchor,
        group_starts=_group_starts,
        family=method_family,
        marks=MARKS,
        unknown=UNKNOWN,
        claim_key=claim_key,
        facts=_facts(material, failed),
        alarms=material.alarms,
        first=list(first_screen(found, ledger)),
        blocks=blocks,
        explanation=claims.EXPLANATION,
        departing=int((ledger["departs"] == "yes").sum()),
        claims=_claims(ledger, material),
        cards=list(cards(material, found)),
        failed=failure_table(failed),
        dirty=sum(bool(about.get("dirty")) for about in material.abouts.values()),
        provenance=provenance(material),
        changed=changed(material),
        gaps=GAPS,
        general=GENERAL,
    )


def anchor(*parts: str) -> str:
    """The id of an anchor on the page."""
    return re.sub(r"[^\w.:-]+", "-", "-".join(part for part in parts if part))


def _group_starts(lines: Sequence[Sequence[Cell]]) -> set[int]:
    """Indices of lines that begin a group with the same first cell; empty if no two lines share it."""
    first = [line[0].text for line in lines]
    if len(set(first)) == len(first):
        return set()
    return {i for i in range(1, len(first)) if first[i] != first[i - 1]}


def _facts(material: Material, failed: pd.DataFrame) -> str:
    """Runs, rows, methods, tasks and seeds on the page, in a line."""
    rows = material.rows
    seeds = sorted({int(s) for s in rows["seed"].dropna()})
    counts = (
        f"{len(material.abouts)} runs" + (f", of which {len(failed)} failed" if len(failed) else ""),
        f"{int((rows['metric'] != 'failed').sum()):,} rows",
        f"{rows['method'].nunique()} methods and variants",
        f"{rows['task'].nunique()} tasks",
        f"seeds {', '.join(map(str, seeds)) or 'none'}",
    )
    return " · ".join(counts)


_Lines = list[dict[str, Any]]  # of the ledger


def _claims(ledger: pd.DataFrame, material: Material) -> list[tuple[dict[str, str], str, _Lines]]:
    """By preset and device: the block, a note on lossy copies, and the lines that were judged."""
    lossy = copies(material.rows)
    found = []
    for key, part in ledger[ledger["verdict"] != UNKNOWN].groupby(list(BLOCK), sort=False):
        block = dict(zip(BLOCK, map(str, key), strict=True))
        lines = [{str(k): v for k, v in line.items()} for line in part.to_dict("records")]
        found.append((block, note_on_copies(lossy, block), lines))
    return found


def _blocks(
    material: Material, tables: Sequence[Table], drawn: Sequence[Drawn], found: Sequence[Family], embed: bool
) -> Iterator[ShownBlock]:
    """Each preset and device: each task with its tables and figures, then tables over all tasks."""
    laid = [(table, text) for table in tables for text in text_tables(table)]
    for (preset, device), _ in material.rows.groupby(list(BLOCK), sort=False):
        here = {"preset": str(preset), "device": str(device)}
        own = [shown_table(table, text) for table, text in laid if here.items() <= text.block.items()]
        figures = [(entry, kinds) for entry, kinds in drawn if here.items() <= entry.block.items()]
        ranked = {
            task: ranked_table(family, task)
            for family in found
            if (family.preset, family.device) == (preset, device)
            for task in family.tasks
        }
        names = {shown.text.block["task"] for shown in own if "task" in shown.text.block}
        names |= {entry.block["task"] for entry, _ in figures} | set(ranked)
        tasks = []
        for task in paper_first(names):
            inside = [shown for shown in own if shown.text.block.get("task") == task]
            mine = [(entry, kinds) for entry, kinds in figures if entry.block["task"] == task]
            parts = _parts(inside, [(entry, kinds) for entry, kinds in mine if kinds], embed)
            lacking = gap([entry for entry, kinds in mine if not kinds])
            tasks.append(ShownTask(task, ranked.get(task), parts, lacking))
        whole = [shown for shown in own if "task" not in shown.text.block]
        yield ShownBlock(**here, tasks=tasks, whole=whole, runs=runs_of(material, str(preset), str(device)))


def _parts(
    tables: Sequence[ShownTable], figures: Sequence[tuple[FigureEntry, Mapping[str, bytes]]], embed: bool
) -> list[ShownTable | ShownFigure]:
    """The tables of a task, each followed by its figures; then figures whose table has no lines."""
    names = list(dict.fromkeys(table.name for table in tables))
    parts: list[ShownTable | ShownFigure] = []
    for name in names:
        parts += [table for table in tables if table.name == name]
        parts += [shown_figure(entry, kinds, embed) for entry, kinds in figures if entry.after == name]
    return parts + [shown_figure(entry, kinds, embed) for entry, kinds in figures if entry.after not in names]
