"""The ledger: the paper's claims tested on rows, with actual and expected verdicts.

Each claim is judged on HyperGAN as published and, in a line of its own, on HyperGAN at this project's
best. It *holds* if all its comparisons do, *does not hold* if one fails, is *not measured* as long as rows
that it needs are missing, and otherwise *undecided*. A comparison holds or fails if the whole 95 % interval
of the difference lies on one side and no paired test calls it a tie (`bench.report.claims.comparison`).
`expected` is what the committed rows of this project's own recipe show, with its reason: *open* where they
show nothing, for HyperGAN as published, and always at preset smoke.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.records.runs import ages
from bench.report import flags
from bench.report.arrays import Images
from bench.report.claims.comparison import SEEDS, UNDECIDED, UNKNOWN, Finding, verdict
from bench.report.claims.evidence import Rows, verdicts
from bench.report.claims.paper import CLAIMS, OPEN, Claim
from bench.report.data_sets import one_each, without_data
from bench.report.layout.tables import MARK, Cell, TextTable
from bench.report.published import AS_PUBLISHED, JUDGED, PROPOSED, named
from bench.report.rows import BLOCK, Material, command, note_on_copies, without_configuration

COLUMNS = (
    "claim", "statement", "section", "test", *BLOCK, "judged_on", "verdict", "expected", "reason", "departs",
    "paper_numbers", "seeds", "by_task", "clearness", "evidence", "command",
)  # fmt: skip
EXPLANATION = (
    "The paper's claims, tested on these rows: on hypergan-published, the paper's method as published, and, "
    "in a line of its own, on hypergan, the best recipe of this project. A comparison holds, or fails, if "
    "the whole 95 % interval of the difference lies on one side; otherwise it is undecided. Over several "
    "seeds the interval is Student's, of paired differences. With one seed it is over images, or for the "
    "spread of weights over networks: it speaks of these trained networks alone; what has neither is "
    "undecided. Two accuracies are judged by the table of paired verdicts, whose ties are undecided here, "
    "and otherwise by the same tests of the same images. A claim fails if one of its comparisons does, is "
    "not measured as long as rows are missing, and holds if all of them do. Expected is what the committed "
    "rows of this project's own recipe show; verdicts that differ from it are bold. Paper's numbers is the "
    "verdict on the paper's own tables, printed values without intervals, taken as they are. Of several "
    "configurations of a method the one shown by its plain name counts, its default."
)
ENOUGH = 5  # seeds proposed where a claim is undecided, unless more are known to be needed
HEADINGS = (
    "claim", "section", "judged on", "verdict", "expected", "paper's numbers", "evidence",
)  # fmt: skip


def ledger(material: Material, chosen: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """One line per preset, device, claim and HyperGAN: presets in report order, HyperGAN as published first.

    Columns: verdict; `departs`, yes if it is not the expected one; `reason`, why it is expected;
    `paper_numbers`, the verdict of the same check on the paper's own tables, empty if they lack the
    numbers, and for HyperGAN at its best, of which they do not speak; `evidence`, the numbers in a
    sentence; `by_task`, the verdict on each task; `clearness`, of `Finding`, the clearest of the comparisons
    that decide, empty where none does; `command`, what would fill the gaps.
    """
    age = ages(material.abouts)
    # Published rows have no task and no seed; their sources differ between mean and sd of the same norm.
    paper = named(material.published, AS_PUBLISHED)
    theirs = Rows(paper.assign(task=paper["train"], seed=0, source=""), {})
    own = {claim.name: verdict(claim.check(theirs, AS_PUBLISHED)) for claim in chosen}
    lines = []
    judged_rows = one_each(material.rows, age, names=False)
    for (preset, device), marked in judged_rows.groupby(list(BLOCK), sort=False):
        part = marked.assign(**{c: marked[c].map(without_data) for c in ("train", "task")})
        told = verdicts(material, marked)
        asked, nothing = Rows(part, age, Images(material.results), told), Rows(part.iloc[:0], {})
        doubts = _doubts(part)
        held = set(
            zip(*(c.tolist() for c in (without_configuration(part["method"]), part["task"])), strict=True)
        )
        for claim, judged in itertools.product(chosen, JUDGED):
            here = claim.device in ("", device)
            found = claim.check(asked if here else nothing, judged)
            numbers = own[claim.name] if judged == AS_PUBLISHED else UNKNOWN
            line = _line(claim, judged, found, str(preset), str(device), numbers)
            if claim.attacked and line["verdict"] != UNKNOWN:
                tasks = sorted({f.place for f in found if f.verdict != UNKNOWN} & doubts.keys())
                line["evidence"] += "".join(f" Flagged{MARK} on {task}: {doubts[task]}." for task in tasks)
            if line["verdict"] == UNKNOWN and here and any(cell in held for cell in _missing(found)):
                line["command"] += " --stale"  # finished by an earlier version of the code, which lacks rows
            lines.append(line)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _doubts(rows: pd.DataFrame) -> dict[str, str]:
    """By task, the flagged attacks, with the attacked method and size."""
    texts: dict[str, list[str]] = {}
    found = flags.find(rows)
    for key, part in found.groupby(["task", "method", "crafted_members", "attack"], sort=False):
        task, method, size, attack = key
        epsilons = "/".join(f"{e:g}" for e in sorted(set(part["epsilon"])))
        names = ", ".join(dict.fromkeys(part["flag"]))
        texts.setdefault(str(task), []).append(f"{attack} at {epsilons} on {size} of {method} ({names})")
    return {task: "; ".join(parts) for task, parts in texts.items()}


def _missing(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """The cells whose rows are missing."""
    return [cell for finding in findings if finding.verdict == UNKNOWN for cell in finding.cells]


def _line(
    claim: Claim, judged: str, findings: Sequence[Finding], preset: str, device: str, theirs: str
) -> dict[str, Any]:
    """The line of a claim from the findings of one block; theirs: the verdict on the paper's own numbers."""
    found = verdict(findings)
    expected = OPEN if preset == "smoke" else claim.expects(judged)
    departs = expected != OPEN and found not in (UNKNOWN, expected)
    known = sorted({f.seeds for f in findings if f.verdict != UNKNOWN})
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "section": claim.section,
        "test": claim.test,
        "preset": preset,
        "device": device,
        "judged_on": judged,
        "verdict": found,
        "expected": expected,
        "reason": claim.reason if judged == PROPOSED and preset != "smoke" else "",
        "departs": "yes" if departs else "no",
        "paper_numbers": "" if theirs == UNKNOWN else theirs,
        "by_task": "; ".join(f"{place}: {told}" for place, told in _by_task(findings).items()),
        "clearness": max((f.clearness for f in findings if f.verdict == found), default=math.nan),
        "seeds": "–".join(map(str, dict.fromkeys((known[0], known[-1])))) if known else "",
        "evidence": _sentence(claim, findings, found, known),
        "command": _command(claim, findings, found, preset, device),
    }


