"""Formatted tables: a tidy frame with a layout, turned into lines of text.

A `Table` states which columns of a tidy frame become blocks, lines and columns; `text_tables` rounds, marks
the best values of each column, and fills gaps with one sign, `—`, whose reason is the hint of its cell.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from bench.records.schema import METRICS, Metric
from bench.report.configurations import Configurations
from bench.report.data_sets import EXPLANATION
from bench.report.data_sets import MARK as DATA
from bench.report.rows import command, note_on_copies

GENERAL = (
    "A number is the mean over training seeds, ± its standard deviation (ddof = 1) where there are several, "
    "which then gives the digits. Where one direction is better (↑ ↓), bold is the best of a column with all "
    "that the paired tests do not tell from it (p ≤ 0.05, Holm, as in the table of paired verdicts), if "
    "every method that competes was measured and tested. — is a gap: not measured, or out of reach."
)
ABSENT = "not measured in these runs"
GAPS = "Published but not measured here; these fill the gaps:"
MISSING = "—"
MARK = " †"  # after every number of a flagged attack
COUNTS = ("members", "crafted_members")  # numbers of networks: written as 1,000
_UNKNOWN = Metric("")  # for metrics outside the schema: no heading, no direction
# Headings of the leading columns.
_LINES = {"members": "networks", "crafted_members": "attacked", "other": "against"}


class Cell(NamedTuple):
    """A text, whether it is among the best of its column, and a command shown after it.

    badge: of a method, the kind of its configuration. hint: told on demand: of a gap its reason, of a badge
    the settings. label: of a method, its name in rows, which tells configurations apart.
    """

    text: str
    best: bool = False
    command: str = ""
    badge: str = ""
    hint: str = ""
    label: str = ""


@dataclass(frozen=True)
class Table:
    """The layout of a tidy frame.

    `frame`: of `rows.summarise`, or with its columns. `blocks`, `lines`, `columns`: columns of the frame
    whose values name a block, a line or a column of the table; values in `first` come first. The best value
    of a column is marked among lines with equal `within`. A frame with the columns `published` and
    `command` gets a published value next to every measured one, and the commands that fill its gaps.
    `part`: section of the page; empty: with its task. `copies`: of `rows.copies`. `show`: instead of
    `columns`, headings with functions from a line of the frame to text, without marks. `remarks`: pairs of
    a block's values and a sentence on it. `configurations`: what names of methods stand for. `best`: which of
    the lines that compete in a column are its best (`paired.leaders`); None: nothing is marked.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    blocks: tuple[str, ...]
    lines: tuple[str, ...]
    columns: tuple[str, ...]
    within: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    part: str = ""
    copies: tuple[Mapping[str, str], ...] = ()
    show: tuple[tuple[str, Callable[[Any], str | Cell]], ...] = ()
    remarks: tuple[tuple[tuple[str, ...], str], ...] = ()
    configurations: Configurations = field(default_factory=dict)
    best: Callable[[Sequence[Any]], Collection[int]] | None = None

    @cached_property
    def texts(self) -> list[TextTable]:
        """The blocks as text, in the order of the frame; Markdown and page show the same."""
        return _texts(self)


@dataclass(frozen=True)
class TextTable:
    """A block of a table as text: `block` maps its fields to values; the first `lead` columns name the line.

    commands: to run for values that were published but not measured. remark: a sentence on the block.
    """

    block: dict[str, str]
    headings: list[str]
    lines: list[list[Cell]]
    lead: int
    commands: tuple[str, ...] = ()
    remark: str = ""


def digits(metric: str, value: float, sd: float = math.nan) -> str:
    """The number formatted for its metric, without unit, and without a sign if it rounds to zero.

    sd: its spread, where there is one: of it two digits are shown, of the number as many decimals, but no
    more than the metric's.
    """
    found = METRICS.get(metric, _UNKNOWN)
    decimals = found.decimals
    value *= found.factor
    sd *= found.factor
    if decimals is None:
        power = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
        decimals = max(0, 2 - power) if abs(value) < 10_000 else 0
        decimals = min(decimals, 6)
    if sd > 0 and math.isfinite(sd):
        decimals = min(decimals, max(0, 1 - math.floor(math.log10(sd))))
    text = f"{value:.{decimals}f}"
    return text if any(c in "123456789" for c in text) else text.lstrip("-")


