"""Progress output: one live line on a terminal, a few whole lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.file_proxy import FileProxy
from rich.live import Live as LiveDisplay
from rich.text import Text

from bench.system.output import is_terminal

REFRESHES = 2.0  # of the live line, a second
LOG_SECONDS = 30.0  # at least, between two progress lines of a log
LOG_SHARE = 0.1  # of the time that a stage has taken: a long one says less often where it is
ERASE = "\r\x1b[2K"  # the line that a terminal's cursor is in
SEEN = 0.1  # rounds after which a stage's own rate says when it ends
BAR = 16  # characters
FIT = "fit"  # the stage that has rounds, checkpoints and a time left
STARTING = "starting"  # modules are imported, data read
OTHER = "evaluate"  # what a cell does when nothing else has been said

# Held while the line is drawn, and while a process forks (as figures are drawn): a child must not inherit a
# lock of the output that no thread of its own will release.
_drawing = threading.RLock()


def _in_child() -> None:
    """A forked process has no thread that draws: it writes to the streams as they are."""
    _drawing.release()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, stream.rich_proxied_file if isinstance(stream, FileProxy) else stream)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_drawing.acquire, after_in_parent=_drawing.release, after_in_child=_in_child)


class Reporter(Protocol):
    """Receives messages and progress of a run."""

    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None: ...


class CellReporter(Reporter, Protocol):
    """A reporter that also knows which cell of how many runs, and how far it is."""

    stage: Stage

    def begin(self, stage: Stage) -> None: ...


@dataclass
class Stage:
    """Where a cell is: `k/n` of its sweep, what it does now, how far that is, and since when.

    expected: seconds of the whole fit, from history; None for unknown. work: floating-point operations of
    this process so far, by which the part of a round shows that is done. a_round: those of a round, 0 for
    unknown.
    """

    place: str = ""
    label: str = ""
    done: int = 0
    total: int = 0
    detail: str = ""
    expected: float | None = None
    work: Callable[[], float] | None = None
    a_round: float = 0.0
    since: float = field(default_factory=time.monotonic)
    first: int = 0  # rounds that were done when the stage began
    at: float = 0.0  # work when the last round ended

    @property
    def fitting(self) -> bool:
        """Whether rounds of a fit are left, at the end of which there will be a checkpoint."""
        return self.label == FIT and self.done < self.total

    def update(self, label: str, done: int, total: int, detail: str) -> None:
        """Take in how far a stage is; another label, or a smaller number, begins another stage."""
        computed = self.work() if self.work is not None else 0.0
        if label != self.label or done < self.done:
            self.since, self.first, self.at = time.monotonic(), done, computed
        elif done > self.done:
            self.a_round, self.at = (computed - self.at) / (done - self.done), computed
        self.label, self.done, self.total, self.detail = label, done, total, detail

    def inside(self) -> float | None:
        """The part of the current round that is done, below 1; None as long as no round shows its size."""
        if self.label != FIT or self.work is None or self.a_round <= 0:
            return None
        return min(0.99, max(0.0, (self.work() - self.at) / self.a_round))

    def left(self) -> float | None:
        """Seconds until the stage ends: by its own rate, else a fit's by earlier ones; None: unknown."""
        spent = time.monotonic() - self.since
        part = self.done + (self.inside() or 0.0)
        if part - self.first >= SEEN:
            return spent * (self.total - part) / (part - self.first)
        if self.label != FIT or self.expected is None or not self.total:
            return None
        return max(0.0, self.expected * (1 - self.first / self.total) - spent)

    def round_left(self) -> float | None:
        """Seconds until the current round ends; None: unknown."""
        left, inside = self.left(), self.inside()
        if left is None or self.done >= self.total:
            return None
        return left * (1 - (inside or 0.0)) / (self.total - self.done - (inside or 0.0))

    def line(self, width: int, bar: bool) -> str:
        """The stage in one line of at most `width` characters: the detail goes first, then the bar."""
        spent, left = time.monotonic() - self.since, self.left()
        inside = self.inside()
        count = f" {self.done}/{self.total}" if self.total else ""
        within = f" · round {self.done + 1}: {inside:.0%}" if inside is not None and self.fitting else ""
        if inside is None and self.fitting and self.work is not None and self.work() > self.at:
            within = f" · round {self.done + 1}: {(self.work() - self.at) / 1e9:,.0f} GFLOP"
        clock = f"{clock_time(spent)}" + (f", {clock_time(left)} left" if left is not None else "")
        head = f"  {self.place + ' ' if self.place else ''}{self.label}{count}{within} "
        detail = f" · {self.detail}" if self.detail else ""
        drawn = f"{_bar(self.done + (inside or 0.0), self.total)} " if bar and self.total else ""
        for text in (head + drawn + clock + detail, head + drawn + clock):
            if len(text) <= width:
                return text
        if drawn and detail and len(head + clock + detail) <= width:
            return head + clock + detail
        return f"{head}{clock}"[:width]


def _bar(done: float, total: int) -> str:
    filled = int(BAR * done / total)
    return "━" * filled + "─" * (BAR - filled)


def clock_time(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Told:
    """What all reporters share: the stage of the cell that runs."""

    def __init__(self) -> None:
        self.stage = Stage()

    def begin(self, stage: Stage) -> None:
        """Another cell begins; an empty stage: none does."""
        self.stage = stage

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        """Say how far a stage is."""
        self.stage.update(label, done, total, detail)
        if done >= total:
            self.stage.update(OTHER, 0, 0, "")


class Plain(_Told):
    """Lines without colour or cursor movement, for files and pipes. label: prefix of each line.

    shared: another process draws a line on the same terminal, which a line from here takes the place of.
    """

    def __init__(self, label: str = "", shared: bool = False) -> None:
        super().__init__()
        self.label = (ERASE if shared else "") + label
        self.shown = time.monotonic()

    def say(self, text: str) -> None:
        print("\n".join(self.label + line for line in text.splitlines()), flush=True)
        self.shown = time.monotonic()

    def progress(self, label: str, done: int, total: int, detail: str = "") -> None:
        super().progress(label, done, total, detail)
        now = time.monotonic()
        if done < total and now - self.shown >= max(LOG_SECONDS, LOG_SHARE * (now - self.stage.since)):
            self.say(self.stage.line(100, bar=False))


class Quiet(_Told):
    """Says warnings alone."""

    def say(self, text: str) -> None:
        if text.lstrip().startswith("warning"):
            print(text.strip(), flush=True)


class Live(_Told):
    """A line below the messages that is drawn anew, by a thread of its own, while a cell runs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def say(self, text: str) -> None:
        if self.stage.label == STARTING:
            self.begin(Stage())
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __rich__(self) -> Text:
        shown = self.stage.line(self.console.width - 1, bar=True) if self.stage.label else ""
        return Text(shown, style="cyan", no_wrap=True, overflow="crop")


class _Display(LiveDisplay):
    """Draws the line from a thread of its own."""

    def refresh(self) -> None:
        """Draw the line anew."""
        with _drawing:
            super().refresh()


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Plain | Quiet | Live]:
    """The reporter for standard output: `Live` on a terminal, else `Plain`. quiet: warnings alone."""
    console = Console()
    if quiet:
        yield Quiet()
        return
    # Rich alone would take a file for a terminal where FORCE_COLOR is set, as it is by many servers.
    if not (is_terminal(sys.stdout) and console.is_terminal):
        yield Plain()
        return
    live = Live(console)
    live.begin(Stage(label=STARTING))
    with _Display(get_renderable=lambda: live, console=console, transient=True, refresh_per_second=REFRESHES):
        yield live
