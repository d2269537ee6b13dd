"""What the page says of each method: what it is, its paper, the settings of its runs and their cost."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench import registry
from bench.report.configurations import method_family, plain_name
from bench.report.families import Family, shown
from bench.report.rows import Material, without_configuration

UNREGISTERED = "Not registered here: its rows come from a package that is not installed."


class Card(NamedTuple):
    """A method with its variants.

    about: what it is; source: its paper; variants: pairs of name and settings that differ; settings: of its
    runs, each with where they hold; costs: the time to fit, by method and training set.
    """

    name: str
    about: str
    source: str
    variants: Sequence[tuple[str, str]]
    settings: Sequence[tuple[str, str]]
    costs: Sequence[str]


def cards(material: Material, families: Sequence[Family]) -> Iterator[Card]:
    """One card per method with rows, in the order of the registry, then others by name."""
    known = registry.methods()
    shown_names = sorted(set(without_configuration(material.rows["method"])))
    bases = {name: method_family(name) for name in shown_names}
    order = [name for name in known if name in bases.values()]
    for base in dict.fromkeys([*order, *bases.values()]):
        own = [name for name in shown_names if bases[name] == base]
        entry = known.get(base)
        yield Card(
            base,
            entry.about if entry else UNREGISTERED,
            _source(entry.module) if entry else "",
            [(name, _words(known[name].settings)) for name in own if name in known and name != base],
            list(_settings(material, own)),
            list(_costs(families, own)),
        )


@cache
def _source(module: str) -> str:
    """The paper named in a module's docstring after `Source:`; read, not imported, as methods need torch."""
    found = find_spec(module)
    if found is None or not found.origin:
        return ""
    text = ast.get_docstring(ast.parse(Path(found.origin).read_text("utf-8"))) or ""
    for part in inspect.cleandoc(text).split("\n\n"):
        if "Source: " in part:
            return " ".join(part.partition("Source: ")[2].split())
    return ""


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in sorted(settings.items()))


def _settings(material: Material, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each configuration of the runs once: where it holds, and its settings."""
    found: dict[str, dict[str, None]] = {}
    rows = material.rows[without_configuration(material.rows["method"]).isin(names)]
    lines = rows[["method", "preset", "train", "run"]].drop_duplicates()
    for method, preset, train, run in lines.itertuples(index=False):
        config = material.abouts.get(run, {}).get("config") or {}
        if config:
            found.setdefault(_words(config), {})[f"{method} on {train} at {preset}"] = None
    for settings, places in found.items():
        yield "; ".join(places), settings


def _costs(families: Sequence[Family], names: Sequence[str]) -> Iterator[str]:
    """The time to fit of each method, by training set."""
    for family in families:
        answer = family.answers.get("cost")
        for standing in answer.standings if answer else ():
            if plain_name(standing.method) in names:
                time = shown(answer.at.metric, standing.mean, standing.sd) if answer else ""
                yield f"{standing.method} on {family.train} at {family.preset}, {family.device}: {time}"
