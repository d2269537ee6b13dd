"""The sections of the report, in order: to add one, add a module to this package and list it in `SECTIONS`.

A section owns its numbers, its tables, its figures with their captions, and their position on the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol

from bench.report.data_sets import EXPLANATION, MARK
from bench.report.layout.captions import Drawing, with_short_names
from bench.report.layout.figures import Styles, method_styles
from bench.report.layout.tables import Table
from bench.report.paired import leaders
from bench.report.rows import BLOCK, Material, copies, note_on_copies
from bench.report.sections import (
    accuracy,
    attacks,
    budgets,
    comparisons,
    defence,
    diversity,
    outliers,
    paper,
    pareto,
    regression,
    robustness,
    shift,
    summary,
    training,
    tuning,
)


class Section(Protocol):
    """The interface of a module of this package.

    NAME: of the section, in messages. FIGURES: each kind of figure (the prefix of its file names) with the
    table that it follows on the page; if a task lacks that table, the figure comes last.
    """

    @property
    def NAME(self) -> str: ...

    @property
    def FIGURES(self) -> Mapping[str, str]: ...

    def tables(self, material: Material) -> list[Table]:
        """All tables of the section, including those without lines, which are not written."""

    def figures(self, part: Material, styles: Styles) -> Iterator[Drawing]:
        """The figures of one preset and device; part: the material, restricted to their rows."""


# In the order of the page, within each task.
SECTIONS: tuple[Section, ...] = (
    summary,
    accuracy,
    shift,
    outliers,
    training,
    diversity,
    budgets,
    pareto,
    attacks,
    robustness,
    defence,
    comparisons,
    regression,
    tuning,
    paper,
)


def all_tables(material: Material) -> list[Table]:
    """All tables of all sections in order, including those without lines."""
    lossy, told, best = copies(material.rows), material.configurations, partial(leaders, material)
    return [
        replace(table, copies=lossy, configurations=told, best=best)
        for section in SECTIONS
        for table in section.tables(material)
    ]


def all_figures(material: Material) -> Iterator[Drawing]:
    """All figures that have rows, or gaps if they lack arrays; to be drawn inside `drawing_style()`."""
    lossy = copies(material.rows)
    for entry, figure in with_short_names(_drawn(material)):
        mixed = EXPLANATION if MARK in entry.block["task"] else ""
        caption = " ".join(filter(None, (entry.caption, note_on_copies(lossy, entry.block), mixed)))
        yield replace(entry, caption=caption), figure


def figure_kinds() -> list[str]:
    """The kinds of figures that sections may draw."""
    return [kind for section in SECTIONS for kind in section.FIGURES]


def _drawn(material: Material) -> Iterator[Drawing]:
    """The figures by block, each with the table that it follows."""
    measured = material.rows["metric"] != "failed"
    styles = method_styles(material.rows.loc[measured, "method"].tolist())
    for _, rows in material.rows.groupby(list(BLOCK), sort=False):
        for section in SECTIONS:
            for entry, figure in section.figures(replace(material, rows=rows), styles):
                if entry.kind not in section.FIGURES:
                    raise ValueError(
                        f"section {section.NAME}: expected a figure of a kind in FIGURES "
                        f"({', '.join(section.FIGURES)}), found {entry.kind!r}; add it there"
                    )
                yield replace(entry, after=section.FIGURES[entry.kind]), figure
