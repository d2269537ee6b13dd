"""Ranks of methods from paired tests: methods that no test tells apart share a rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.schema import METRICS, Metric
from bench.report.arrays import Images
from bench.report.paired import COMPARED, SIGNIFICANT, UNTESTED
from bench.report.questions import Place, Question
from bench.report.uncertainty import Paired, holm, mcnemar, paired_t


class Standing(NamedTuple):
    """A method's place in a question: rank and the mean over seeds at its largest size.

    beats, ties, untested: the other methods that a paired test finds worse, cannot tell apart, or could not
    compare. settled: no pair of its own is untested. over: what its tests are over, seeds or images.
    """

    method: str
    rank: int
    mean: float
    sd: float
    members: int
    seeds: int
    examples: int
    beats: tuple[str, ...]
    ties: tuple[str, ...]
    untested: tuple[str, ...]
    over: tuple[str, ...]

    @property
    def settled(self) -> bool:
        return not self.untested


class Outcome(NamedTuple):
    """A paired test of two methods: the better one, empty for a tie; None if there was no test."""

    better: str | None
    over: str = ""


Outcomes = Mapping[tuple[str, str], Outcome]


def standings(
    question: Question, at: Place, answers: pd.DataFrame, verdicts: pd.DataFrame, images: Images
) -> list[Standing]:
    """The methods by rank: in the order of how many others are better, by a test or, untested, by the number.

    Those in a row of which none is better than another share a rank: the position of the first.

    answers: the rows of the place, of `questions.places`. verdicts: the table of paired verdicts of this
    preset and device, which decides where it has the metric.
    """
    if at.metric in COMPARED:
        outcomes = _from_verdicts(verdicts, at)
    else:
        outcomes = _tested(question, at, answers, images)
    return _ranked(_largest(answers), outcomes, _upwards(question, at))


def _upwards(question: Question, at: Place) -> bool:
    """Whether larger numbers stand first."""
    return not question.directed or METRICS.get(at.metric, Metric("")).direction == "higher"


def _from_verdicts(verdicts: pd.DataFrame, at: Place) -> Outcomes:
    same = (verdicts["task"] == at.task) & (verdicts["dataset"] == at.dataset)
    found: dict[tuple[str, str], Outcome] = {}
    columns = ["method", "other", "verdict", "difference", "p_holm", "over"]
    tested = verdicts.loc[same & (verdicts["metric"] == at.metric), columns]
    for first, second, words, difference, p, over in tested.itertuples(index=False, name=None):
        if not words.startswith(UNTESTED):
            higher = first if difference > 0 else second
            found[first, second] = Outcome(higher if p <= SIGNIFICANT else "", over)
    return found


def _tested(question: Question, at: Place, answers: pd.DataFrame, images: Images) -> Outcomes:
    """Paired tests over shared seeds or, with one, over its images; p adjusted for all pairs (Holm)."""
    cells: dict[str, _Sizes] = {}
    wanted = answers[["method", "members", "seed", "value", "run"]]
    for method, members, seed, value, run in wanted.itertuples(index=False, name=None):
        size = int(members) if question.sizes else 0
        cells.setdefault(str(method), {}).setdefault(size, {})[int(seed)] = (float(value), str(run))
    tests: dict[tuple[str, str], _Test] = {}
    for first, second in combinations(sorted(cells), 2):
        found = _pair(question, at, cells[first], cells[second], images)
        if found is not None:
            tests[first, second] = found
    adjusted = holm([test.paired.p for test in tests.values()])
    outcomes: dict[tuple[str, str], Outcome] = {}
    for (pair, test), p in zip(tests.items(), adjusted, strict=True):
        better = pair[0] if (test.paired.difference > 0) == test.upwards else pair[1]
        outcomes[pair] = Outcome(better if p <= SIGNIFICANT else "", test.over)
    return outcomes


_Sizes = dict[int, dict[int, tuple[float, str]]]  # number of networks -> seed -> value and run


class _Test(NamedTuple):
    """A paired test, what it is over, and whether more is better in it."""

    paired: Paired
    over: str
    upwards: bool


def _pair(question: Question, at: Place, first: _Sizes, second: _Sizes, images: Images) -> _Test | None:
    """The test of two methods at their largest common number of networks above one; None: nothing to pair."""
    common = {n for n in first if n != 1} & set(second)
    if not common:
        return None
    members = max(common)
    seeds = sorted(set(first[members]) & set(second[members]))
    sides = [[cells[members][seed] for seed in seeds] for cells in (first, second)]
    if len(seeds) > 1:
        values = [np.array([value for value, _ in side]) for side in sides]
        return _test([np.log(v) for v in values] if question.logarithm else values, "seeds", question, at)
    if not seeds or question.kept is None:
        return None
    runs = (sides[0][0][1], sides[1][0][1])
    kept = [question.kept(images, run, members, at) for run in runs]
    if kept[0] is None or kept[1] is None or kept[0].shape != kept[1].shape:
        return None
    return _test([kept[0], kept[1]], "images", question, at) if images.same(runs, at.dataset) else None


def _test(values: list[NDArray[Any]], over: str, question: Question, at: Place) -> _Test | None:
    """McNemar's test of what is right about each image, of numbers Student's; None if these cannot vary."""
    if values[0].dtype == bool:
        return _Test(mcnemar(*values), over, True)  # being right is better, whatever the metric counts
    try:
        return _Test(paired_t(*values), over, _upwards(question, at))
    except ValueError:  # the same difference everywhere has no variance
        return None


def _largest(answers: pd.DataFrame) -> pd.DataFrame:
    """One line a method: mean, sd and seeds at its largest size."""
    top = answers.groupby("method")["members"].transform("max")
    groups = answers[answers["members"] == top].groupby("method")
    frame = groups["value"].agg(["mean", "std", "count"])
    frame = frame.rename(columns={"count": "seeds"})
    return frame.assign(members=groups["members"].first(), examples=groups["examples"].max())


def _ranked(numbers: pd.DataFrame, outcomes: Outcomes, upwards: bool) -> list[Standing]:
    means = {str(method): float(mean) for method, mean in numbers["mean"].items()}

    def outcome(one: str, other: str) -> Outcome:
        return outcomes.get((one, other)) or outcomes.get((other, one)) or Outcome(None)

    def ahead(one: str, other: str) -> bool:
        """Whether the other is better than the one."""
        better = outcome(one, other).better
        if better is None:
            return means[other] != means[one] and (means[other] > means[one]) == upwards
        return better == other

    losses = {name: sum(ahead(name, other) for other in means if other != name) for name in means}
    order = sorted(means, key=lambda m: (losses[m], -means[m] if upwards else means[m], m))
    ranks: dict[str, int] = {}
    group: list[str] = []
    for position, name in enumerate(order):
        if any(ahead(name, other) or ahead(other, name) for other in group):
            group = []
        group.append(name)
        ranks[name] = ranks[group[0]] if len(group) > 1 else position + 1
    lines = {str(line.Index): line for line in numbers.itertuples()}
    return [
        _standing(lines[name], ranks[name], {o: outcome(name, o) for o in means if o != name})
        for name in order
    ]


def _standing(line: Any, rank: int, others: Mapping[str, Outcome]) -> Standing:
    """A method's standing; line: of `_largest`; others: its outcome against each other method."""
    return Standing(
        str(line.Index),
        rank,
        float(line.mean),
        float(line.std),
        int(line.members),
        int(line.seeds),
        0 if pd.isna(line.examples) else int(line.examples),
        _named(others, (str(line.Index),)),
        _named(others, ("",)),
        _named(others, (None,)),
        tuple(sorted({found.over for found in others.values() if found.over})),
    )


def _named(others: Mapping[str, Outcome], better: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(name for name, found in others.items() if found.better in better)
