"""The command line: parse, call, print. Imports no torch until a command needs it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from bench import __version__, registry
from bench.cli.options import (
    COUNT,
    MAX_MINUTES,
    NAMES,
    SEED,
    WORKERS,
    Names,
    Positive,
    data_option,
    device_option,
    parse_members,
    parse_seeds,
    results_option,
    selectors,
    threads_option,
)
from bench.cli.tuning import tune
from bench.errors import BenchError, DataError, UsageError
from bench.running import launchers
from bench.system.output import is_terminal, unfailing, warnings_logged


class Commands(click.Group):
    """Reports a BenchError as one line on standard error and exits with its code.

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
    """


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


@main.command()
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


@main.command()
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


@main.command("verify")
@click.argument("runs", metavar="RUN[,RUN..]|all")
@click.option("--cells", type=COUNT, metavar="N", help="Verify a random sample of N runs.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of that sample.")
@threads_option
@data_option
@results_option
@click.pass_context
def verify_runs(ctx: click.Context, runs: str, **options: Any) -> None:
    """Repeat stored runs and compare rows and arrays; exit code 1 if one is not reproduced.

    \b
    Example:
      bench verify all --cells 3

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


@main.command()
@results_option
@click.option("--check", is_flag=True, help="Exit with 1 if a claim's verdict is not as expected.")
@click.option("--force", is_flag=True, help="Write it again, even if nothing has changed.")
@click.pass_context
def report(ctx: click.Context, results: Path, check: bool, force: bool) -> None:
    """Write all tables, figures and the HTML page from stored rows.

    \b
    Examples:
      bench report --results results
      bench report --check
    """
    from bench.cli.reporting import departing, written

    paths, anew = written(results, {}, force)
    for path in paths if anew else ():
        click.echo(path)
    told = f"{len(paths)} files" + ("" if anew else ", unchanged (--force writes them again)")
    click.echo(f"{told} · open {results / 'report.html'}")
    if check and (lines := departing(results)):
        click.echo("\n".join(f"departs: {line}" for line in lines), err=True)
        ctx.exit(1)


main.add_command(tune)


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


@main.group("list")
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


@main.group()
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
def where(data: Path | None) -> None:
    """Print the data folder."""
    click.echo(_root(data).resolve())
