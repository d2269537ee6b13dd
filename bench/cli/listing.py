"""`bench list`. Imports no torch until it shows settings or costs."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from bench import registry
from bench.cli.options import Names
from bench.errors import UsageError
from bench.system.output import is_terminal


@click.group("list")
def list_() -> None:
    """Show methods, tasks, presets, and the settings of a method.

    When output is not a terminal, only names are printed, one per line; settings keep defaults and ranges.
    """


@list_.command("methods")
def list_methods() -> None:
    """Methods and their variants."""
    _print_names((name, entry.about) for name, entry in registry.methods().items())


@list_.command("tasks")
def list_tasks() -> None:
    """Tasks: data, network and evaluations."""
    _print_names((name, entry.about) for name, entry in registry.tasks().items())


@list_.command("presets")
def list_presets() -> None:
    """Presets: the scale of training and evaluation."""
    _print_names(registry.PRESETS.items())


@list_.command("settings")
@click.argument("name", type=Names("method", registry.methods), metavar="METHOD")
def list_settings(name: list[str]) -> None:
    """Settings of a method: name, default, and the values that --set accepts.

    \b
    Example:
      bench list settings mc_dropout

    The preset `paper` uses these defaults, unless the method's TOML file changes them.
    """
    from bench.settings import described

    if len(name) != 1:
        raise UsageError(f"expected one method, found {len(name)}; name one of them")
    entry = registry.method(name[0])
    rows = [(key, repr(value), what) for key, value, what in described(entry.load().Config, entry.settings)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for key, default, what in rows:
        click.echo(f"{key:<{widths[0]}}  {default:<{widths[1]}}  {what}")


def _print_names(items: Any) -> None:
    rows = [(str(name), str(about)) for name, about in items]
    if not is_terminal(sys.stdout):
        click.echo("\n".join(name for name, _ in rows))
        return
    width = max(len(name) for name, _ in rows)
    terminal = max(40, shutil.get_terminal_size().columns)
    for name, about in rows:
        indent = " " * (width + 2)
        text = click.wrap_text(about, terminal - 1, f"{name:<{width}}  ", indent)
        click.echo(text)
