"""Commands `bench run` and `bench plan`. Imports no torch until one needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import (
    MAX_MINUTES,
    WORKERS,
    Positive,
    parse_members,
    parse_seeds,
    selectors,
    threads_option,
)
from bench.errors import BenchError, UsageError
from bench.running import launchers

if TYPE_CHECKING:
    from bench.running.sweep import Outcome

STOPPED = 130  # exit code after Ctrl-C, as that of a shell


def _selection(methods: list[str], tasks: list[str], options: dict[str, Any]) -> Any:
    from bench.running.plan import Selection
    from bench.system.devices import device_of

    return Selection(
        methods=methods,
        tasks=tasks,
        preset=options["preset"],
        seeds=parse_seeds(options["seeds"]),
        members=parse_members(options["members"]) if options["members"] else None,
        sets=options["sets"],
        data=None if options["data"] is None else options["data"].resolve(),
        device=device_of(options["device"]).type,
    )


@click.command()
@selectors
@click.option("--force", is_flag=True, help="Run finished cells again too.")
@click.option("--stale", is_flag=True, help="Run finished cells again if their code has changed.")
@click.option(
    "--limit",
    type=Positive(MAX_MINUTES),
    metavar="MINUTES",
    help="Abort a cell that takes longer.",
)
@click.option(
    "--jobs",
    type=WORKERS,
    metavar="N",
    help="Number of workers. [default: this process]",
)
@click.option(
    "--launcher",
    type=click.Choice(list(launchers.NAMES)),
    default="local",
    show_default=True,
    help="Where workers run.",
)
@threads_option
@click.option("--quiet", is_flag=True, help="Print warnings, errors and counts, no more.")
@click.option("--address", metavar="RAY", help="Ray cluster to join. [default: start one here]")
@click.pass_context
def run(ctx: click.Context, methods: list[str], tasks: list[str], **options: Any) -> None:
    """Train methods and evaluate them on tasks; one file of rows per cell.

    \b
    Examples:
      bench run --method hypergan --task digits
      bench run --method all --task digits,digits-open --preset smoke --jobs 2
      bench run --method hypergan,standard_ensemble --task notmnist --data ~/data --seed 0-4
      bench run --method hypergan --task digits --set hypergan.beta=0.1

    Finished cells are skipped. Ctrl-C stops a fit at the end of its round, with a checkpoint, where the same
    command goes on; a second one stops at once and loses that round. Several commands may share a results
    folder: no cell runs twice at the same time. Workers share the threads; results depend neither on
    --threads nor on --jobs.
    """
    from bench.system.progress import reporter

    launcher, jobs, address = options["launcher"], options["jobs"], options["address"]
    results = options["results"].resolve()
    if address is not None and launcher != "ray":
        raise UsageError("--address: expected --launcher ray as well")
    alone = launcher == "local" and jobs in (None, 1)
    workers = None if alone else launchers.Workers(launcher, jobs, address)
    with reporter(options["quiet"]) as out:
        from bench.running import sweep  # seconds, in which the line already moves

        done = sweep.run(
            _selection(methods, tasks, options),
            results,
            out,
            force=options["force"],
            stale=options["stale"],
            limit=options["limit"],
            threads=options["threads"],
            workers=workers,
            quiet=options["quiet"],
        )
    if done.runs and not (done.interrupted or options["quiet"]):
        from bench.report import standings

        for line in (*standings.of_runs(results, done.runs), ""):
            click.echo(line)
    for name, message in done.failed.items():
        click.echo(f"failed: {name}: {message.splitlines()[0] if message else ''}", err=True)
    click.echo(f"{_counts(done)} · next: {_next(done, options['results'])}")
    if done.interrupted:
        ctx.exit(STOPPED)
    if done.failed or done.not_started:
        ctx.exit(1)


def _counts(done: Outcome) -> str:
    counts = f"{len(done.finished)} run, {len(done.skipped)} already done, {len(done.failed)} failed"
    counts += f", {len(done.stopped)} stopped" if done.interrupted else ""
    return counts + (f", {len(done.not_started)} not started" if done.not_started else "")


def _next(done: Outcome, results: Path) -> str:
    return "the same command goes on" if done.interrupted else f"bench report --results {results}"


@click.command()
@selectors
@click.option("--commands", is_flag=True, help="Print the commands that run what is not done, no more.")
def plan(methods: list[str], tasks: list[str], commands: bool, **options: Any) -> None:
    """Show which cells are done, and the estimated cost of the others.

    \b
    Examples:
      bench plan --method all --task digits,digits-open --preset smoke
      bench plan --method all --task digits --commands

    A cost is of training, sampling and prediction, without attacks: measured where the same settings have
    run on the task, else guessed from similar cells or, where none has run, from the number of rounds and
    images and the speed of the network.
    """
    from bench.running import plan as planning
    from bench.running.guess import Guess

    selection = _selection(methods, tasks, options)
    found, unreadable = planning.plan(selection, options["results"], Guess())
    if commands:
        for item in found:
            if item.state != "done":
                click.echo(item.command)
    else:
        click.echo(planning.header(selection, options["results"]))
        for line in (*planning.lines(found), "", planning.summary(found)):
            click.echo(line)
        if any(item.state != "done" for item in found):
            click.echo("next: `bench run` with the same options; one command a cell: --commands")
    for task, message in unreadable.items():
        click.echo(f"not planned: {task}: {message}", err=True)
    if unreadable:
        raise BenchError(f"could not plan {', '.join(unreadable)}")
