"""The code versions of fits and runs: the hashes of the definitions that each can reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from bench.registry import MethodEntry
from bench.settings import digest
from bench.system.code import FIT, FIT_EXCLUDED, RUN, SCORE, TABLES, UNCHANGED, reached
from bench.system.fingerprint import place_of, version
from bench.task import Task


def fit_definitions(entry: MethodEntry, task: Task) -> dict[str, str]:
    """Hashes of the definitions that a fit can reach, and of the arguments of the task's network."""
    networks = network_roots(task.network)
    found = reached((FIT, entry.target, loss_place(task), *networks), FIT_EXCLUDED)
    if all(place.startswith("bench.networks:") for place in networks):
        found = _as_before(found)
    return {**found, **_arguments(task.network)}


def _as_before(definitions: Mapping[str, str]) -> dict[str, str]:
    """Definitions with the hashes that count for fits of networks in `bench.networks` (`UNCHANGED`)."""
    counted = {name: UNCHANGED[name][1] for name, now in UNCHANGED.items() if definitions.get(name) == now[0]}
    return {name: value for name, value in {**definitions, **counted}.items() if value is not None}


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
    return (FIT, RUN, entry.target, loss_place(task), *network_roots(task.network), *asked)


def trial_definitions(entry: MethodEntry, task: Task) -> dict[str, str]:
    """Hashes of the definitions that a trial of `bench tune` can reach: of its fit and of its score."""
    return {**fit_definitions(entry, task), **reached((SCORE,))}


def trial_roots(entry: MethodEntry, task: Task) -> tuple[str, ...]:
    """The definitions where a trial and its fit start, as `module:name`."""
    return (FIT, SCORE, entry.target, loss_place(task), *network_roots(task.network))


def loss_place(task: Task) -> str:
    """The definition of a task's loss: an entry of the table of losses."""
    return f"bench.training.losses:LOSSES[{task.loss}]"


def network_roots(network: Callable[..., Any]) -> tuple[str, ...]:
    """The definitions of the function that makes a task's network and of what it is bound to."""
    found: dict[str, None] = {}
    left, seen = [network], set()
    while left:
        value = left.pop()
        if id(value) in seen:  # a function may be bound to itself
            continue
        seen.add(id(value))
        if callable(value):
            left += _bound(value)
        if callable(value) or hasattr(value, "__dict__"):
            found[place_of(value)] = None
    return tuple(found)


def _bound(function: Any) -> Iterator[Any]:
    """What a callable carries: arguments of a partial, closure, defaults, the object of a method."""
    yield from getattr(function, "args", ()) or ()
    yield from (value for _, value in sorted((getattr(function, "keywords", None) or {}).items()))
    if isinstance(function, partial):
        yield function.func
    yield from (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    yield from getattr(function, "__defaults__", None) or ()
    yield from (value for _, value in sorted((getattr(function, "__kwdefaults__", None) or {}).items()))
    if isinstance(function, MethodType):
        yield function.__self__
    elif not isinstance(function, type | FunctionType | partial):
        yield from (value for _, value in sorted(getattr(function, "__dict__", {}).items()))


def _arguments(network: Callable[..., Any]) -> dict[str, str]:
    """Values that a function which makes a network is bound to."""
    values = [_plain(value, (id(network),)) for value in _bound(network)]
    return {"task: network": digest(values)[:8]} if values else {}


def _plain(value: Any, inside: tuple[int, ...]) -> Any:
    """A value as JSON: functions and classes by name, other objects by their class and attributes.

    inside: identities of the values that this one is part of, which are not entered again.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in inside:
        return "itself"
    inside = (*inside, id(value))
    if isinstance(value, set | frozenset):  # whose order differs from process to process
        return sorted((_plain(part, inside) for part in value), key=repr)
    if isinstance(value, list | tuple):
        return [_plain(part, inside) for part in value]
    if isinstance(value, dict):
        return [[str(key), _plain(part, inside)] for key, part in value.items()]
    if isinstance(value, type):
        return value.__qualname__
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        return [name, *(_plain(part, inside) for part in _bound(value))]
    return [type(value).__qualname__, _plain(getattr(value, "__dict__", {}), inside)]


def _set(value: Any) -> Any:
    """Fields of a dataclass that differ from their defaults, so that a new field changes no version."""
    if isinstance(value, list | tuple):
        return [_set(part) for part in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
    return {name: _set(found) for name, (found, default) in fields.items() if found != default}


__all__ = [
    "fit_definitions",
    "run_definitions",
    "run_roots",
    "trial_definitions",
    "trial_roots",
    "version",
]