def _by_task(findings: Sequence[Finding]) -> dict[str, str]:
    """The verdict of the comparisons on each task."""
    tasks = dict.fromkeys(finding.place for finding in findings)
    return {task: verdict([f for f in findings if f.place == task]) for task in tasks}


def _sentence(claim: Claim, findings: Sequence[Finding], found: str, seeds: Sequence[int]) -> str:
    """The numbers of a verdict, the number of seeds, and what is missing."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        if finding.verdict != UNKNOWN:
            places.setdefault(finding.place, []).append(finding.text)
    if not places:
        return f"Needs {claim.test}."
    numbers = "; ".join(f"{place}: {', '.join(texts)}" for place, texts in places.items())
    parts = [f"{'So far ' if found == UNKNOWN else ''}{numbers}."]
    over = sorted({name for finding in findings for name in finding.over if name != SEEDS})
    if seeds[0] == 1:
        count = "One seed" if seeds[-1] == 1 else f"1 to {seeds[-1]} seeds; one alone"
        only = f", judged over {' and '.join(over)}: others may differ" if over else ""
        parts.append(f"{count}{only}.")
    else:
        count = str(seeds[0]) if seeds[0] == seeds[-1] else f"{seeds[0]} to {seeds[-1]}"
        parts.append(f"95 % intervals over {count} seeds.")
    missing: dict[str, dict[str, None]] = {}
    for method, task in _missing(findings):
        missing.setdefault(task, {})[method] = None
    if missing:
        lacking = "; ".join(f"{task} ({', '.join(methods)})" for task, methods in missing.items())
        parts.append(f"Not measured: {lacking}.")
    return " ".join(parts)


def _command(claim: Claim, findings: Sequence[Finding], found: str, preset: str, device: str) -> str:
    """The command that runs the missing cells, or further seeds of those that leave a claim undecided."""
    if found not in (UNKNOWN, UNDECIDED):
        return ""
    own = [finding for finding in findings if finding.verdict == found]
    cells = [cell for finding in own for cell in finding.cells]
    methods = list(dict.fromkeys(method for method, _ in cells))
    tasks = list(dict.fromkeys(task for _, task in cells))
    text = command(methods, tasks, preset, claim.device or device)
    if found == UNKNOWN:
        return text
    seeds = max(ENOUGH, *(finding.wanted or 0 for finding in own), *(f.seeds + 1 for f in own))
    return f"{text} --seed 0-{seeds - 1}"


def text_tables(ledger: pd.DataFrame, copies: Sequence[Mapping[str, str]]) -> list[TextTable]:
    """The ledger as text, one table per preset and device. copies: of `rows.copies`."""
    found = []
    for key, part in ledger.groupby(list(BLOCK), sort=False):
        block = dict(zip(BLOCK, map(str, key), strict=True))
        note = note_on_copies(copies, block)
        found.append(TextTable(block, list(HEADINGS), _cells(part), len(HEADINGS), remark=note))
    return found


def _cells(part: pd.DataFrame) -> list[list[Cell]]:
    """A block of the ledger, with unexpected verdicts marked."""
    return [
        [
            Cell(line["statement"]), Cell(line["section"]), Cell(line["judged_on"]),
            Cell(line["verdict"], best=line["departs"] == "yes"), Cell(line["expected"]),
            Cell(line["paper_numbers"]), Cell(line["evidence"], command=line["command"]),
        ]
        for line in part.to_dict("records")
    ]  # fmt: skip
