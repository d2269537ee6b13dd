"""Command `bench report`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import results_option


@click.command()
@results_option
@click.option("--check", is_flag=True, help="Exit with 1 if a claim's verdict is not as expected.")
@click.pass_context
def report(ctx: click.Context, results: Path, check: bool) -> None:
    """Write all tables, figures and the HTML page from stored rows.

    \b
    Examples:
      bench report --results results
      bench report --check
    """
    from bench.report import build, departures

    paths = build(results)
    for path in paths:
        click.echo(path)
    click.echo(f"{len(paths)} files · open {results / 'report.html'}")
    if check and (departing := departures(results)):
        for line in departing:
            click.echo(f"departs: {line}", err=True)
        ctx.exit(1)
