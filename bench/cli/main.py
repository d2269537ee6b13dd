"""The command line: parse, call, print. Imports no torch until a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench import __version__
from bench.cli.completion import Runs
from bench.cli.data import data
from bench.cli.export import export
from bench.cli.listing import list_
from bench.cli.options import (
    COUNT,
    SEED,
    data_option,
    device_option,
    results_option,
    threads_option,
)
from bench.cli.reporting import report
from bench.cli.sweeps import STOPPED, plan, run
from bench.cli.tuning import tune
from bench.errors import BenchError
from bench.system.output import unfailing


class Commands(click.Group):
    """Reports a BenchError as one line on standard error and exits with its code, after Ctrl-C with 130.

    What cannot be written or encoded changes neither what a command does nor its exit code.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with unfailing():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("stopped by Ctrl-C", err=True)
            ctx.exit(STOPPED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Shell completion: eval "$(_BENCH_COMPLETE=bash_source bench)" (or zsh_source, fish_source).',
)
@click.version_option(__version__, prog_name="bench")
def main() -> None:
    """Compare Bayesian-ensemble methods on the same networks, data and metrics.

    \b
    First steps, without downloads:
      bench run --method hypergan --task digits
      bench report

    Rows, tables and figures go to the folder `runs`; `bench report --results results` reads the
    rows that a clone of the repository brings.
    """


@main.command("verify")
@click.argument("runs", type=Runs(), metavar="RUN[,RUN..]|all")
@click.option("--cells", type=COUNT, metavar="N", help="Verify a random sample of N runs.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of that sample.")
@threads_option
@data_option
@results_option
@click.pass_context
def verify_runs(ctx: click.Context, runs: str, **options: Any) -> None:
    """Repeat stored runs and compare rows and arrays; exit code 1 if one is not reproduced.

    \b
    Examples:
      bench verify all --cells 3
      bench verify all --cells 3 --results results

    A stored fit is loaded; without one the method is trained again. With the same machine, packages and
    code, results must agree bit for bit, whatever the number of threads, otherwise within a tolerance that
    is printed.
    """
    from bench.running import verify as verifying
    from bench.system.progress import reporter

    results = options["results"].resolve()
    with reporter() as out:
        asked = verifying.names(results, runs, out)
        found = verifying.verify(
            results,
            asked,
            options["data"],
            out,
            cells=options["cells"],
            seed=options["seed"],
            threads=options["threads"],
        )
    right, broken = sum(v.ok for v in found), sum(bool(v.error) for v in found)
    click.echo(f"{right} ok, {len(found) - right - broken} differ, {broken} could not be compared")
    if right < len(found):
        ctx.exit(1)


for command in (run, plan, report, tune, list_, data, export):
    main.add_command(command)


@main.command()
@click.argument("kind", type=click.Choice(["predict", "train", "attack"]))
@device_option
@threads_option
@click.option(
    "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the results as JSON."
)
def perf(kind: str, device: str, threads: int | None, file: Path | None) -> None:
    """Measure how fast stacked networks are evaluated: a plain loop, vmap, this suite's engine.

    \b
    Example:
      bench perf predict --json predict.json

    All do the same work in the same run, beside two ceilings timed in it: the peak of fused
    multiply-adds (on a CPU), and a float32 matrix product, which is no limit. With `train` also a
    whole step of every method: the engine against a loop over its networks and PyTorch's Adam.
    """
    import json

    from bench import perf as benchmark
    from bench.system.devices import device_of
    from bench.system.files import write_atomic

    found = list(benchmark.measure(kind, device_of(device), threads=threads))
    click.echo(benchmark.table(found))
    click.echo(benchmark.about())
    if file is not None:
        write_atomic(file, (json.dumps(benchmark.documents(found), indent=1) + "\n").encode())
