"""Task families: tasks that share a fit, where they answer each question, and the ranks of methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

from bench.records.schema import METRICS, Metric
from bench.report.arrays import Images
from bench.report.data_sets import without_data
from bench.report.layout.tables import MISSING, digits
from bench.report.questions import QUESTIONS, Place, Question, answers, place
from bench.report.ranks import Standing, standings
from bench.report.rows import BLOCK, STAND_INS, Material, paper_first


@dataclass(frozen=True)
class Answer:
    """One question in a family: where it is answered, the rows that answer it, and the ranked methods."""

    question: Question
    at: Place
    rows: pd.DataFrame
    standings: Sequence[Standing]


@dataclass(frozen=True)
class Family:
    """The tasks of one train key, preset and device. answers: by the name of the question, in their order."""

    preset: str
    device: str
    train: str
    tasks: Sequence[str]
    answers: Mapping[str, Answer]


class Ranked(NamedTuple):
    """A cell of a ranked table: its text, a number to sort by (None: a gap), and the rank, 0 if unranked."""

    text: str
    value: float | None = None
    rank: int = 0


class Line(NamedTuple):
    """A line of a ranked table: a method at a size. largest: whether it is the method's largest size."""

    method: str
    members: int
    largest: bool
    rank: str
    cells: Sequence[Ranked]
    seeds: int


class RankedTable(NamedTuple):
    """A task's methods by rank in the first of its questions. headings: of the cells of each line."""

    task: str
    first: str
    headings: Sequence[str]
    lines: Sequence[Line]
    sizes: Sequence[int]


def families(material: Material, verdicts: pd.DataFrame) -> list[Family]:
    """All families with rows by preset and device, those that answer most first, stand-ins last.

    verdicts: the frame of the table of paired verdicts.
    """
    images = Images(material.results)
    found = []
    measured = material.rows[material.rows["metric"] != "failed"]
    for (preset, device), rows in measured.groupby(list(BLOCK), sort=False):
        here = verdicts[(verdicts["preset"] == preset) & (verdicts["device"] == device)]
        answered = [(question, answers(rows, question)) for question in QUESTIONS]
        for train in _order(rows, answered):
            told = {}
            for question, lines in answered:
                own = lines[lines["train"] == train]
                if len(own):
                    at, own = place(own, question, train)
                    told[question.name] = Answer(
                        question, at, own, standings(question, at, own, here, images)
                    )
            tasks = paper_first(rows.loc[rows["train"] == train, "task"])
            found.append(Family(str(preset), str(device), train, tasks, told))
    return found


def _order(rows: pd.DataFrame, answered: Sequence[tuple[Question, pd.DataFrame]]) -> list[str]:
    """Train keys, those of stand-ins last, else by the number of questions that their tasks answer."""
    counts = {
        train: sum(train in set(lines["train"]) for _, lines in answered) for train in set(rows["train"])
    }
    return sorted(paper_first(counts), key=lambda train: (without_data(train) in STAND_INS, -counts[train]))


def shown(metric: str, mean: float, sd: float = float("nan"), unit: bool = True) -> str:
    """A mean with its standard deviation, where there is one, and its unit."""
    text = digits(metric, mean) if pd.isna(sd) else f"{digits(metric, mean)} ± {digits(metric, sd)}"
    name = METRICS.get(metric, Metric("")).shown
    return f"{text} {name}" if unit and name else text


def mark(standing: Standing) -> str:
    """The rank as text; ~ where some pair was not tested and the number places it."""
    return f"{standing.rank}{'' if standing.settled else '~'}"


def ranked_table(family: Family, task: str) -> RankedTable | None:
    """The methods of a task at all sizes, by rank in its first question; None if it answers no question.

    A question that another task of the family answers for the same networks has no column here.
    """
    here = [answer for answer in family.answers.values() if answer.at.task == task]
    if not here:
        return None
    first = here[0]
    ranks = {standing.method: standing for standing in first.standings}
    cells: dict[tuple[str, int], dict[str, Ranked]] = {}
    seeds: dict[tuple[str, int], int] = {}
    for answer in here:
        places = {s.method: s for s in answer.standings}
        groups = answer.rows.groupby(["method", "members"])["value"].agg(["mean", "std", "count"])
        for (method, members), line in zip(groups.index, groups.to_dict("records"), strict=True):
            key = (str(method), int(members))
            top = places[key[0]].members == key[1]
            text = shown(answer.at.metric, line["mean"], line["std"], unit=False)
            rank = places[key[0]].rank if top else 0
            cells.setdefault(key, {})[answer.question.name] = Ranked(text, float(line["mean"]), rank)
            seeds[key] = max(seeds.get(key, 0), int(line["count"]))
    most = {method: max(n for name, n in cells if name == method) for method, _ in cells}
    order = {name: i for i, name in enumerate(ranks)}
    lines = [
        Line(
            method,
            members,
            members == most[method],
            mark(ranks[method]) if method in ranks and ranks[method].members == members else "",
            [found.get(answer.question.name, Ranked(MISSING)) for answer in here],
            seeds[method, members],
        )
        for (method, members), found in sorted(
            cells.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0][0], -item[0][1])
        )
    ]
    sizes = sorted({members for _, members in cells})
    return RankedTable(task, first.question.name, [heading(answer) for answer in here], lines, sizes)


def heading(answer: Answer) -> str:
    """The question, what it counts and its unit, with an arrow where one direction is better."""
    metric = METRICS.get(answer.at.metric, Metric(""))
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.direction, "")
    unit = f" [{metric.shown}]" if metric.shown else ""
    name = answer.question.name
    counted = metric.heading or answer.at.metric
    counted = "" if counted == name else f": {counted}"
    where = f" at ε = {answer.at.epsilon:g}" if not pd.isna(answer.at.epsilon) else ""
    return f"{name}{counted}{unit}{where}{arrow}"
