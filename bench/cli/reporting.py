"""Command `bench report`: builds the report, unless it would be the same again. Imports no torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import click

from bench.cli.options import results_option
from bench.records import built

UNCHANGED = "nothing has changed since the report was written; --force writes it again"
_log = logging.getLogger("bench")


@click.command()
@results_option
@click.option("--check", is_flag=True, help="Exit with 1 if a claim's verdict is not as expected.")
@click.option("--single-file", is_flag=True, help="Embed the figures in the page, to send it as one file.")
@click.option("--force", is_flag=True, help="Write it again, even if nothing has changed.")
@click.option("--verbose", is_flag=True, help="Also print the path of every file of the report.")
@click.pass_context
def report(
    ctx: click.Context, results: Path, check: bool, single_file: bool, force: bool, verbose: bool
) -> None:
    """Write all tables, figures and the HTML page from stored rows.

    \b
    Examples:
      bench report
      bench report --results results --check
    """
    from bench.system.progress import Stage, reporter

    with reporter() as out:
        begun = time.monotonic()
        paths, lines = written(
            results, single_file, force, lambda step: out.begin(Stage(label=step, since=begun))
        )
    for path in paths if verbose else ():
        click.echo(path)
    for line in lines:
        click.echo(line)
    if check:
        from bench.report import departures

        departing = departures(results)
        for line in departing:
            click.echo(f"departs: {line}", err=True)
        if departing:
            ctx.exit(1)


class _Kept(logging.Handler):
    """Keeps the warnings of a build, which are said again where it is not repeated."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def written(
    results: Path, single_file: bool, force: bool, told: Callable[[str], None]
) -> tuple[list[Path], list[str]]:
    """The paths of the report, and lines that summarise it.

    It is not made anew, unless forced, where runs, code and options are those of the last one, whose files
    are still there as they were written (`bench.records.built`). told: called with what is done next.
    """
    options = {"single_file": single_file}
    told("reading")
    made_of = built.inputs(results, options)
    last = None if force else built.unchanged(results, made_of)
    if last is not None:
        for line in last["warnings"]:
            _log.warning("%s", line)
        return sorted(results / name for name in last["outputs"]), [UNCHANGED, *last["summary"]]
    from bench.report import build, outcome  # imports what draws, which takes longer than the check

    kept = _Kept()
    _log.addHandler(kept)
    try:
        paths = build(results, single_file, told)
    finally:
        _log.removeHandler(kept)
    # A first build adds the published values to the folder: they are an input of the next.
    inputs = built.inputs(results, options) if (results / "published.csv") in paths else made_of
    lines = list(outcome.summary(results, paths))
    built.write(results, inputs, paths, kept.lines, lines)
    return paths, lines
