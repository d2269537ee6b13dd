"""Errors that end a command: an invalid command line (exit 2), or a failure of the run (exit 1)."""

from __future__ import annotations

from collections.abc import Iterable


class BenchError(Exception):
    """A run cannot continue; the message says what was expected, what was found and what to do next."""

    exit_code = 1


class UsageError(BenchError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class DataError(BenchError):
    """A data file is missing, unreadable or not the file it should be."""


def nearest(found: str, known: Iterable[str]) -> str:
    """`did you mean a or b?` with the most similar names; empty if none is similar."""
    import difflib

    near = difflib.get_close_matches(found, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else ""


def unknown(kind: str, found: str, known: list[str]) -> UsageError:
    """The error for a name that is not registered, with the most similar registered names."""
    hint = nearest(found, known) or f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} {found!r}; {hint}")
