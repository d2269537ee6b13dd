"""The sections of the report, in order: a new one is a module of this package and its place in `SECTIONS`.

A section owns its numbers, its tables, its figures with their captions, and where those stand on the page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from bench.report.layout.captions import Drawing, with_short_names
from bench.report.layout.figures import Styles, method_styles
from bench.report.layout.tables import Table
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
    summary,
    training,
)


class Section(Protocol):
    """What a module of this package has.

    NAME: of the section, in messages. FIGURES: each kind of its figures, the beginning of their file names,
    and the table behind which they stand on the page; where a task lacks that table they stand at its end.
    """

    @property
    def NAME(self) -> str: ...

    @property
    def FIGURES(self) -> Mapping[str, str]: ...

    def tables(self, material: Material) -> list[Table]:
        """All tables of the section, also those without lines, which are not written."""

    def figures(self, part: Material, styles: Styles) -> Iterator[Drawing]:
        """The figures of one preset and device; part: the material with its rows alone."""


# In the order of the page: within a task first by table, then as the sections stand here.
SECTIONS: tuple[Section, ...] = (
    summary,
    accuracy,
    outliers,
    training,
    diversity,
    budgets,
    pareto,
    attacks,
    defence,
    comparisons,
    regression,
    paper,
)


def all_tables(material: Material) -> list[Table]:
    """Every table of every section in order, also those without lines."""
    lossy = copies(material.rows)
    return [replace(table, copies=lossy) for section in SECTIONS for table in section.tables(material)]


def all_figures(material: Material) -> Iterator[Drawing]:
    """Every figure that has rows, and the gaps of those that lack arrays; drawn inside `drawing_style()`."""
    lossy = copies(material.rows)
    for entry, figure in with_short_names(_drawn(material)):
        caption = " ".join(filter(None, (entry.caption, note_on_copies(lossy, entry.block))))
        yield replace(entry, caption=caption), figure


def figure_kinds() -> list[str]:
    """The kinds of figures that sections may draw."""
    return [kind for section in SECTIONS for kind in section.FIGURES]


def _drawn(material: Material) -> Iterator[Drawing]:
    """The figures block by block, each with the table behind which it stands."""
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
