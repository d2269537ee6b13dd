"""Shell completion of settings and of stored runs. Imports no torch: settings are read from their source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from bench import registry
from bench.records import runs
from bench.system.fields import Field, fields

LOOP = ("bench.settings", "LoopConfig")  # the settings that all methods have


class Setting(click.ParamType):
    """A `METHOD.KEY=VALUE`: settings of the command's methods with their defaults, then values to choose."""

    name = "setting"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        named = ctx.params.get("methods") or ctx.params.get("method") or list(registry.methods())
        method, dot, key = incomplete.partition("=")[0].rpartition(".")
        names = [name for name in named if (name == method if dot else name.startswith(key))]
        return [
            item
            for name in names
            for item in _items(name, fixed="=" in incomplete)
            if item.value.startswith(incomplete)
        ]


def _items(name: str, fixed: bool) -> Iterator[CompletionItem]:
    """Settings of a method with their defaults; fixed: the key stands, now its choices are shown."""
    entry = registry.method(name)
    found = fields(entry.module, entry.target.partition(":")[2]) | fields(*LOOP)
    for key, field in found.items():
        for value in field.choices if fixed and field.choices else (_default(entry, key, field),):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield CompletionItem(f"{name}.{key}={text}", help=field.about)


def _default(entry: registry.MethodEntry, key: str, field: Field) -> Any:
    value = entry.settings.get(key, field.default)
    return "" if value is None else value


class Runs(click.ParamType):
    """Names of stored runs, separated by commas, or `all`."""

    name = "runs"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        known, _ = runs.names(ctx.params["results"])
        names = [*known, *([] if comma else ["all"])]
        return [CompletionItem(before + comma + name) for name in names if name.startswith(last)]