def heading(metric: str, unit: bool = True) -> str:
    """The metric's heading with its unit, and an arrow if one direction is better."""
    found = METRICS.get(metric, _UNKNOWN)
    arrow = {"higher": "\u00a0↑", "lower": "\u00a0↓"}.get(found.direction, "")
    return (found.heading or metric) + (f"\u00a0[{found.shown}]" if found.shown and unit else "") + arrow


def networks(members: Any) -> str:
    """A number of networks as text."""
    return "1 network" if int(members) == 1 else f"{int(members):,} networks"


def _cell(item: Any, best: bool) -> Cell:
    """A mean with its standard deviation over seeds, or a gap with its reason."""
    if pd.isna(item.mean):
        return Cell(MISSING, hint=getattr(item, "gap", "") or ABSENT)
    text = digits(item.metric, item.mean, item.sd)
    text = text if pd.isna(item.sd) else f"{text} ± {digits(item.metric, item.sd, item.sd)}"
    return Cell(text + (MARK if getattr(item, "flags", "") else ""), best)


def _best(table: Table, items: Sequence[Any], competing: int) -> Collection[int]:
    """Indices of the best of a column; none where not all of the lines that compete have a number."""
    measured = sum(pd.notna(item.mean) for item in items)
    way = METRICS.get(items[0].metric, _UNKNOWN).direction
    if table.best is None or not way or len(items) < competing or not 1 < measured == len(items):
        return ()
    return table.best(items)


def _column_heading(columns: Sequence[str], values: tuple[Any, ...]) -> str:
    """The heading of a column: its layer, metric, size and data set, as far as they apply."""
    parts: list[str] = []
    for name, value in zip(columns, values, strict=True):
        if pd.isna(value) or value == "" or (name == "dataset" and _own(value, parts)):
            continue
        parts.append(
            heading(value) if name == "metric" else networks(value) if name == "members" else str(value)
        )
    return ", ".join(parts)


def _own(dataset: str, parts: Sequence[str]) -> bool:
    """Whether the heading already names the data set, or a subset of it as the training set."""
    return any(part == dataset or part.startswith(f"{dataset}-") for part in parts)


