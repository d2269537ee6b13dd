"""`bench tune`. Imports no torch until it runs."""

from __future__ import annotations

from typing import Any

import click

from bench import registry
from bench.cli.completion import Setting
from bench.cli.options import (
    SEED,
    Names,
    Positive,
    data_option,
    device_option,
    results_option,
    threads_option,
)
from bench.errors import UsageError

# CPU seconds: 30 minutes a method for tasks with data on disk, 5 for embedded ones.
BUDGET, EMBEDDED_BUDGET = 1800.0, 300.0
MAX_BUDGET = 1e9  # 30 years


@click.command()
@click.argument("method", type=Names("method", registry.methods), metavar="METHOD")
@click.option(
    "--task", type=Names("task", registry.tasks), metavar="TASK", required=True, help="Task to tune on."
)
@click.option(
    "--budget",
    type=Positive(MAX_BUDGET),
    metavar="CPU-SECONDS",
    help=f"Time of all trials together. [default: {BUDGET:g}, of an embedded task {EMBEDDED_BUDGET:g}]",
)
@click.option(
    "--preset",
    type=click.Choice(list(registry.PRESETS)),
    default="quick",
    show_default=True,
    help="What is tuned.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of draws and fits.")
@click.option(
    "--set",
    "sets",
    type=Setting(),
    multiple=True,
    metavar="METHOD.KEY=VALUE",
    help="Fix a setting; may be repeated.",
)
@device_option
@data_option
@threads_option
@results_option
def tune(method: list[str], task: list[str], **options: Any) -> None:
    """Choose a method's settings on validation data, by one rule and one budget for all methods.

    \b
    Examples:
      bench tune mc_dropout --task digits
      bench tune hypergan --task mnist --budget 1800 --data ~/data

    Candidates: the preset's settings, the published ones, then draws from the search space of the
    method's TOML file ([search]). Fits of a ninth of the preset's length have a third of the budget,
    fits of two thirds, of the preset's settings and the best others, the rest. The lowest negative
    log-likelihood of 20 networks on validation images wins; within its noise, the larger
    disagreement. Trials are kept in RESULTS/tuning: a tuning that was stopped goes on.
    """
    from bench.running import tune as tuning
    from bench.running.plan import Selection
    from bench.system.devices import device_of
    from bench.system.progress import reporter

    for kind, names in (("method", method), ("task", task)):
        if len(names) != 1:
            raise UsageError(f"expected one {kind}, found {len(names)}; name one of them")
    device = device_of(options["device"])
    selection = Selection(
        methods=method,
        tasks=task,
        preset=options["preset"],
        seeds=(options["seed"],),
        sets=options["sets"],
        data=None if options["data"] is None else options["data"].resolve(),
        device=device.type,
    )
    budget = options["budget"] or (EMBEDDED_BUDGET if registry.task(task[0]).embedded else BUDGET)
    with reporter() as out:
        results = options["results"].resolve()
        found = tuning.tune(selection, results, device, out, budget=budget, threads=options["threads"])
    for line in tuning.lines(found):
        click.echo(line)
