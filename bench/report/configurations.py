"""One name a fit: which settings of a method its plain name stands for, and what the others are called.

Among the successful runs of a method on one train key, preset and device, the plain name is that of the
settings that were not changed by `--set` (the JSON of a run has what was, in `changed`); of several such,
from before and after a change of the method's file, those with most seeds, then on most tasks, then the
newest. All others are called by what differs, as in `hypergan [epochs=140]`, in every task that shares the
fit. Attempts that failed or were interrupted change no name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from bench import registry
from bench.records.runs import ages

Abouts = Mapping[str, Mapping[str, Any]]  # by run, its JSON
FIT = ("preset", "device", "train", "method")
MAX_SETTINGS = 3  # in a name like `hypergan [epochs=140]`
DEFAULT, VARIANT, OTHER = "default", "variant", "other"
UNTOLD = ("trace_every",)  # settings that change no network


class Configuration(NamedTuple):
    """What a name of a method stands for: the method's name, the kind of its settings, and the settings.

    kind: `default` of a method, `variant` (the settings of a registered variant) or `other`. differs: what
    sets another apart; empty for the others. settings: all, as text; empty where they were not stored.
    """

    name: str
    kind: str
    differs: str
    settings: str


Configurations = Mapping[tuple[str, str, str, str], Configuration]  # by preset, device, task and name


def plain_name(method: str) -> str:
    """The name of a method without the configuration after it, as in `name [epochs=9]`."""
    return method.partition(" [")[0]


def method_family(method: str) -> str:
    """The method that a variant or a configuration belongs to; of an unregistered one its own plain name."""
    name = plain_name(method)
    known = registry.methods()
    return known[name].base if name in known else name


def named(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """The rows, with what differs after the name of a method where its settings are not those of the name."""
    names = _names(rows, abouts)
    if not names:
        return rows
    keys = pd.MultiIndex.from_frame(rows[[*FIT, "config"]])
    told = pd.Series(names).reindex(keys).to_numpy()
    return rows.assign(method=rows["method"].where(pd.isna(told), told).astype("str"))


def _names(rows: pd.DataFrame, abouts: Abouts) -> dict[tuple[Any, ...], str]:
    """The names that differ from the method's, by `FIT` and configuration."""
    good = rows[(rows["metric"] != "failed") & (rows["config"] != "")]
    runs = good[[*FIT, "config", "task", "seed", "run"]].drop_duplicates()
    age = ages(abouts)
    found: dict[tuple[Any, ...], str] = {}
    for place, group in runs.groupby(list(FIT), sort=False):
        newest = {
            str(config): max(own["run"], key=lambda run: age.get(run, -1))
            for config, own in group.groupby("config")
        }
        changed = {config: abouts.get(run, {}).get("changed") for config, run in newest.items()}
        rank = {
            str(config): (
                changed[str(config)] is not None,  # made by a version that knows what was changed
                own["seed"].nunique(),
                own["task"].nunique(),
                age.get(newest[str(config)], -1),
            )
            for config, own in group.groupby("config")
            if not changed[str(config)]
        }
        plain = max(rank, key=rank.__getitem__, default=None)
        for config, text in _differences(newest, plain, abouts).items():
            found[*place, config] = f"{place[-1]} [{text}]"
    return found


def _differences(newest: Mapping[str, str], plain: str | None, abouts: Abouts) -> dict[str, str]:
    """By configuration, what differs from the plain one or, where there is none, what was changed.

    If the JSON has no settings, or too many differ: the configuration's digest.
    """
    documents = {config: abouts.get(run, {}).get("config") or {} for config, run in newest.items()}
    found: dict[str, str] = {}
    for config in sorted(newest):
        if config == plain:
            continue
        own = documents[config]
        if plain is None:
            differing = abouts.get(newest[config], {}).get("changed") or {}
        else:
            other = documents[plain]
            every = sorted({*own, *other} if own and other else ())
            differing = {n: own.get(n) for n in every if repr(own.get(n)) != repr(other.get(n))}
        differing = {name: value for name, value in differing.items() if name not in UNTOLD}
        text = _text(differing) if 0 < len(differing) <= MAX_SETTINGS else config[:8]
        found[config] = text if text not in found.values() else f"{text}, {config[:8]}"
    return found


def _text(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))


def configurations(rows: pd.DataFrame, abouts: Abouts) -> Configurations:
    """What every name of a method stands for in each task. rows: prepared ones, with names of `named`."""
    methods = registry.methods()
    found = {}
    good = rows[rows["metric"] != "failed"]
    asked = good[["preset", "device", "task", "method", "run"]].drop_duplicates([*FIT[:2], "task", "method"])
    for preset, device, task, label, run in asked.itertuples(index=False, name=None):
        name, _, differs = label.removesuffix("]").partition(" [")
        variant = name in methods and methods[name].base != name
        kind = OTHER if differs else VARIANT if variant else DEFAULT
        settings = _text(abouts.get(run, {}).get("config") or {})
        found[preset, device, task, label] = Configuration(name, kind, differs, settings)
    return found
