"""Which code makes a fit and a run of a cell, definition by definition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bench.registry import MethodEntry
from bench.settings import digest
from bench.system.code import FIT, FIT_ASIDE, RUN, TABLES, reached
from bench.system.fingerprint import place_of, version
from bench.task import Task


def of_fit(entry: MethodEntry, task: Task) -> dict[str, str]:
    """Definitions that a fit can reach, with their hashes, and the arguments of the task's network."""
    roots = (FIT, entry.target, place_of(task.network), loss_place(task))
    return {**reached(roots, FIT_ASIDE), **_arguments(task.network)}


def of_run(entry: MethodEntry, task: Task, preset: str) -> dict[str, str]:
    """Definitions that a run of a cell can reach, its fit's among them, and what the preset asks."""
    return {
        **of_fit(entry, task),
        **reached(run_roots(entry, task)),
        "task: scale": digest(_set(task.scale(preset)))[:8],
    }


def run_roots(entry: MethodEntry, task: Task) -> tuple[str, ...]:
    """Where a run starts (`module:name`), its fit included."""
    asked = [f"bench.evaluations:{table}[{name}]" for name in task.evaluations for table in TABLES]
    return (FIT, RUN, entry.target, loss_place(task), place_of(task.network), *asked)


def loss_place(task: Task) -> str:
    """Where the loss of a task is defined: an entry of the table of losses."""
    return f"bench.training.losses:LOSSES[{task.loss}]"


def _arguments(network: Callable[..., Any]) -> dict[str, str]:
    """Values that a function which makes a network is bound to: of a partial, or around a closure."""
    bound = [getattr(network, "args", ()), sorted(getattr(network, "keywords", {}).items())]
    cells = [cell.cell_contents for cell in getattr(network, "__closure__", None) or ()]
    values = [value for value in cells if isinstance(value, int | float | str | tuple | bool)]
    return {"task: network": digest(repr([*bound, values]))[:8]} if any((*bound, values)) else {}


def _set(value: Any) -> Any:
    """Fields of a dataclass that differ from their defaults, so that a new field changes nothing."""
    if isinstance(value, list | tuple):
        return [_set(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
    return {name: _set(found) for name, (found, default) in fields.items() if found != default}


__all__ = ["of_fit", "of_run", "run_roots", "version"]
