"""Options that commands share: names, folders, and the selection of cells. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench import registry
from bench.cli.completion import Setting
from bench.errors import UsageError
from bench.records.schema import MAX_INTEGER
from bench.system.numbers import positive, whole

DEFAULT_RESULTS = "runs"  # ignored by git; `results` of this repository is evidence, written only if named
NAMES = "NAME[,NAME..]|all"
MAX_SEEDS = 100_000  # per command; a typed range could exceed memory
# The weights of a million of the smallest of the image networks need 126 GB.
MAX_MEMBERS = 1_000_000
MAX_WORKERS = 10_000  # and threads of one command
MAX_MINUTES = 10_000_000.0  # 19 years; timers of the system end soon after


class Names(click.ParamType):
    """A comma-separated list of registered names, or `all`."""

    name = "names"

    def __init__(self, kind: str, table: Callable[[], Any]) -> None:
        self.kind, self.table = kind, table

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        known = list(self.table())
        if value == "all":
            return known
        names = [name.strip() for name in value.split(",") if name.strip()]
        for name in names:
            if name not in known:
                self.fail(str(registry.missing(self.kind, name, known)), param, ctx)
        if not names:
            self.fail(f"expected a {self.kind}; known: {', '.join(known)}", param, ctx)
        return list(dict.fromkeys(names))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        before, comma, last = incomplete.rpartition(",")
        known = [*self.table(), *([] if comma else ["all"])]
        return [
            click.shell_completion.CompletionItem(before + comma + name)
            for name in known
            if name.startswith(last)
        ]


class Whole(click.ParamType):
    """An integer in a range, in decimal digits."""

    name = "integer"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = value if isinstance(value, int) else whole(value, self.most)
        except ValueError:
            number = -1
        if number < self.least:
            self.fail(
                f"expected a whole number from {self.least} to {self.most}, found {value:.80}", param, ctx
            )
        return number


class Positive(click.ParamType):
    """A finite number above 0, in decimal digits."""

    name = "number"

    def __init__(self, most: float) -> None:
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else positive(value, self.most)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SEED = Whole(0, MAX_INTEGER)
COUNT = Whole(1, MAX_INTEGER)
WORKERS = Whole(1, MAX_WORKERS)

results_option = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BENCH_RESULTS",
    default=DEFAULT_RESULTS,
    show_default=True,
    show_envvar=True,
    help="Folder of rows, tables and figures.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="BENCH_DATA",
    show_envvar=True,
    help="Folder of data sets that are not embedded.",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Device."
)
threads_option = click.option(
    "--threads",
    type=WORKERS,
    metavar="N",
    help="Threads of the whole command. [default: all cores, or OMP_NUM_THREADS for each process]",
)

_selectors = (
    click.option(
        "--method",
        "methods",
        type=Names("method", registry.methods),
        metavar=NAMES,
        required=True,
        help="Methods to train.",
    ),
    click.option(
        "--task",
        "tasks",
        type=Names("task", registry.tasks),
        metavar=NAMES,
        required=True,
        help="Tasks to evaluate on.",
    ),
    click.option(
        "--preset",
        type=click.Choice(list(registry.PRESETS)),
        default="quick",
        show_default=True,
        help="Scale of training and evaluation.",
    ),
    click.option("--seed", "seeds", default="0", show_default=True, help="Seeds: 0, 0,1,2 or 0-4."),
    click.option("--members", help="Ensemble sizes, as in 1,5,10,100 [default: the task's]."),
    click.option(
        "--set",
        "sets",
        type=Setting(),
        multiple=True,
        metavar="METHOD.KEY=VALUE",
        help="Change a setting; may be repeated.",
    ),
    device_option,
    data_option,
    results_option,
)


def selectors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: the options that select cells, the same for every command that takes them."""
    for option in reversed(_selectors):
        function = option(function)
    return function


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0`, `0,1,2` and `0-4` as seeds, at most `MAX_SEEDS`. Raises UsageError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            low = whole(first, MAX_INTEGER)
            high = whole(last, MAX_INTEGER) if dash else low
        except ValueError:
            raise UsageError(
                f"--seed {text:.80}: expected 0 or 0,1,2 or 0-4, none above {MAX_INTEGER}"
            ) from None
        if (count := len(seeds) + high - low + 1) > MAX_SEEDS:
            raise UsageError(f"--seed {text:.80}: expected at most {MAX_SEEDS:,} seeds, found {count:,}")
        seeds += range(low, high + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"--seed {text:.80}: expected every seed once, in ascending ranges")
    return tuple(seeds)


def parse_members(text: str) -> tuple[int, ...]:
    """`1,5,10` as ensemble sizes, at most `MAX_MEMBERS`. Raises UsageError for anything else."""
    try:
        sizes = {whole(part, MAX_MEMBERS) for part in text.split(",")}
    except ValueError:
        sizes = {0}
    if 0 in sizes:
        raise UsageError(f"--members {text:.80}: expected sizes from 1 to {MAX_MEMBERS:,}, as in 1,5,10,100")
    return tuple(sorted(sizes))
