"""The first screen of the page: which method is best at what, which claims hold, and what networks are worth.

Ranks come from paired tests (`bench.report.ranks`), claims from the ledger, all else from the same rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bench.report.claims.checks import STANDARD
from bench.report.claims.comparison import FAILS, HOLDS, UNDECIDED, UNKNOWN
from bench.report.families import Answer, Family, heading, mark, shown
from bench.report.layout.tables import networks
from bench.report.published import JUDGED
from bench.report.questions import ACCURACY, ATTACK, OUTLIERS
from bench.report.ranks import Standing
from bench.report.rows import BLOCK
from bench.report.uncertainty import t_interval

# In the order of the chips.
MARKS = {FAILS: "✗", HOLDS: "✓", UNDECIDED: "?", UNKNOWN: "–"}
FEW = 5  # networks whose worth against an attack is told: the smallest ensemble that the paper attacks
MAX_NAMES = 4  # methods named in a sentence


class Cell(NamedTuple):
    """A method's place in a question. why: what is told on demand."""

    rank: str
    text: str
    first: bool
    why: str


class Matrix(NamedTuple):
    """A family: its sentence, and methods by questions; a gap is None.

    more: how sure the sentence is, and the leaders of other questions. headings: pairs of name and asks.
    """

    name: str
    task: str
    sentence: str
    more: str
    headings: Sequence[tuple[str, str]]
    lines: Sequence[tuple[str, Sequence[Cell | None]]]


class Chip(NamedTuple):
    """A claim that was judged. key: of its evidence on the page."""

    key: tuple[str, ...]
    name: str
    statement: str
    verdict: str
    mark: str


class Block(NamedTuple):
    """What one preset and device show.

    counts: claims by verdict, per HyperGAN judged. clearest: a sentence on the claim that fails most clearly,
    with the key of its evidence. worth: sentences on attacks. unmeasured: claims without rows, with commands.
    """

    preset: str
    device: str
    matrices: Sequence[Matrix]
    counts: Sequence[str]
    clearest: tuple[str, tuple[str, ...]] | None
    chips: Sequence[Chip]
    worth: Sequence[str]
    unmeasured: str
    commands: Sequence[str]


def first_screen(families: Sequence[Family], ledger: pd.DataFrame) -> Iterator[Block]:
    """One block per preset and device, in report order. ledger: of `bench.report.claims`."""
    for (preset, device), part in ledger.groupby(list(BLOCK), sort=False):
        own = [family for family in families if (family.preset, family.device) == (preset, device)]
        judged = part[part["verdict"] != UNKNOWN]
        unknown = part[part["verdict"] == UNKNOWN]
        yield Block(
            str(preset),
            str(device),
            [_matrix(family, part) for family in own],
            list(_counts(part)),
            _clearest(part),
            [
                _chip(line)
                for verdict in MARKS
                for line in judged[judged["verdict"] == verdict].to_dict("records")
            ],
            [text for family in own if (text := _worth(family))],
            _unmeasured(unknown),
            _commands(unknown),
        )


def claim_key(line: Mapping[Any, Any]) -> tuple[str, ...]:
    """What names a line of the ledger on the page."""
    return ("claim", line["preset"], line["device"], line["judged_on"], line["claim"])


def _chip(line: Mapping[Any, Any]) -> Chip:
    name = line["claim"].replace("-", " ")
    name += f" ({line['judged_on']})" if line["judged_on"] != JUDGED[-1] else ""
    return Chip(claim_key(line), name, line["statement"], line["verdict"], MARKS[line["verdict"]])


def _tally(verdicts: Sequence[str]) -> str:
    """Numbers of claims by verdict, as words."""
    counts = Counter(verdicts)
    words = {HOLDS: ("holds", "hold"), FAILS: ("does not hold", "do not hold")}
    words |= {UNDECIDED: (UNDECIDED, UNDECIDED), UNKNOWN: (UNKNOWN, UNKNOWN)}
    return ", ".join(
        f"{counts[verdict]} {one if counts[verdict] == 1 else many}"
        for verdict, (one, many) in words.items()
        if counts[verdict]
    )


def _counts(part: pd.DataFrame) -> Iterator[str]:
    for judged, lines in part.groupby("judged_on", sort=False):
        if set(lines["verdict"]) != {UNKNOWN}:
            yield f"The paper's claims about {judged}, over all tasks: {_tally(lines['verdict'].tolist())}."


