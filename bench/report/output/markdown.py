"""Tables as files: Markdown for readers, CSV for programs."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import pandas as pd

from bench.report.claims import ledger as claims
from bench.report.configurations import OTHER
from bench.report.layout.tables import (
    GAPS,
    GENERAL,
    Cell,
    Table,
    failure_table,
    text_tables,
)


def lines_to_markdown(headings: Sequence[str], lines: Sequence[Sequence[Cell]], lead: int) -> str:
    """A Markdown table: leading columns left-aligned, numbers right-aligned, the best in bold."""
    rule = ["---"] * lead + ["---:"] * (len(headings) - lead)
    bar = "\\|"

    def text(cell: Cell) -> str:
        shown = f"{cell.text} [{cell.hint.partition('; ')[0]}]" if cell.badge == OTHER else cell.text
        safe = html.escape(shown, quote=False).replace("|", bar).replace("\n", " ")
        safe = f"**{safe}**" if cell.best else safe
        return f"{safe} `{cell.command.replace('|', bar)}`" if cell.command else safe

    rows = [[text(Cell(h)) for h in headings], rule, *([text(c) for c in line] for line in lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_markdown(table: Table) -> str:
    """The whole table as Markdown: its note, then a heading and a table per block."""
    note = table.note if table.show else f"{GENERAL} {table.note}"
    parts = [f"# {table.title}\n\n{note}\n"]
    for text in text_tables(table):
        title = " · ".join(dict.fromkeys(v for v in text.block.values() if v))
        parts.append(f"\n## {title}\n\n{lines_to_markdown(text.headings, text.lines, text.lead)}")
        if text.remark:
            parts.append(f"\n{text.remark}\n")
        if text.commands:
            parts.append(f"\n{GAPS}\n\n" + "".join(f"- `{text}`\n" for text in text.commands))
    return "".join(parts)


def to_csv(frame: pd.DataFrame) -> str:
    """The tidy frame as CSV: floats in the shortest exact form, empty if nothing was measured.

    Where a line has no number, the column `gap` says why.
    """
    return frame.to_csv(index=False, lineterminator="\n")


def failures_markdown(failed: pd.DataFrame) -> str:
    """The failed runs as a Markdown table."""
    text = failure_table(failed)
    return "# Failures\n\n" + lines_to_markdown(text.headings, text.lines, text.lead)


def claims_markdown(ledger: pd.DataFrame, copies: Sequence[Mapping[str, str]]) -> str:
    """The ledger as Markdown, one heading per preset and device. copies: of `rows.copies`."""
    parts = [f"# Claims of the paper\n\n{claims.EXPLANATION}\n"]
    for text in claims.text_tables(ledger, copies):
        table = lines_to_markdown(text.headings, text.lines, text.lead)
        title = f"{text.block['preset']} · {text.block['device']}"
        parts.append(f"\n## {title}\n\n{table}" + (f"\n{text.remark}\n" if text.remark else ""))
    return "".join(parts)
