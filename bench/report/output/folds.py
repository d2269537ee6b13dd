"""Tables and figures as the page folds them: each under a line that says what is inside and what it shows."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report.layout.captions import FigureEntry
from bench.report.layout.tables import Cell, Table, TextTable

Drawn = tuple[FigureEntry, Mapping[str, bytes]]
MAX_NAMES = 3  # best lines named in a summary
_ARROWS = re.compile("[\u00a0 ]*[↑↓]")


@dataclass(frozen=True)
class ShownTable:
    """A block of a table with its title.

    place: data and metric; finding: what it mainly shows; note: how to read it.
    """

    name: str
    title: str
    place: str
    text: TextTable
    finding: str
    note: str


@dataclass(frozen=True)
class ShownFigure:
    """A figure with its caption. source: the image's address; kinds: the types of its files."""

    name: str
    caption: str
    source: str
    kinds: Sequence[str]
    commands: Sequence[str]


@dataclass(frozen=True)
class Gap:
    """Figures that are not drawn: how many, and the commands that store what they lack."""

    figures: int
    captions: Sequence[str]
    commands: Sequence[str]


def shown_table(table: Table, text: TextTable) -> ShownTable:
    """A block of a table, with its data and notes."""
    told = (text.block.get(key) for key in ("train", "dataset", "metric", "examples"))
    return ShownTable(
        table.name,
        table.title,
        " · ".join(filter(None, told)),
        text,
        finding(text),
        " ".join(filter(None, (table.note, text.remark))),
    )


def finding(text: TextTable) -> str:
    """What a table mainly shows: verdicts or flags by number, or the best of its most telling column."""
    for name in ("verdict", "flag"):
        if name in text.headings:
            return _counted([line[text.headings.index(name)].text for line in text.lines])
    best = [i for i in range(text.lead, len(text.headings)) if any(line[i].best for line in text.lines)]
    if not best:
        return ""
    # Of columns by size the largest, of columns by metric the first.
    by_size = all(re.search(r"networks?$", text.headings[i]) for i in best)
    column = best[-1 if by_size else 0]
    lines = [line for line in text.lines if line[column].best]
    last = _where(text, lines[-1])
    lines = [line for line in lines if _where(text, line) == last]
    names = list(dict.fromkeys(_name(text, line) for line in lines))
    named = ", ".join(names[:MAX_NAMES]) + (
        f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    )
    told = ", ".join(filter(None, (named, last)))
    return f"best {_ARROWS.sub('', text.headings[column])}: {lines[-1][column].text} ({told})"


def _name(text: TextTable, line: Sequence[Cell]) -> str:
    """The method of a line, or all cells that name it."""
    if "method" in text.headings:
        return line[text.headings.index("method")].text
    return " ".join(filter(None, (cell.text for cell in line[: text.lead])))


def _where(text: TextTable, line: Sequence[Cell]) -> str:
    """The other cells that name a line, if one is its method."""
    leading = list(zip(text.headings[: text.lead], line, strict=False))
    if "method" not in text.headings:
        return ""
    return ", ".join(
        f"{cell.text} networks" if heading == "networks" else f"{heading} {cell.text}"
        for heading, cell in leading
        if cell.text and heading != "method"
    )


def _counted(words: Sequence[str]) -> str:
    """How often each verdict or flag was given; which method is higher does not matter."""
    kinds = Counter(
        "not tested" if word.startswith("not tested") else "decided" if word.endswith(" higher") else word
        for word in words
    )
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def shown_figure(entry: FigureEntry, kinds: Mapping[str, bytes], embed: bool) -> ShownFigure:
    """A figure as an image, not inline: ids of several SVG files in one document would clash.

    embed: as part of the page; otherwise as the file beside it.
    """
    source = f"figures/{entry.name}.svg"
    if embed:
        source = f"data:image/svg+xml;base64,{base64.b64encode(kinds['svg']).decode()}"
    return ShownFigure(entry.name, entry.caption, source, list(kinds), entry.commands)


def gap(figures: Sequence[FigureEntry]) -> Gap | None:
    """The figures of a task that are not drawn; None if all are."""
    commands = dict.fromkeys(command for entry in figures for command in entry.commands)
    return Gap(len(figures), [entry.caption for entry in figures], list(commands)) if figures else None
