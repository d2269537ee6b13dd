"""The ledger: the paper's claims tested on rows, with actual and expected verdicts.

Each claim is judged on HyperGAN as published and, in a line of its own, on HyperGAN at this project's
best. It *holds* if all its comparisons do, *does not hold* if one fails, and is *not measured* as
long as rows that could decide it are missing. A comparison holds if the 95 % interval of the difference
excludes zero; with one seed the point value decides, and the ledger says so. `expected` is what this
project expects of its own recipe and data: *open* if in doubt, for HyperGAN as published, and always at
preset smoke.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd

from bench.records.runs import ages
from bench.report import flags
from bench.report.claims.evidence import Finding, Rows
from bench.report.claims.paper import CLAIMS, FAILS, HOLDS, OPEN, UNKNOWN, Claim
from bench.report.data_sets import one_each
from bench.report.layout.tables import MARK, Cell, TextTable
from bench.report.published import AS_PUBLISHED, JUDGED, named
from bench.report.rows import BLOCK, Abouts, command, note_on_copies, without_configuration

COLUMNS = (
    "claim", "statement", "section", "test", *BLOCK, "judged_on", "verdict", "expected", "departs",
    "paper_numbers", "seeds", "evidence", "command",
)  # fmt: skip
EXPLANATION = (
    "The paper's claims, tested on these rows: on hypergan-published, the paper's method as published, and, "
    "in a line of its own, on hypergan, the best recipe of this project. A comparison holds if the 95 % "
    "interval of the difference over seeds excludes zero; with one seed the point value decides. A claim "
    "holds if all its comparisons do, and fails if one does; otherwise, with rows missing, it is not "
    "measured. Expected is what this project expects of its own recipe and data; verdicts that differ from "
    "it are bold. Paper's numbers is the verdict of the same test on the paper's own tables. Of several "
    "configurations of a method the one with most seeds counts, then the one found on most tasks."
)
HEADINGS = (
    "claim", "section", "judged on", "verdict", "expected", "paper's numbers", "evidence",
)  # fmt: skip


def ledger(
    rows: pd.DataFrame, abouts: Abouts, published: pd.DataFrame, chosen: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """One line per preset, device, claim and HyperGAN: presets in report order, HyperGAN as published first.

    rows: prepared rows. Columns: verdict; `departs`, yes if it is not the expected one;
    `paper_numbers`, the verdict of the same check on the paper's own tables, empty if they lack the
    numbers, and for HyperGAN at its best, of which they do not speak; `evidence`, the numbers in a
    sentence; `command`, what would fill the gaps.
    """
    age = ages(abouts)
    # Published rows have no task and no seed; their sources differ between mean and sd of the same norm.
    paper = named(published, AS_PUBLISHED)
    theirs = Rows(paper.assign(task=paper["train"], seed=0, source=""), {})
    own = {claim.name: verdict(claim.check(theirs, AS_PUBLISHED)) for claim in chosen}
    lines = []
    for (preset, device), part in one_each(rows, age).groupby(list(BLOCK), sort=False):
        asked, nothing = Rows(part, age), Rows(part.iloc[:0], {})
        doubts = _doubts(part)
        held = set(zip(without_configuration(part["method"]), part["task"], strict=True))
        for claim, judged in itertools.product(chosen, JUDGED):
            here = claim.device in ("", device)
            found = claim.check(asked if here else nothing, judged)
            numbers = own[claim.name] if judged == AS_PUBLISHED else UNKNOWN
            line = _line(claim, judged, found, str(preset), str(device), numbers)
            if claim.attacked and line["verdict"] != UNKNOWN:
                tasks = sorted({f.place for f in found if f.holds is not None} & doubts.keys())
                line["evidence"] += "".join(f" Flagged{MARK} on {task}: {doubts[task]}." for task in tasks)
            if line["command"] and here and any(cell in held for f in found for cell in f.missing):
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


def verdict(findings: Sequence[Finding]) -> str:
    """The verdict on a claim from its comparisons."""
    if any(finding.holds is False for finding in findings):
        return FAILS
    return UNKNOWN if not findings or any(f.holds is None for f in findings) else HOLDS


def _line(
    claim: Claim, judged: str, findings: Sequence[Finding], preset: str, device: str, theirs: str
) -> dict[str, str]:
    """The line of a claim from the findings of one block; theirs: the verdict on the paper's own numbers."""
    found = verdict(findings)
    expected = OPEN if preset == "smoke" else claim.expects(judged)
    departs = expected != OPEN and found not in (UNKNOWN, expected)
    known = sorted({f.seeds for f in findings if f.holds is not None})
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
        "departs": "yes" if departs else "no",
        "paper_numbers": "" if theirs == UNKNOWN else theirs,
        "seeds": "–".join(map(str, dict.fromkeys((known[0], known[-1])))) if known else "",
        "evidence": _sentence(claim, findings, found, known),
        "command": _command(claim, findings, preset, device) if found == UNKNOWN else "",
    }


def _sentence(claim: Claim, findings: Sequence[Finding], found: str, seeds: Sequence[int]) -> str:
    """The numbers of a verdict, the number of seeds, and what is missing."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        if finding.holds is not None:
            places.setdefault(finding.place, []).append(finding.text)
    if not places:
        return f"Needs {claim.test}."
    numbers = "; ".join(f"{place}: {', '.join(texts)}" for place, texts in places.items())
    parts = [f"{'So far ' if found == UNKNOWN else ''}{numbers}."]
    if seeds[-1] == 1:
        parts.append("One seed: the point value decides.")
    elif seeds[0] == 1:
        parts.append(f"1 to {seeds[-1]} seeds: with one the point value decides.")
    else:
        count = str(seeds[0]) if seeds[0] == seeds[-1] else f"{seeds[0]} to {seeds[-1]}"
        parts.append(f"95 % intervals over {count} seeds.")
    missing: dict[str, dict[str, None]] = {}
    for method, task in (cell for finding in findings for cell in finding.missing):
        missing.setdefault(task, {})[method] = None
    if missing:
        lacking = "; ".join(f"{task} ({', '.join(methods)})" for task, methods in missing.items())
        parts.append(f"Not measured: {lacking}.")
    return " ".join(parts)


def _command(claim: Claim, findings: Sequence[Finding], preset: str, device: str) -> str:
    """The command that runs the missing cells."""
    cells = [cell for finding in findings for cell in finding.missing]
    methods = list(dict.fromkeys(method for method, _ in cells))
    tasks = list(dict.fromkeys(task for _, task in cells))
    return command(methods, tasks, preset, claim.device or device)


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
