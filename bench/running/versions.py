"""Which code a fit and a run are made by: where each starts, and what of the rest enters no result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from bench.registry import MethodEntry
from bench.settings import digest
from bench.system.fingerprint import Code, place_of, version
from bench.task import Task

# Storing, telling, naming, looking up: what comes out of these is neither a weight nor a value of a row.
# Tables of names are aside because what a fit or a run takes from them is where it starts.
ASIDE = (
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
# A fit's weights do not hang on the looks that are taken at it meanwhile.
FIT_ASIDE = (*ASIDE, "bench.training.fit:trace")
FIT = "bench.training.fit:fit"
RUN = "bench.running.run:run"
TABLES = ("EVALUATIONS", "DRAWS")  # by name of an evaluation: what asks, what is drawn for it


def of_fit(entry: MethodEntry, task: Task) -> dict[str, str]:
    """Definitions that a fit can reach, with their hashes, and the arguments of the task's network."""
    roots = (FIT, entry.target, place_of(task.network), loss_place(task))
    return {**_reached(roots, FIT_ASIDE), **_arguments(task.network)}


def of_run(entry: MethodEntry, task: Task, preset: str) -> dict[str, str]:
    """Definitions that a run of a cell can reach, its fit's among them, and what the preset asks."""
    return {
        **of_fit(entry, task),
        **_reached(run_roots(entry, task), ASIDE),
        "task: scale": digest(_set(task.scale(preset)))[:8],
    }


def run_roots(entry: MethodEntry, task: Task) -> tuple[str, ...]:
    """Where a run starts (`module:name`), its fit included."""
    asked = [f"bench.evaluations:{table}[{name}]" for name in task.evaluations for table in TABLES]
    return (FIT, RUN, entry.target, loss_place(task), place_of(task.network), *asked)


def loss_place(task: Task) -> str:
    """Where the loss of a task is defined: an entry of the table of losses."""
    return f"bench.training.losses:LOSSES[{task.loss}]"


def now(roots: tuple[str, ...]) -> Mapping[str, str]:
    """What a run that started there would reach in the code as it is; needs no torch."""
    return _reached(roots, ASIDE)


@cache
def _code(aside: tuple[str, ...]) -> Code:
    # Read once a process, as the modules themselves are: a change on disk after that is not what runs.
    return Code(aside)


@cache
def _reached(roots: tuple[str, ...], aside: tuple[str, ...]) -> Mapping[str, str]:
    return _code(aside).definitions(roots)


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


__all__ = ["ASIDE", "now", "of_fit", "of_run", "run_roots", "version"]
