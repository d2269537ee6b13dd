"""The report's page: one self-contained HTML file without scripts or external files.

Its content is collected here; `page.html` is the template, with autoescape, and `page.css` the style.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from bench.errors import BenchError
from bench.records import store
from bench.report.claims import ledger as claims
from bench.report.claims.comparison import FAILS, HOLDS, UNDECIDED, UNKNOWN
from bench.report.layout.captions import FigureEntry
from bench.report.layout.tables import (
    GAPS,
    GENERAL,
    Cell,
    Table,
    TextTable,
    failure_table,
    text_tables,
)
from bench.report.rows import BLOCK, Material, copies, paper_first
from bench.system.code import NOT_STORED, changed_since

FOLDED = 40  # tables of a task with more lines are collapsed
VERDICTS = (HOLDS, FAILS, UNDECIDED, UNKNOWN)


@dataclass(frozen=True)
class ShownTable:
    """A block of a table with its title. place: data and metric; note: how to read it."""

    name: str
    title: str
    place: str
    text: TextTable
    note: str
    folded: bool


@dataclass(frozen=True)
class ShownFigure:
    """A figure with its caption. image: its SVG in base64; empty for a gap, which the commands fill."""

    name: str
    caption: str
    place: str
    image: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class ShownBlock:
    """One preset on one device.

    measured: tasks that have rows. whole: tables over all tasks. tasks: tables and figures of each task,
    in order. paper: the tables of the paper.
    """

    preset: str
    device: str
    measured: Sequence[str]
    whole: Sequence[ShownTable]
    tasks: Mapping[str, Sequence[ShownTable | ShownFigure]]
    paper: Sequence[ShownTable]


def render(
    material: Material,
    tables: Sequence[Table],
    ledger: pd.DataFrame,
    failed: pd.DataFrame,
    drawn: Sequence[tuple[FigureEntry, bytes]],
) -> str:
    """The whole page. ledger: of `claims`. drawn: each figure's entry with its SVG.

    An empty SVG is a gap, shown as its caption and the commands that fill it.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        anchor=_anchor,
        group_starts=_group_starts,
        facts=_facts(material, failed),
        alarms=material.alarms,
        blocks=list(_blocks(material, tables, drawn)),
        counts=_counts(ledger),
        explanation=claims.EXPLANATION,
        departing=int((ledger["departs"] == "yes").sum()),
        claims=claims.text_tables(ledger, copies(material.rows)),
        failed=failure_table(failed),
        dirty=sum(bool(about.get("dirty")) for about in material.abouts.values()),
        provenance=_provenance(material),
        changed=_changed(material),
        gaps=GAPS,
        general=GENERAL,
    )


def _anchor(*parts: str) -> str:
    """The id of an anchor on the page."""
    return "-".join(part.replace(" ", "-") for part in parts if part)


def _group_starts(lines: Sequence[Sequence[Cell]]) -> set[int]:
    """Indices of lines that begin a group with the same first cell; empty if no two lines share it."""
    first = [line[0].text for line in lines]
    if len(set(first)) == len(first):
        return set()
    return {i for i in range(1, len(first)) if first[i] != first[i - 1]}


def _facts(material: Material, failed: pd.DataFrame) -> dict[str, str]:
    """Runs, methods, tasks and seeds on the page."""
    rows = material.rows
    seeds = sorted({int(s) for s in rows["seed"].dropna()})
    return {
        "runs": f"{len(material.abouts)}, of which {len(failed)} failed",
        "rows": f"{int((rows['metric'] != 'failed').sum()):,}",
        "methods": ", ".join(sorted(set(rows["method"]))),
        "tasks": ", ".join(sorted(set(rows["task"]))),
        "seeds": ", ".join(map(str, seeds)) or "none",
    }


