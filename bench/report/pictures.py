"""What a report is made of, and how a figure is named: shared by every module that draws."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Material:
    """What a report is made of: its folder, prepared rows, each of their runs' JSON, published rows."""

    results: Path
    rows: pd.DataFrame
    abouts: Mapping[str, Mapping[str, Any]]
    published: pd.DataFrame


@dataclass(frozen=True)
class Picture:
    """A figure's file name (without suffix), the block and task it belongs to, and its caption.

    short: the name without preset and device, for the first figure that asks for it. commands: what to
    run for what the figure lacks.
    """

    name: str
    block: dict[str, str]
    caption: str
    short: str = ""
    commands: tuple[str, ...] = ()


def picture(
    kind: str, subject: str, frame: pd.DataFrame, caption: str, task: str, commands: Sequence[str] = ()
) -> Picture:
    """A name of kind, subject and preset, and of the device where it is not the CPU.

    frame: lines of one preset and device. task: where the figure stands on the page.
    """
    preset, device = str(frame["preset"].iloc[0]), str(frame["device"].iloc[0])
    name = _safe("-".join([kind, subject, preset, *([device] if device not in ("", "cpu") else [])]))
    block = {"preset": preset, "device": device, "task": task}
    return Picture(name, block, caption, commands=tuple(commands))


def paper_picture(
    number: int,
    frame: pd.DataFrame,
    caption: str,
    task: str,
    *,
    subject: str = "",
    commands: Sequence[str] = (),
) -> Picture:
    """Figure `number` of the paper: `figure5-digits`, and `figure5-digits-smoke` behind a better preset.

    subject: what the file is named after, if not the task. Whether the short name is free is seen by
    `named`, over all figures of a report.
    """
    kind = f"figure{number}"
    found = picture(kind, subject or task, frame, caption, task, commands)
    return replace(found, short=_safe(f"{kind}-{subject or task}"))


# A figure, or None where the rows are there and what the figure shows is not: its commands fill the gap.
Drawing = tuple[Picture, Figure | None]


def named(found: Iterable[Drawing]) -> Iterator[Drawing]:
    """The figures, each short name given to the first that asks for it; gaps ask for none.

    Blocks come in the order of the report, so that the first is of the best preset that has the figure:
    paper before quick before smoke, then by device.
    """
    taken: set[str] = set()
    for place, figure in found:
        if figure is not None and place.short and place.short not in taken:
            taken.add(place.short)
            place = replace(place, name=place.short)
        yield place, figure


def where(frame: pd.DataFrame, subject: str) -> str:
    """The second half of a figure's title: subject, preset and device of the frame."""
    return f"{subject} · preset {frame['preset'].iloc[0]} · {frame['device'].iloc[0]}"


def trained(frame: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each train key with the lines of one of its tasks: tasks of one key share networks and would repeat.

    The task with most methods stands for its key, then the one named like it.
    """
    keys = rows[["task", "train"]].drop_duplicates().set_index("task")["train"].to_dict()
    counts = frame.groupby("task")["method"].nunique()
    chosen: dict[str, str] = {}
    for task in sorted(counts.index, key=lambda t: (-counts[t], t != keys[t], t)):
        chosen.setdefault(keys[task], task)
    for train, task in sorted(chosen.items()):
        yield train, task, frame[frame["task"] == task]


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
