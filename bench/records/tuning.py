"""The files of `bench tune`: trials as runs in `<results>/tuning`, and what was chosen of them.

A tuning that has ended leaves `<results>/tuning/chosen/<name>.json`: `chosen`, the run that won; `ranked`,
the longest trial of every candidate, the best first, each with its run, its rank and the settings that
differ from the preset's; `lines` for the method's file; `budget_cpu_seconds` and what was spent. A tuning
that was stopped has trials alone. Names of tunings on other data end in a number.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.store import MAX_ABOUT_BYTES
from bench.system.files import read_bytes, write_atomic

_log = logging.getLogger("bench")


def folder(results: Path) -> Path:
    """The results folder of trials inside a results folder."""
    return Path(results) / "tuning"


def write_chosen(results: Path, name: str, document: Mapping[str, Any]) -> Path:
    """Write what a tuning chose; returns the path."""
    path = folder(results) / "chosen" / f"{name}.json"
    write_atomic(path, (json.dumps(dict(document), indent=1, sort_keys=True) + "\n").encode())
    return path


def chosen(results: Path) -> dict[str, dict[str, Any]]:
    """What each tuning that has ended chose, by name.

    Files of another form are left out with a warning, hidden ones without.
    """
    found = {}
    for path in sorted((folder(results) / "chosen").glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            document = json.loads(read_bytes(path, MAX_ABOUT_BYTES).decode())
            if not isinstance(document["chosen"], str) or not isinstance(document["ranked"], list):
                raise ValueError("other types")
            if not all({"run", "rank"} <= set(item) for item in document["ranked"]):
                raise ValueError("a trial without run or rank")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning(
                "Warning: left out: %s: expected what a tuning chose, found %s; remove it and run bench tune "
                "again", path, error,
            )  # fmt: skip
            continue
        found[path.stem] = document
    return found