def _clearest(part: pd.DataFrame) -> tuple[str, tuple[str, ...]] | None:
    """The claim that fails with the greatest distance from zero, in half-widths of its interval."""
    failing = part[(part["verdict"] == FAILS) & part["clearness"].notna()]
    if not len(failing):
        return None
    line = failing.sort_values("clearness", ascending=False, kind="stable").to_dict("records")[0]
    far = line["clearness"]
    distance = (
        "as counted" if math.isinf(far) else f"missed by {far:.1f} times the margin of its 95 % interval"
    )
    return f"“{line['statement']}” ({line['judged_on']}: {distance})", claim_key(line)


def _unmeasured(unknown: pd.DataFrame) -> str:
    """How many claims have no rows, by the HyperGAN judged."""
    counts = Counter(unknown["judged_on"])
    return " and ".join(f"{n} {'claim' if n == 1 else 'claims'} about {name}" for name, n in counts.items())


def _commands(unknown: pd.DataFrame) -> list[str]:
    """The commands that fill the gaps, those that differ in methods or tasks alone as one."""
    merged: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    for line in unknown[unknown["command"] != ""].to_dict("records"):
        words = line["command"].split()
        options = dict(zip(words[2::2], words[3::2], strict=False))
        rest = tuple(
            w
            for o, v in zip(words[2::2], words[3::2], strict=False)
            if o not in ("--method", "--task")
            for w in (o, v)
        )
        stale = ("--stale",) if "--stale" in words else ()
        methods, tasks = merged.setdefault((*rest, *stale), ({}, {}))
        methods |= dict.fromkeys(options["--method"].split(","))
        tasks |= dict.fromkeys(options["--task"].split(","))
    return [
        " ".join(["bench run --method", ",".join(methods), "--task", ",".join(tasks), *rest])
        for rest, (methods, tasks) in merged.items()
    ]


def _matrix(family: Family, ledger: pd.DataFrame) -> Matrix:
    """Methods by questions, in the order of the first question."""
    order = dict.fromkeys(s.method for answer in family.answers.values() for s in answer.standings)
    places = {
        name: {standing.method: standing for standing in answer.standings}
        for name, answer in family.answers.items()
    }
    lines = [
        (method, [_cell(family.answers[name], found.get(method)) for name, found in places.items()])
        for method in order
    ]
    headings = [(heading(answer), answer.question.asks) for answer in family.answers.values()]
    task = next((answer.at.task for answer in family.answers.values()), family.tasks[0])
    return Matrix(family.train, task, _sentence(family, ledger), _more(family), headings, lines)


def _cell(answer: Answer, standing: Standing | None) -> Cell | None:
    if standing is None:
        return None
    text = shown(answer.at.metric, standing.mean, unit=False)
    return Cell(mark(standing), text, standing.rank == 1, f"{_size(standing)}. {_sure(standing)}")


def _size(standing: Standing) -> str:
    return f"{networks(standing.members)}, {_seeds(standing.seeds)}"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _named(names: Sequence[str]) -> str:
    """Names as an enumeration, long ones cut."""
    if len(names) > MAX_NAMES:
        return f"{', '.join(names[: MAX_NAMES - 1])} and {len(names) - MAX_NAMES + 1} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _sure(standing: Standing) -> str:
    """What the paired tests say of a method, as a sentence."""
    parts = []
    if standing.ties:
        parts.append(f"tied with {_named(standing.ties)}")
    if standing.beats:
        parts.append(f"ahead of {_named(standing.beats)}")
    if standing.untested:
        parts.append(f"not tested against {_named(standing.untested)}, ranked there by the raw number")
    over = f" (paired tests over {' and '.join(standing.over)}, p ≤ 0.05)" if standing.over else ""
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}{over}." if text else "Nothing to compare."


