"""Standard output and error that cannot fail: what happens to a message changes no result."""

from __future__ import annotations

import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class _Unfailing(io.FileIO):
    """A descriptor to which writing never fails: what cannot be written is dropped."""

    def write(self, data: Any) -> int:
        try:
            while (written := super().write(data)) is None:  # it does not block, and is full
                select.select([], [self], [])
        except OSError:  # the reader has gone (EPIPE), the disk is full (ENOSPC), the terminal is lost (EIO)
            return memoryview(data).nbytes
        return written


@contextmanager
def unfailing() -> Iterator[None]:
    """Inside, standard output and error drop what cannot be written and replace what cannot be encoded.

    Each write is tried, so that a log continues once its disk has room again. Streams without a file
    descriptor, as in a notebook, stay as they are.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_wrapped(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # none, or closed
                stream.flush()
        sys.stdout, sys.stderr = before


def _wrapped(stream: Any) -> Any:
    """The stream, on the same descriptor, as one that never fails."""
    try:
        descriptor = stream.fileno()
    except (AttributeError, OSError, ValueError):  # no stream at all, or not one of a file
        return stream
    with suppress(OSError):
        stream.flush()
    try:
        raw = _Unfailing(descriptor, "w", closefd=False)
    except OSError:  # it has been closed
        raw = _Unfailing(os.devnull, "w")
    errors = stream.errors if stream.errors == "backslashreplace" else "replace"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, errors, line_buffering=stream.line_buffering
    )


@contextmanager
def warnings_logged() -> Iterator[list[str]]:
    """Yields the texts of warnings that are logged inside, which are not printed."""
    handler = _Texts(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler.texts
    finally:
        root.removeHandler(handler)


class _Texts(logging.Handler):
    """Keeps the text of each record once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()) not in self.texts:
            self.texts.append(text)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal that can move its cursor; a file never is, whatever variables say."""
    try:
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # no stream at all, or closed
        return False
