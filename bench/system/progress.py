"""Progress output: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.system.output import is_terminal

PLAIN_SECONDS = 15.0  # between two progress lines


class Reporter(Protocol):
    """Receives messages and progress of a run."""

    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...


class Plain:
    """Lines without colour or cursor movement, for files and pipes. label: prefix of each line."""

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.shown = time.monotonic()

    def say(self, text: str) -> None:
        print("\n".join(self.label + line for line in text.splitlines()), flush=True)
        self.shown = time.monotonic()

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        if done < total and time.monotonic() - self.shown >= PLAIN_SECONDS:
            self.say(f"  {label} {done}/{total}" + (f" · {detail}" if detail else ""))


class Live:
    """A progress bar for the current stage, below the messages."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.current: tuple[str, TaskID] | None = None

    def say(self, text: str) -> None:
        self._clear()
        self.bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        if self.current is None or self.current[0] != label:
            self._clear()
            self.current = (label, self.bars.add_task(label, total=total, detail=""))
        self.bars.update(self.current[1], completed=done, total=total, detail=detail)
        if done >= total:
            self._clear()

    def _clear(self) -> None:
        if self.current is not None:
            self.bars.remove_task(self.current[1])
            self.current = None


@contextmanager
def reporter() -> Iterator[Plain | Live]:
    """The reporter for standard output: `Live` on a terminal, else `Plain`."""
    console = Console()
    # Rich alone would take a file for a terminal where FORCE_COLOR is set, as it is by many servers.
    if not (is_terminal(sys.stdout) and console.is_terminal):
        yield Plain()
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield Live(bars)
