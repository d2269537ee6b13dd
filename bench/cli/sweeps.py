"""Commands `bench run` and `bench plan`. Imports no torch until one needs it."""

from __future__ import annotations

from typing import Any

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

    Finished cells are skipped; an interrupted fit resumes from its last checkpoint. Several commands may
    share a results folder: no cell runs twice at the same time. Workers share the threads; results depend
    neither on --threads nor on --jobs.
    """
    from bench.running import sweep
    from bench.system.progress import reporter

    launcher, jobs, address = options["launcher"], options["jobs"], options["address"]
    if address is not None and launcher != "ray":
        raise UsageError("--address: expected --launcher ray as well")
    alone = launcher == "local" and jobs in (None, 1)
    workers = None if alone else launchers.Workers(launcher, jobs, address)
    with reporter() as out:
        done = sweep.run(
            _selection(methods, tasks, options),
            options["results"].resolve(),
            out,
            force=options["force"],
            stale=options["stale"],
            limit=options["limit"],
            threads=options["threads"],
            workers=workers,
        )
    counts = f"{len(done.finished)} run, {len(done.skipped)} already done, {len(done.failed)} failed"
    counts += f", {len(done.not_started)} not started" if done.not_started else ""
    click.echo(f"{counts} · next: bench report --results {options['results']}")
    for name, message in done.failed.items():
        click.echo(f"failed: {name}: {message.splitlines()[0] if message else ''}", err=True)
    if done.failed or done.not_started:
        ctx.exit(1)


@click.command()
@selectors
def plan(methods: list[str], tasks: list[str], **options: Any) -> None:
    """Show which cells are done, the estimated cost of the others, and the commands that run them.

    \b
    Example:
      bench plan --method all --task digits,digits-open --preset smoke

    A cost is estimated from similar finished cells: training, sampling and prediction, without attacks.
    """
    from bench.running import plan as planning

    selection = _selection(methods, tasks, options)
    found, unreadable = planning.plan(selection, options["results"])
    for line in planning.lines(found):
        click.echo(line)
    click.echo(planning.summary(found))
    for task, message in unreadable.items():
        click.echo(f"not planned: {task}: {message}", err=True)
    if unreadable:
        raise BenchError(f"could not plan {', '.join(unreadable)}")
