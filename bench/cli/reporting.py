"""`bench report`: builds the report, unless it would be the same again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records import built

_log = logging.getLogger("bench")


class _Kept(logging.Handler):
    """Keeps the warnings of a build, which are said again where it is not repeated."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def written(results: Path, options: Mapping[str, Any], force: bool = False) -> tuple[list[Path], bool]:
    """The paths of the report, and whether it was made anew. options: of the command, as JSON values.

    It is not, unless forced, where runs, code and options are those of the last one, whose files are still
    there as they were written (`bench.records.built`).
    """
    made_of = built.inputs(results, options)
    last = None if force else built.unchanged(results, made_of)
    if last is not None:
        for line in last["warnings"]:
            _log.warning("%s", line)
        return sorted(results / name for name in last["outputs"]), False
    from bench.report import build  # imports what draws, which takes longer than the check

    kept = _Kept()
    _log.addHandler(kept)
    try:
        paths = build(results)
    finally:
        _log.removeHandler(kept)
    # A first build adds the published values to the folder: they are an input of the next.
    inputs = built.inputs(results, options) if (results / "published.csv") in paths else made_of
    built.write(results, inputs, paths, kept.lines)
    return paths, True


def departing(results: Path) -> list[str]:
    """Lines of the ledger whose verdict is not the expected one."""
    from bench.report import departures

    return departures(results)
