"""Tables for a paper: LaTeX with booktabs, made by pandas' Styler."""

from __future__ import annotations

import pandas as pd

from bench.report.layout.tables import Cell, Table, TextTable, text_tables

HEAD = "% needs \\usepackage{booktabs}\n"
# What pdfLaTeX has no letter for; letters with accents it reads by itself.
SIGNS = {
    "\u00a0": "~", "±": r"$\pm$", "†": r"$\dagger$", "⁹": r"$^9$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "≤": r"$\le$", "≥": r"$\ge$", "≯": r"$\not>$", "≱": r"$\not\ge$", "−": r"$-$", "×": r"$\times$",
    "·": r"$\cdot$", "–": "--", "—": "---", "…": r"\dots{}", "→": r"$\to$",
}  # fmt: skip


def to_latex(table: Table) -> str:
    """The whole table: a `table` environment a block, in the order of its frame, under its note."""
    note = "".join(f"% {' '.join(line.split())}\n" for line in (table.title, table.note) if line)
    return HEAD + note + "".join(f"\n{_block(table, text)}" for text in text_tables(table))


def _block(table: Table, text: TextTable) -> str:
    place = " · ".join(dict.fromkeys(value for value in text.block.values() if value))
    frame = pd.DataFrame([[_cell(cell) for cell in line] for line in text.lines])
    frame.columns = pd.Index([escaped(heading) for heading in text.headings])
    label = "-".join((table.name, *text.block.values())).replace(" ", "-")
    return str(
        frame.style.hide(axis="index").to_latex(
            hrules=True,
            column_format="l" * text.lead + "r" * (len(text.headings) - text.lead),
            caption=escaped(f"{table.title} ({place})" if place else table.title),
            label="tab:" + "".join(c for c in label if c.isalnum() or c in "-."),
            position_float="centering",
        )
    )


def _cell(cell: Cell) -> str:
    return rf"\textbf{{{escaped(cell.text)}}}" if cell.best else escaped(cell.text)


def escaped(text: str) -> str:
    """Text for LaTeX: its special characters, and signs that pdfLaTeX lacks, as commands."""
    special: dict[str, str | int | None] = {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "\n": " "},
        **SIGNS,
    }
    return text.translate(str.maketrans(special))
