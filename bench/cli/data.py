"""`bench data`. Imports no torch until it checks images."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench import registry
from bench.cli.options import NAMES, Names, data_option
from bench.errors import BenchError, DataError, UsageError
from bench.system.output import is_terminal, warnings_logged


@click.group()
def data() -> None:
    """Fetch, verify and locate the files of data sets."""


def _root(folder: Path | None) -> Path:
    if folder is None:
        raise UsageError("expected a data folder, found none; give --data DIR or set BENCH_DATA")
    return folder


@data.command()
@click.argument("name", type=Names("data source", registry.sources), metavar=NAMES)
@data_option
def fetch(name: list[str], data: Path | None) -> None:
    """Download a data set and verify its checksums.

    \b
    Example:
      bench data fetch mnist,notmnist --data ~/data
    """
    for each in name:
        for path in registry.source(each).fetch(_root(data), is_terminal(sys.stderr)):
            click.echo(path)


@data.command()
@click.argument("name", type=Names("data source", registry.sources), metavar=NAMES, default="all")
@data_option
@click.pass_context
def verify(ctx: click.Context, name: list[str], data: Path | None) -> None:
    """Check the files of data sets against their checksums, and what is in them as before training.

    Exit code 1 if a file is wrong or missing, or is accepted with a warning, or if images or labels are
    wrong or in doubt.
    """
    from bench.running.data import checked

    states: list[tuple[str, object]] = []
    with warnings_logged() as warnings:
        for each in name:
            try:
                files = [(state, path) for path, state in registry.source(each).verify(_root(data))]
                states += files
                if each in registry.tasks() and all(state == "ok" for state, _ in files):
                    states += checked(each, _root(data))
            except DataError as error:  # its task needs other sets too
                states.append(("unreadable", error))
            except BenchError as error:  # of one plug-in: the others are verified all the same
                states.append((str(error), each))
    for state, what in states:
        click.echo(f"{state}  {what}")
    for text in warnings:
        click.echo(f"warning: {text}", err=True)
    if warnings or any(state != "ok" for state, _ in states):
        ctx.exit(1)


@data.command()
@data_option
@click.pass_context
def where(ctx: click.Context, data: Path | None) -> None:
    """Print the data folder; without one, exit code 1, and what can be run and fetched.

    \b
    Example:
      bench data where --data ~/data
    """
    if data is not None:
        click.echo(data.resolve())
        return
    # On standard error, so that `$(bench data where)` is a folder or nothing.
    without = [name for name in registry.tasks() if registry.task(name).embedded]
    click.echo("No data folder is set: give --data DIR, or export BENCH_DATA=DIR.", err=True)
    click.echo(f"Tasks that need none: {', '.join(without)}", err=True)
    click.echo("Fill one for the others:", err=True)
    for name, entry in registry.sources().items():
        click.echo(f"  bench data fetch {name} --data DIR   # {entry.about}", err=True)
    ctx.exit(1)
