"""The code versions of fits and runs: the definitions where each starts, and what is excluded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from bench.registry import MethodEntry
from bench.settings import digest
from bench.system.fingerprint import Code, place_of, version
from bench.task import Task

# Storing, reporting, naming, looking up: these change neither a weight nor a value of a row. Tables of
# names are excluded because the entries that a fit or a run uses are among its roots.
EXCLUDED = (
    "bench.errors",
    "bench.evaluations:DRAWS",
    "bench.evaluations:EVALUATIONS",
    "bench.records",
    "bench.registry",
    "bench.running.cell",
    "bench.running.run:_write",
    "bench.settings",
    "bench.system",
    "bench.training.checkpoint",
    "bench.training.limits",
    "bench.training.fit:_identity",
    "bench.training.fit:_save",
    "bench.training.losses:LOSSES",
    "bench.training.method:Method.load",
    "bench.training.method:Method.restore",
    "bench.training.method:Method.save",
    "bench.training.method:Method.state",
)
# A fit's weights do not depend on the trace.
FIT_EXCLUDED = (*EXCLUDED, "bench.training.fit:trace")
FIT = "bench.training.fit:fit"
RUN = "bench.running.run:run"
TABLES = ("EVALUATIONS", "DRAWS")  # by evaluation: its function, and the number of networks that it needs


def fit_definitions(entry: MethodEntry, task: Task) -> dict[str, str]:
    """Hashes of the definitions that a fit can reach, and of the arguments of the task's network."""
    roots = (FIT, entry.target, place_of(task.network), loss_place(task))
    return {**_reached(roots, FIT_EXCLUDED), **_arguments(task.network)}


def run_definitions(entry: MethodEntry, task: Task, preset: str) -> dict[str, str]:
    """Hashes of the definitions that a run of a cell can reach, including its fit, and of the scale."""
    return {
        **fit_definitions(entry, task),
        **_reached(run_roots(entry, task), EXCLUDED),
        "task: scale": digest(_set(task.scale(preset)))[:8],
    }


def run_roots(entry: MethodEntry, task: Task) -> tuple[str, ...]:
    """The definitions where a run and its fit start, as `module:name`."""
    asked = [f"bench.evaluations:{table}[{name}]" for name in task.evaluations for table in TABLES]
    return (FIT, RUN, entry.target, loss_place(task), place_of(task.network), *asked)


def loss_place(task: Task) -> str:
    """The definition of a task's loss: an entry of the table of losses."""
    return f"bench.training.losses:LOSSES[{task.loss}]"


@cache
def _code(excluded: tuple[str, ...]) -> Code:
    # Cached per process, like imported modules: a later change on disk does not affect what runs.
    return Code(excluded)


@cache
def _reached(roots: tuple[str, ...], excluded: tuple[str, ...]) -> Mapping[str, str]:
    return _code(excluded).definitions(roots)


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


__all__ = ["EXCLUDED", "fit_definitions", "run_definitions", "run_roots", "version"]