def _blocks(
    material: Material, tables: Sequence[Table], drawn: Sequence[tuple[FigureEntry, bytes]]
) -> Iterator[ShownBlock]:
    """Each preset and device: the summary, each task with its tables and figures, the paper's tables."""
    laid = [(table, text) for table in tables for text in text_tables(table)]
    for (preset, device), rows in material.rows.groupby(list(BLOCK), sort=False):
        here = {"preset": str(preset), "device": str(device)}
        own = [(table, text) for table, text in laid if here.items() <= text.block.items()]
        figures = [(entry, svg) for entry, svg in drawn if here.items() <= entry.block.items()]
        paper = [_table(table, text) for table, text in own if table.part == "paper"]
        own = [(table, text) for table, text in own if table.part != "paper"]
        tasks = {text.block["task"] for _, text in own if "task" in text.block}
        tasks |= {entry.block["task"] for entry, _ in figures}
        yield ShownBlock(
            **here,
            measured=paper_first(rows["task"]),
            whole=[_table(table, text) for table, text in own if "task" not in text.block],
            tasks={
                task: _of_task(
                    [_table(table, text) for table, text in own if text.block.get("task") == task],
                    [(entry, svg) for entry, svg in figures if entry.block["task"] == task],
                )
                for task in paper_first(tasks)
            },
            paper=paper,
        )


def _of_task(
    tables: Sequence[ShownTable], figures: Sequence[tuple[FigureEntry, bytes]]
) -> list[ShownTable | ShownFigure]:
    """The tables of a task, each followed by its figures; then figures whose table has no lines."""
    names = list(dict.fromkeys(table.name for table in tables))
    parts: list[ShownTable | ShownFigure] = []
    for name in names:
        parts += [table for table in tables if table.name == name]
        parts += [_figure(entry, svg) for entry, svg in figures if entry.after == name]
    return parts + [_figure(entry, svg) for entry, svg in figures if entry.after not in names]


def _table(table: Table, text: TextTable) -> ShownTable:
    """A block of a table, with its data and notes."""
    told = (text.block.get(key) for key in ("train", "dataset", "metric", "examples"))
    return ShownTable(
        table.name,
        table.title,
        " · ".join(filter(None, told)),
        text,
        " ".join(filter(None, (table.note, text.remark))),
        folded="task" in text.block and len(text.lines) > FOLDED,
    )


def _figure(entry: FigureEntry, svg: bytes) -> ShownFigure:
    # As an image, not inline: ids of several SVG files in one document would clash.
    image = base64.b64encode(svg).decode()
    place = " · ".join(entry.block[key] for key in ("task", "preset", "device"))
    return ShownFigure(entry.name, entry.caption, place, image, entry.commands)


def _counts(ledger: pd.DataFrame) -> str:
    """The numbers of claims by verdict, by block and method judged."""
    found = []
    for (preset, device, judged), part in ledger.groupby([*BLOCK, "judged_on"], sort=False):
        counts = Counter(part["verdict"])
        numbers = ", ".join(f"{name} {counts[name]}" for name in VERDICTS if counts[name])
        found.append(f"{preset} · {device} · {judged}: {numbers}")
    return "; ".join(found)


def _provenance(material: Material) -> TextTable:
    """The number of runs by commit, code, device and library versions."""
    headings = ["commit", "tree", "code", "device", "torch", "Python", "threads", "runs"]
    counts: Counter[tuple[str, ...]] = Counter()
    for about in material.abouts.values():
        where = about.get("environment") or {}
        tree = "dirty" if about.get("dirty") else "clean"
        machine = (str(where.get(key, "")) for key in ("device", "torch", "python", "threads"))
        counts[(_short(about.get("commit")), tree, _short(about.get("code")), *machine)] += 1
    lines = [[Cell(text) for text in (*key, str(n))] for key, n in sorted(counts.items())]
    return TextTable({}, headings, lines, lead=7)


def _changed(material: Material) -> TextTable:
    """How many runs other code would make now, by the definitions that have changed since."""
    counts: Counter[str] = Counter()
    for about in material.abouts.values():
        if about["failure"]:
            continue
        since = _since(material.results, about["code"])
        if since:
            counts[since] += 1
    lines = [[Cell(since), Cell(str(count))] for since, count in sorted(counts.items())]
    return TextTable({}, ["changed since", "runs"], lines, lead=1)


def _since(results: Path, code: str) -> str:
    """What has changed since a code version; empty if nothing has."""
    try:
        known = store.read_code(results, code)
    except BenchError as error:
        return str(error)
    return NOT_STORED if known is None else changed_since(known.definitions, known.roots)


def _short(value: Any) -> str:
    """The first twelve digits of a hash; a mapping of hashes as JSON."""
    if isinstance(value, dict):
        return json.dumps({k: str(v)[:12] for k, v in value.items()}, sort_keys=True)
    return str(value or "")[:12]
