"""How a figure is named and captioned, and where it stands: shared by every section that draws."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from bench.report.arrays import PROPOSED
from bench.report.rows import command, without_configuration

BY_SIZE = "Lines of one ensemble size compete with each other; 1 network is the mean of single networks. "
# A figure of arrays that older runs did not keep: such a run is stale, and done again only when asked.
_AGAIN = " --stale"


@dataclass(frozen=True)
class FigureEntry:
    """A figure's kind and file name (without suffix), the block and task it belongs to, and its caption.

    short: the name without preset and device, for the first figure that asks for it. commands: what to
    run for what the figure lacks. after: the table behind which it stands on the page, set from the
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
    """A name of kind, subject and preset, and of the device where it is not the CPU.

    frame: lines of one preset and device. task: where the figure stands on the page.
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
    """Figure `number` of the paper: `figure5-digits`, and `figure5-digits-smoke` behind a better preset.

    subject: what the file is named after, if not the task. Whether the short name is free is seen by
    `with_short_names`, over all figures of a report.
    """
    kind = f"figure{number}"
    found = figure_entry(kind, subject or task, frame, caption, task, commands)
    return replace(found, short=_safe(f"{kind}-{subject or task}"))


# A figure, or None where the rows are there and what the figure shows is not: its commands fill the gap.
Drawing = tuple[FigureEntry, Figure | None]


def with_short_names(found: Iterable[Drawing]) -> Iterator[Drawing]:
    """The figures, each short name given to the first that asks for it; gaps ask for none.

    Blocks come in the order of the report, so that the first is of the best preset that has the figure:
    paper before quick before smoke, then by device.
    """
    taken: set[str] = set()
    for entry, figure in found:
        if figure is not None and entry.short and entry.short not in taken:
            taken.add(entry.short)
            entry = replace(entry, name=entry.short)
        yield entry, figure


def where(frame: pd.DataFrame, subject: str) -> str:
    """The second half of a figure's title: subject, preset and device of the frame."""
    return f"{subject} · preset {frame['preset'].iloc[0]} · {frame['device'].iloc[0]}"


def command_for(frame: pd.DataFrame, methods: Sequence[str], task: str) -> str:
    """The command that runs methods on a task, of the preset and device of the frame."""
    return command(methods, [task], str(frame["preset"].iloc[0]), str(frame["device"].iloc[0]))


def gap(own: pd.DataFrame, task: str, subject: str, number: int, lacks: str) -> Drawing:
    """A place on the page that says which command keeps what a figure needs."""
    methods = sorted(set(without_configuration(own["method"])))
    again = command_for(own, [PROPOSED] if PROPOSED in methods else methods[:1], task) + _AGAIN
    caption = f"Figure {number} is not drawn: no run of this block kept the {lacks} it shows; this does:"
    return paper_entry(number, own, caption, task, subject=subject, commands=[again]), None


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
