"""What a sweep found, in a few lines of text: methods by task, best first, ties by the paired tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from bench.errors import BenchError
from bench.records import runs
from bench.report.paired import TIE, UNTESTED, Family, families, verdicts
from bench.report.rows import Material, prepare

SHOWN = 12  # methods of a table
HEADINGS = {"accuracy": "accuracy", "auroc": "AUROC of outliers"}


class Line(NamedTuple):
    """A method at its largest size. rank: 1 + the number of better methods; tied: whether others share it."""

    rank: int
    tied: bool
    method: str
    mean: float
    members: int
    seeds: int


def of_runs(results: Path, names: Sequence[str]) -> list[str]:
    """The tables of these runs of a results folder, of each cell its newest; damaged runs are left out."""
    found: dict[str, runs.Run] = {}
    for name in names:
        with suppress(BenchError):  # `bench report` says what is wrong with it
            found[name] = runs.check(results, name)
    abouts = {name: run.about for name, run in found.items()}
    if not found:
        return []
    newest = runs.Found({name: found[name] for name in runs.ages(abouts)}, (), ()).newest()
    material = Material(results, prepare(newest, abouts), abouts, pd.DataFrame())
    return [line for family in families(material) for line in _table(family)]


def ranked(family: Family) -> list[Line]:
    """The methods of a family, best first: by the test of each pair, by the means where a pair has none."""
    means: dict[str, tuple[float, int, int]] = {}
    for method, members in sorted(family.cells):  # the largest size stays
        values = family.cells[method, members]["value"]
        means[method] = (float(values.mean()), members, len(values))
    better, ties = dict.fromkeys(means, 0), []
    for pair in verdicts(family):
        one, other, verdict = str(pair["method"]), str(pair["other"]), str(pair["verdict"])
        if verdict == TIE:
            ties.append((one, other))
        elif not verdict.startswith(UNTESTED):
            better[other if verdict == f"{one} higher" else one] += 1
        elif means[one][0] != means[other][0]:
            better[one if means[one][0] < means[other][0] else other] += 1
    tied = {method for pair in ties if better[pair[0]] == better[pair[1]] for method in pair}
    order = sorted(means, key=lambda method: (better[method], -means[method][0], method))
    return [Line(1 + better[method], method in tied, method, *means[method]) for method in order]


def _table(family: Family) -> Iterator[str]:
    lines, place = ranked(family), family.place
    yield ""
    where = f"{place['task']} · {place['preset']} · {place['device']} · on {place['dataset']}"
    yield f"{HEADINGS[family.metric]} · {where}"
    width = max(len(line.method) for line in lines[:SHOWN])
    for line in lines[:SHOWN]:
        value = f"{line.mean:.2%}" if family.metric == "accuracy" else f"{line.mean:.3f}"
        seeds = f"{line.seeds} seed" + ("s" if line.seeds > 1 else "")
        rank = f"{line.rank}{'=' if line.tied else ''}"
        yield f"  {rank:<4}{line.method:<{width}}  {value:>7}  {line.members:>5,} networks, {seeds}"
    if len(lines) > SHOWN:
        yield f"  and {len(lines) - SHOWN} more"
    if any(line.tied for line in lines):
        yield "  =: no paired test tells them apart"