def _column_order(table: Table, block: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The block's distinct columns in the order of `table.columns`, values in `table.first` first."""
    rank = {name: i for i, name in enumerate(table.first)}

    def place(values: tuple[Any, ...]) -> list[Any]:
        order: list[Any] = []
        for name, value in zip(table.columns, values, strict=True):
            if name == "members":
                order.append(-1 if pd.isna(value) else int(value))
            else:
                order += [rank.get(value, len(rank)), "" if value in rank else str(value)]
        return order

    found = {_values(item, table.columns) for item in block.itertuples(index=False)}
    return sorted(found, key=place)


def _values(item: Any, fields: Sequence[str]) -> tuple[Any, ...]:
    return tuple(getattr(item, field) for field in fields)


def _line_cells(table: Table, names: Mapping[str, str], line: tuple[Any, ...]) -> list[Cell]:
    """The cells that name a line; a method by its name, with the kind of its configuration."""
    found = []
    where = dict(zip(table.lines, map(str, line), strict=True)) | dict(names)
    for column, value in zip(table.lines, line, strict=True):
        text = "" if pd.isna(value) else f"{int(value):,}" if column in COUNTS else str(value)
        key = (where.get("preset", ""), where.get("device", ""), where.get("task", ""), text)
        if column in ("method", "other") and (known := table.configurations.get(key)) is not None:
            hint = "; ".join(filter(None, (known.differs, known.settings)))
            found.append(Cell(known.name, badge=known.kind, hint=hint, label=text))
        else:
            found.append(Cell(text))
    return found


def _seeds(items: list[Any]) -> str:
    """The number of seeds of a line: one number, or minimum and maximum."""
    counts = sorted({int(item.seeds) for item in items if item.seeds})
    if not counts:
        return MISSING
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def _compared(table: Table, names: dict[str, str], block: pd.DataFrame) -> TextTable:
    """One block as text, with the best values of each column marked."""
    columns = _column_order(table, block)
    cells: dict[tuple[Any, ...], dict[tuple[Any, ...], Any]] = {}
    rivals: dict[tuple[Any, ...], list[Any]] = {}
    for item in block.itertuples(index=False):
        line, column = _values(item, table.lines), _values(item, table.columns)
        cells.setdefault(line, {})[column] = item
        rivals.setdefault((column, _values(item, table.within)), []).append(item)
    competing = Counter(_values(next(iter(found.values())), table.within) for found in cells.values())
    best = {
        (_values(items[i], table.lines), column)
        for (column, within), items in rivals.items()
        for i in _best(table, items, competing[within])
    }
    beside = {c for items in cells.values() for c, item in items.items() if _published(item)}
    # What was published and measured nowhere in the block has no column of gaps beside it.
    measured = {c for items in cells.values() for c, item in items.items() if pd.notna(item.mean)}
    measured |= set(columns) - beside
    lines = []
    for line, found in cells.items():
        body = []
        for c in columns:
            if c in measured:
                body.append(_cell(found[c], (line, c) in best) if c in found else Cell(MISSING, hint=ABSENT))
            body += [Cell(_published(found.get(c)))] if c in beside else []
        lines.append([*_line_cells(table, names, line), *body, Cell(_seeds(list(found.values())))])
    headings = [_LINES.get(c, c) for c in table.lines]
    for c in columns:
        name = _column_heading(table.columns, c)
        headings += [name] if c in measured else []
        headings += [f"{name}, published"] if c in beside else []
    remark = note_on_copies(table.copies, names)
    return TextTable(names, [*headings, "seeds"], lines, len(table.lines), _commands(block), remark)


def _written(table: Table, names: dict[str, str], block: pd.DataFrame) -> TextTable:
    """One block as text, with one line per line of the frame and cells written by `table.show`."""
    lines = [
        [
            *_line_cells(table, names, _values(item, table.lines)),
            *(told if isinstance(told := write(item), Cell) else Cell(told) for _, write in table.show),
        ]
        for item in block.itertuples(index=False)
    ]
    headings = [*(_LINES.get(c, c) for c in table.lines), *(name for name, _ in table.show)]
    return TextTable(names, headings, lines, len(table.lines), remark=note_on_copies(table.copies, names))


def _published(item: Any) -> str:
    """The published value of an item as text, with its published digits; empty if there is none."""
    value = getattr(item, "published", math.nan)
    if pd.isna(value):
        return ""
    rounded = METRICS[item.metric].decimals is not None
    return digits(item.metric, value) if rounded else f"{value:g}"


def _commands(block: pd.DataFrame) -> tuple[str, ...]:
    """Commands that fill the gaps of a block: one for all methods that lack the same tasks."""
    if "command" not in block:
        return ()
    tasks: dict[str, dict[str, None]] = {}
    gaps = block[block["command"] != ""].sort_index()
    for method, task in zip(gaps["method"], gaps["task"], strict=True):
        tasks.setdefault(method, {})[task] = None
    methods: dict[tuple[str, ...], list[str]] = {}
    for method, lacking in tasks.items():
        methods.setdefault(tuple(lacking), []).append(method)
    preset, device = block["preset"].iloc[0], block["device"].iloc[0]
    return tuple(command(names, lacking, preset, device) for lacking, names in methods.items())


def text_tables(table: Table) -> list[TextTable]:
    """The table's blocks as text, in the order of its frame."""
    return table.texts


def _texts(table: Table) -> list[TextTable]:
    found = []
    for key, block in table.frame.groupby(list(table.blocks), sort=False, dropna=False):
        names = dict(zip(table.blocks, (str(v) for v in key), strict=True))
        examples = block["examples"].dropna().unique()
        if len(examples) == 1 and int(examples[0]):
            names["examples"] = f"{int(examples[0]):,} images"
        block = block.sort_values(list(table.lines), kind="stable", na_position="first")
        if "metric" in names:
            names["metric"] = heading(names["metric"])
        text = _written(table, names, block) if table.show else _compared(table, names, block)
        own = dict(table.remarks).get(tuple(str(v) for v in key), "")
        mixed = EXPLANATION if "task" in block and block["task"].str.contains(DATA, regex=False).any() else ""
        found.append(replace(text, remark=" ".join(filter(None, (own, text.remark, mixed)))))
    return found


_FAILURE_HEADINGS = ("preset", "device", "task", "method", "seed", "error", "message")


def failure_table(failed: pd.DataFrame) -> TextTable:
    """The failed runs as text. failed: the frame of `rows.failures`."""
    shown = failed[list(_FAILURE_HEADINGS)].astype(object)
    lines = [[Cell("" if pd.isna(v) else str(v)) for v in line] for line in shown.itertuples(index=False)]
    return TextTable({}, list(_FAILURE_HEADINGS), lines, len(_FAILURE_HEADINGS))
