"""The code versions of fits and runs: the hashes of the definitions that each can reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bench.registry import MethodEntry
from bench.settings import digest
from bench.system.code import FIT, FIT_EXCLUDED, RUN, TABLES, reached
from bench.system.fingerprint import place_of, version
from bench.task import Task


def fit_definitions(entry: MethodEntry, task: Task) -> dict[str, str]:
    """Hashes of the definitions that a fit can reach, and of the arguments of the task's network."""
    roots = (FIT, entry.target, place_of(task.network), loss_place(task))
    return {**reached(roots, FIT_EXCLUDED), **_arguments(task.network)}


def run_definitions(entry: MethodEntry, task: Task, preset: str) -> dict[str, str]:
    """Hashes of the definitions that a run of a cell can reach, including its fit, and of the scale."""
    return {
        **fit_definitions(entry, task),
        **reached(run_roots(entry, task)),
        "task: scale": digest(_set(task.scale(preset)))[:8],
    }


def run_roots(entry: MethodEntry, task: Task) -> tuple[str, ...]:
    """The definitions where a run and its fit start, as `module:name`."""
    asked = [f"bench.evaluations:{table}[{name}]" for name in task.evaluations for table in TABLES]
    return (FIT, RUN, entry.target, loss_place(task), place_of(task.network), *asked)


def loss_place(task: Task) -> str:
    """The definition of a task's loss: an entry of the table of losses."""
    return f"bench.training.losses:LOSSES[{task.loss}]"


def _arguments(network: Callable[..., Any]) -> dict[str, str]:
    """A hash of the values bound to a function that builds a network, by a partial or a closure."""
    bound = [getattr(network, "args", ()), sorted(getattr(network, "keywords", {}).items())]
    cells = [cell.cell_contents for cell in getattr(network, "__closure__", None) or ()]
    values = [value for value in cells if isinstance(value, int | float | str | tuple | bool)]
    return {"task: network": digest(repr([*bound, values]))[:8]} if any((*bound, values)) else {}


def _set(value: Any) -> Any:
    """Fields of a dataclass that differ from their defaults, so that a new field changes no version."""
    if isinstance(value, list | tuple):
        return [_set(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
    return {name: _set(found) for name, (found, default) in fields.items() if found != default}


__all__ = ["fit_definitions", "run_definitions", "run_roots", "version"]
