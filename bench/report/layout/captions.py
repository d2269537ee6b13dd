"""Names, captions and positions of figures, shared by all sections that draw."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from bench.report.arrays import PREFERRED
from bench.report.rows import command, without_configuration

BY_SIZE = "Lines of one ensemble size compete with each other; 1 network is the mean of single networks. "
INTERVALS = "bars are 95 % intervals, over seeds if several (t), otherwise over images (Clopper and Pearson)"
OVER_SEEDS = "bars are 95 % t-intervals over seeds, if several"
# For figures of what older runs did not store: such runs are stale and need --stale to run again.
_AGAIN = " --stale"


@dataclass(frozen=True)
class FigureEntry:
    """A figure's kind and file name (without suffix), its block and task, and its caption.

    short: a name without preset and device, given to the first figure that requests it. commands: to
    run for missing parts of the figure. after: the table that it follows on the page, set from the
    section's `FIGURES`.
    """

    kind: str
    name: str
    block: dict[str, str]
    caption: str
    short: str = ""
    commands: tuple[str, ...] = ()
    after: str = ""


def figure_entry(
    kind: str, subject: str, frame: pd.DataFrame, caption: str, task: str, commands: Sequence[str] = ()
) -> FigureEntry:
    """An entry named by kind, subject and preset, and by the device if it is not the CPU.

    frame: lines of one preset and device. task: under which the figure appears on the page.
    """
    preset, device = str(frame["preset"].iloc[0]), str(frame["device"].iloc[0])
    name = _safe("-".join([kind, subject, preset, *([device] if device not in ("", "cpu") else [])]))
    block = {"preset": preset, "device": device, "task": task}
    return FigureEntry(kind, name, block, caption, commands=tuple(commands))


def paper_entry(
    number: int,
    frame: pd.DataFrame,
    caption: str,
    task: str,
    *,
    subject: str = "",
    commands: Sequence[str] = (),
) -> FigureEntry:
    """Figure `number` of the paper: `figure5-digits`, or `figure5-digits-smoke` if a better preset has it.

    subject: replaces the task in the file name. Short names are assigned by `with_short_names`, over all
    figures of a report.
    """
    kind = f"figure{number}"
    found = figure_entry(kind, subject or task, frame, caption, task, commands)
    return replace(found, short=_safe(f"{kind}-{subject or task}"))


# An entry with the call that draws its figure, a function of a module with all that it shows; None if the
# necessary arrays are missing: the commands of the entry fill the gap.
Drawing = tuple[FigureEntry, "partial[Figure] | None"]


@dataclass(frozen=True)
class Place:
    """The place of a figure among several that show subsets of the methods: number 1 keeps the plain name."""

    number: int
    of: int

    @property
    def words(self) -> str:
        """For a title."""
        return f" ({self.number} of {self.of})" if self.of > 1 else ""

    def name(self, subject: str) -> str:
        """For a file name."""
        return subject if self.number == 1 else f"{subject}-{self.number}"


def numbered(subsets: Sequence[list[str]]) -> Iterator[tuple[Place, list[str]]]:
    """The subsets of methods with the place of their figures."""
    for i, methods in enumerate(subsets):
        yield Place(i + 1, len(subsets)), methods


def with_short_names(found: Iterable[Drawing]) -> Iterator[Drawing]:
    """The figures, each short name given to the first that requests it; gaps do not request one.

    Blocks come in the order of the report, so that the first is the best preset that has the figure:
    paper before quick before smoke, then by device.
    """
    taken: set[str] = set()
    for entry, figure in found:
        if figure is not None and entry.short and entry.short not in taken:
            taken.add(entry.short)
            entry = replace(entry, name=entry.short)
        yield entry, figure


def where(frame: pd.DataFrame, subject: str) -> str:
    """The second part of a figure's title: subject, preset and device of the frame."""
    return f"{subject} · preset {frame['preset'].iloc[0]} · {frame['device'].iloc[0]}"


def command_for(frame: pd.DataFrame, methods: Sequence[str], task: str) -> str:
    """The command that runs methods on a task, with the preset and device of the frame."""
    return command(methods, [task], str(frame["preset"].iloc[0]), str(frame["device"].iloc[0]))


def again_for(frame: pd.DataFrame, methods: Sequence[str], task: str) -> str:
    """The command that runs methods again whose rows or arrays are of an earlier version of the code."""
    return command_for(frame, methods, task) + _AGAIN


def gap(own: pd.DataFrame, task: str, subject: str, number: int, lacks: str) -> Drawing:
    """An entry without a figure, whose command stores the arrays that the figure needs."""
    methods = sorted(set(without_configuration(own["method"])))
    first = [*(m for m in PREFERRED if m in methods), *methods][:1]
    again = again_for(own, first, task)
    caption = f"Figure {number} is not drawn: no run of this block kept the {lacks} it shows; this does:"
    return paper_entry(number, own, caption, task, subject=subject, commands=[again]), None


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+-*", "-", name).strip("-")