def _sentence(family: Family, ledger: pd.DataFrame) -> str:
    """Who is best at the first question and how sure, then the claims here."""
    parts = []
    if ACCURACY in family.answers:
        answer = family.answers[ACCURACY]
        top = answer.standings[0]
        right = answer.at.metric == "accuracy"
        what = "highest accuracy:" if right else "highest log-likelihood:"
        number = shown(answer.at.metric, top.mean, top.sd) + (f" of {top.examples:,} images" if right else "")
        sure = [f"tied with {_named(top.ties)}"] if top.ties else []
        others = f"{len(top.untested)} of the {len(answer.standings) - 1} others"
        sure += [f"not tested against {others}"] if top.untested else []
        sure = sure or ["ahead of all others"] if len(answer.standings) > 1 else []
        parts.append(f"{', '.join([f'{what} {top.method}, {number} ({_size(top)})', *sure])}")
    told = _claims_here(family, ledger)
    return "; ".join([*parts, *told]) + "." if parts or told else "no question was measured."


def _more(family: Family) -> str:
    """How sure the leader's place is, and who leads at outliers and attacks."""
    parts = []
    if ACCURACY in family.answers:
        top = family.answers[ACCURACY].standings[0]
        parts.append(f"{top.method}: {_lower(_sure(top))}")
        if top.seeds == 1:
            parts.append("One seed: training again could change this order.")
    for name, what in ((OUTLIERS, "Best at telling outliers"), (ATTACK, "Fooled least by PGD")):
        if name in family.answers:
            parts.append(_leaders(family.answers[name], what))
    return " ".join(parts)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _leaders(answer: Answer, what: str) -> str:
    first = [s for s in answer.standings if s.rank == 1]
    number = shown(answer.at.metric, first[0].mean, first[0].sd)
    also = f", level with {_named([s.method for s in first[1:]])}" if len(first) > 1 else ""
    open_ = "" if first[0].settled else ", partly untested"
    return f"{what}: {first[0].method} ({number}{also}{open_})."


def _claims_here(family: Family, ledger: pd.DataFrame) -> list[str]:
    """Counts of verdicts of the claims that this family's tasks bear on, of each HyperGAN that was judged."""
    found = []
    for judged, lines in ledger.groupby("judged_on", sort=False):
        verdicts = []
        for text in lines["by_task"]:
            told = dict(part.split(": ", 1) for part in text.split("; ") if ": " in part)
            here = [told[task] for task in family.tasks if task in told]
            verdicts += [next(v for v in (FAILS, UNKNOWN, UNDECIDED, HOLDS) if v in here)] if here else []
        if set(verdicts) - {UNKNOWN}:
            found.append(f"of the paper's claims about {judged}, on these data alone: {_tally(verdicts)}")
    return found


def _worth(family: Family) -> str:
    """What `FEW` networks of the paper's method are worth against PGD, in networks of a standard ensemble."""
    answer = family.answers.get(ATTACK)
    if answer is None:
        return ""
    values: dict[str, dict[int, list[float]]] = {}
    for method, members, value in answer.rows[["method", "members", "value"]].itertuples(index=False):
        values.setdefault(str(method), {}).setdefault(int(members), []).append(float(value))
    own = next((name for name in reversed(JUDGED) if FEW in values.get(name, {})), None)
    if own is None:
        return ""
    metric = answer.at.metric
    rates = {name: {n: t_interval(v) for n, v in sorted(sizes.items())} for name, sizes in values.items()}
    ours = rates[own][FEW]
    text = (
        f"Against PGD on {family.train} (ε = {answer.at.epsilon:g}, the attacker has the whole ensemble), "
        f"{FEW} networks of {own} are fooled on {shown(metric, ours.mean, ours.sd)} of the images "
        f"({_seeds(ours.n)})"
    )
    single = f"; a single network of {own}: {shown(metric, rates[own][1].mean)}" if 1 in rates[own] else ""
    if STANDARD not in rates:
        return f"{text}{single}."
    other = {n: found.mean for n, found in rates[STANDARD].items()}
    numbers = ", ".join(f"{networks(n)} {shown(metric, rate)}" for n, rate in other.items())
    return (
        f"{text}. By these numbers, without a test, they are worth {_equal(ours.mean, other)} of {STANDARD} "
        f"({numbers}){single}."
    )


def _equal(ours: float, other: Mapping[int, float]) -> str:
    """The number of networks with the same rate, between the measured sizes that enclose it."""
    weaker = [n for n, rate in other.items() if rate >= ours]
    stronger = [n for n, rate in other.items() if rate < ours]
    if not weaker:
        return f"less than {networks(min(stronger))}"
    if not stronger:
        return f"at least {networks(max(weaker))}"
    return f"more than {networks(max(weaker))} and fewer than {min(stronger):,}"
