"""`bench list`. Imports no torch until it shows settings or costs."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import click

from bench import registry
from bench.cli.options import NAMES, Names, data_option, device_option, results_option
from bench.errors import BenchError, UsageError
from bench.system import fields
from bench.system.output import is_terminal

HEADINGS = ("name", "type", "range", "default", "tuned", "what for", "source")  # of settings


@click.group("list", invoke_without_command=True)
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Show methods, tasks, presets, and the settings of a method; without a name an overview.

    When output is not a terminal, only names are printed, one per line; settings are separated by tabs.
    """
    if ctx.invoked_subcommand is not None:
        return
    for kind, names in (
        ("methods", registry.methods()),
        ("tasks", registry.tasks()),
        ("presets", registry.PRESETS),
    ):
        click.echo(_wrapped(", ".join(names), f"{len(names)} {kind}: ", "  "))
    click.echo("\nWhat they are: bench list methods | tasks | presets")
    click.echo("What a method can be set to: bench list settings METHOD")
    click.echo("What a preset costs: bench list presets --task TASK [--method METHOD]")


@list_.command("methods")
def list_methods() -> None:
    """Methods and their variants."""
    _print_names((name, entry.about) for name, entry in registry.methods().items())


@list_.command("tasks")
def list_tasks() -> None:
    """Tasks: data, network and evaluations."""
    _print_names((name, entry.about) for name, entry in registry.tasks().items())


@list_.command("presets")
@click.option(
    "--task", "tasks", type=Names("task", registry.tasks), metavar=NAMES, help="Tasks to show the cost of."
)
@click.option(
    "--method",
    "methods",
    type=Names("method", registry.methods),
    metavar=NAMES,
    default="all",
    show_default=True,
    help="Methods that the cost is of.",
)
@device_option
@data_option
@results_option
def list_presets(tasks: list[str] | None, methods: list[str], **options: Any) -> None:
    """Presets: the scale of training and evaluation; with a task, what each costs there.

    \b
    Examples:
      bench list presets
      bench list presets --task digits --method hypergan

    A cost is estimated as by `bench plan`: one seed, on this machine, from finished cells in the results
    folder.
    """
    if tasks is None:
        _print_names(registry.PRESETS.items())
        return
    unread: dict[str, str] = {}
    for task in tasks:
        of = methods[0] if len(methods) == 1 else f"{len(methods)} methods"
        click.echo(f"{task}, {of}, one seed:")
        for preset in registry.PRESETS:
            facts = [_cost(methods, task, preset, options, unread), *_scale(methods, task, preset)]
            click.echo(_wrapped(" · ".join(facts), f"  {preset}  ", " " * 9))
    for name, message in unread.items():
        click.echo(f"not planned: {name}: {message}", err=True)
    if unread:
        raise BenchError(f"could not plan {', '.join(unread)}")


def _cost(methods: list[str], task: str, preset: str, options: dict[str, Any], unread: dict[str, str]) -> str:
    """The estimated cost of all cells of a preset; what cannot be planned is added to `unread`."""
    from bench.running import plan as planning
    from bench.running.guess import Guess
    from bench.system.devices import device_of

    device = device_of(options["device"]).type
    selection = planning.Selection(methods, [task], preset, data=options["data"], device=device)
    found, failed = planning.plan(selection, options["results"], Guess())
    unread |= failed
    costs = [item.cost for item in found if item.cost is not None]
    if not costs:
        return "cost unknown"
    total = planning.duration(sum(cost.seconds for cost in costs))
    return f"about {total}{'' if all(cost.measured for cost in costs) else ', guessed'}"


def _scale(methods: list[str], task: str, preset: str) -> Iterator[str]:
    """The numbers of networks and images of a preset, and of a single method the settings it changes."""
    found = registry.task(task)
    scale = found.scale(preset)
    yield f"{', '.join(map(str, scale.sizes))} networks"
    yield "the whole test set" if scale.images is None else f"{scale.images:,} of the test set"
    yield from (f"PGD of {part.steps} steps on {part.images or 'all'} images" for part in scale.attacks)
    if len(methods) == 1:
        changed = registry.method(methods[0]).values(preset, found.train)
        yield ", ".join(f"{name} = {_text(value)}" for name, value in changed.items()) or "default settings"


@list_.command("settings")
@click.argument("method", type=Names("method", registry.methods), metavar="METHOD")
@click.option(
    "--preset",
    type=click.Choice(list(registry.PRESETS)),
    help="Show what this preset sets, not the defaults.",
)
@click.option("--task", type=Names("task", registry.tasks), metavar="TASK", help="On this task.")
def list_settings(method: list[str], preset: str | None, task: list[str] | None) -> None:
    """Settings of a method: type, range, default, what it is for, where it comes from.

    \b
    Examples:
      bench list settings mc_dropout
      bench list settings hypergan --preset quick --task digits

    The preset `paper` uses the defaults, unless the method's TOML file changes them. `tuned` is what
    `bench tune` tries. Ranges and choices are those that `--set` accepts.
    """
    from bench.settings import LoopConfig, described

    entry = registry.method(_one("method", method))
    train = registry.task(_one("task", task)).train if task else ""
    changed = entry.values(preset or "", train)
    config = entry.load().Config
    notes = fields.fields(LoopConfig.__module__, LoopConfig.__name__)
    notes |= fields.fields(config.__module__, config.__name__)
    tuned = registry.search_values(entry.toml, train)
    rows = []
    for name, default, kind, limits in described(config, changed):
        note = notes.get(name, fields.Field())
        rows.append(
            (name, kind, limits, _text(default), _tried(tuned.get(name)), note.about, note.source),
        )
    _print_settings(rows)


def _one(kind: str, names: list[str]) -> str:
    if len(names) != 1:
        raise UsageError(f"expected one {kind}, found {len(names)}; name one of them")
    return names[0]


def _tried(values: Any) -> str:
    """A setting's part of a search space, as text."""
    if isinstance(values, dict):
        by = " (log)" if values.get("log") else ""
        return f"{values['low']} to {values['high']}{by}"
    return ", ".join(map(_text, values or ()))


def _text(value: Any) -> str:
    from bench.settings import written

    return written(value)


def _print_settings(rows: Iterable[tuple[str, ...]]) -> None:
    """A block a setting; off a terminal a line each, separated by tabs, under headings."""
    if not is_terminal(sys.stdout):
        for row in (HEADINGS, *rows):
            click.echo("\t".join(row))
        return
    for name, kind, limits, default, tuned, about, source in rows:
        facts = (f"{kind} {limits}".strip(), f"default {default}", f"tuned over {tuned}" if tuned else "")
        click.secho(name, bold=True)
        for line in ("; ".join(filter(None, facts)), about, f"source: {source}" if source else ""):
            if line:
                click.echo(_wrapped(line, " " * 4, " " * 4))


def _print_names(items: Any) -> None:
    rows = [(str(name), str(about)) for name, about in items]
    if not is_terminal(sys.stdout):
        click.echo("\n".join(name for name, _ in rows))
        return
    width = max(len(name) for name, _ in rows)
    for name, about in rows:
        click.echo(_wrapped(about, f"{name:<{width}}  ", " " * (width + 2)))


def _wrapped(text: str, first: str, later: str) -> str:
    """Text in the width of the terminal, behind these beginnings of lines; no word is cut."""
    width = max(40, shutil.get_terminal_size().columns) - 1
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
