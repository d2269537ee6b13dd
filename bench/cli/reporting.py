"""Command `bench report`. Imports no torch."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bench.cli.options import results_option


@click.command()
@results_option
@click.option("--check", is_flag=True, help="Exit with 1 if a claim's verdict is not as expected.")
@click.option("--single-file", is_flag=True, help="Embed the figures in the page, to send it as one file.")
@click.option("--verbose", is_flag=True, help="Also print the path of every file that was written.")
@click.pass_context
def report(ctx: click.Context, results: Path, check: bool, single_file: bool, verbose: bool) -> None:
    """Write all tables, figures and the HTML page from stored rows.

    \b
    Examples:
      bench report
      bench report --results results --check
    """
    from bench.system.progress import Stage, reporter

    with reporter() as out:
        from bench.report import build, departures, outcome  # seconds, in which the line already moves

        begun = time.monotonic()
        paths = build(results, single_file, lambda step: out.begin(Stage(label=step, since=begun)))
    for path in paths if verbose else ():
        click.echo(path)
    for line in outcome.summary(results, paths):
        click.echo(line)
    if check and (departing := departures(results)):
        for line in departing:
            click.echo(f"departs: {line}", err=True)
        ctx.exit(1)
