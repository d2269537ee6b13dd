"""What a sweep found, in a few lines of text: methods by task, best first, ties by the paired tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from bench.errors import BenchError
from bench.records import runs
from bench.report.families import Answer, Family, families, shown
from bench.report.paired import all_verdicts
from bench.report.questions import ACCURACY, OUTLIERS
from bench.report.rows import Material, prepare

SHOWN = 12  # methods of a table
HEADINGS = {"accuracy": "accuracy", "log_likelihood_nats": "log-likelihood", "auroc": "AUROC of outliers"}


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
    return list(lines(families(material, all_verdicts(material))))


def lines(found: Sequence[Family]) -> Iterator[str]:
    """A table of accuracy and one of outliers for each family, 80 characters wide where names allow."""
    for family in found:
        for question in (ACCURACY, OUTLIERS):
            if question in family.answers:
                yield from _table(family, family.answers[question])


def _table(family: Family, answer: Answer) -> Iterator[str]:
    at, top = answer.at, answer.standings[:SHOWN]
    ranks = [standing.rank for standing in answer.standings]
    yield ""
    yield f"{HEADINGS[at.metric]} · {at.task} · {family.preset} · {family.device} · on {at.dataset}"
    width = max(len(standing.method) for standing in top)
    for standing in top:
        tied = ranks.count(standing.rank) > 1
        seeds = f"{standing.seeds} seed" + ("s" if standing.seeds > 1 else "")
        rank, value = f"{standing.rank}{'=' if tied else ''}", shown(at.metric, standing.mean)
        yield f"  {rank:<4}{standing.method:<{width}}  {value:>9}  {standing.members:>5,} networks, {seeds}"
    if len(answer.standings) > SHOWN:
        yield f"  and {len(answer.standings) - SHOWN} more"
    if len(set(ranks)) < len(ranks):
        yield "  =: no paired test tells them apart"
