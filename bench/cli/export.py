"""`bench export`."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import results_option

FORMATS = ("csv", "parquet", "latex")


@click.command()
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    default="csv",
    show_default=True,
    help="parquet needs the extra of that name.",
)
@results_option
def export(kind: str, results: Path) -> None:
    """Write all rows as one tidy file with the settings as columns, or all tables for LaTeX.

    \b
    Examples:
      bench export
      bench export --format parquet --results results
      bench export --format latex

    csv and parquet have the newest run of each cell, one number a row; latex has the report's tables,
    as booktabs, a file each. Files go to RESULTS/export; RESULTS/README.md explains every column,
    metric and array.
    """
    from bench.report.export import write

    paths = write(results, kind)
    for path in paths:
        click.echo(path)
    click.echo(f"{len(paths)} files · columns and arrays are explained in {results / 'README.md'}")
