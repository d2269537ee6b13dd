"""The ledger: claims of the paper as named checks over rows, with verdict and what is expected here.

A claim *holds* where all its comparisons do, *does not hold* where one fails, and is *not measured* as
long as rows that could still decide it are missing. A comparison holds when its 95 % interval excludes
no difference; with one seed the point value decides, and the ledger says so. `expected` is what this
project expects of its own data: *open* where in doubt, and always at preset smoke.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.report import checks, flags, tables
from bench.report.evidence import Finding, Rows
from bench.report.sheets import MARK

HOLDS, FAILS, UNKNOWN, OPEN = "holds", "does not hold", "not measured", "open"
COLUMNS = (
    "claim", "statement", "section", "test", *tables.BLOCK, "verdict", "expected", "departs",
    "paper_numbers", "seeds", "evidence", "command",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A claim: its name and words, where the paper makes it, how it is tested, what we expect.

    device: the only one on which it is tested; empty: any. attacked: it rests on attacks, whose flags its
    evidence names.
    """

    name: str
    statement: str
    section: str
    test: str
    check: Callable[[Rows], list[Finding]]
    expected: str = OPEN
    device: str = ""
    attacked: bool = False


CLAIMS = (
    Claim(
        "rises-with-size",
        "Accuracy rises with ensemble size 1 < 5 < 10 < 100, on every training set",
        "4.2, Table 2",
        "accuracy of hypergan with 1, 5, 10 and 100 networks on the five training sets",
        checks.rises,
    ),
    Claim(
        "most-accurate",
        "HyperGAN's 100 networks beat APD, MNF and MC dropout at the same architecture, on every training "
        "set",
        "Table 2",
        "accuracy with 100 networks on the five training sets",
        checks.most_accurate,
    ),
    # Trials of some minutes on two CPU cores reached 98.6 %.
    Claim(
        "single-networks",
        "Single generated networks need no fine-tuning: MNIST 98 % or better",
        "4.2, Table 1",
        "accuracy of single networks on mnist",
        checks.singles,
        HOLDS,
    ),
    # Drawn networks ended with an sd/mean about 0.1 or more in every trial; networks trained from one kind
    # of start end at nearly one norm, however different they are.
    Claim(
        "norms-vary-more",
        "HyperGAN's norms vary more (sd/mean) than standard training's and APD's, in every layer",
        "4.2, Table 1",
        "sd/mean of the weight norms on mnist, layer by layer",
        checks.norms_vary,
        HOLDS,
    ),
    Claim(
        "order-stays",
        "With 5,000 training examples the order of methods stays",
        "Table 2",
        "accuracy with 100 networks on mnist-5000 and cifar10-5000, in the order of mnist and cifar10",
        checks.order_stays,
    ),
    Claim(
        "toy-band",
        "Toy regression: the target function lies in the band; 100 networks widen the band where data are "
        "few, against 10",
        "4.3, Fig. 2",
        "band_coverage of 100 networks (95 % or more) and band_width of 10 and 100 on toy",
        checks.toy,
    ),
    Claim(
        "entropy-notmnist",
        "Entropy on notMNIST: HyperGAN's is above every baseline's",
        "4.4, Fig. 3",
        "quartiles of entropy_nats on notmnist, at the largest size that both have",
        checks.entropy_notmnist,
    ),
    Claim(
        "entropy-cifar",
        "Entropy on CIFAR-10's unseen classes: HyperGAN's is above every baseline's",
        "4.4, Fig. 4",
        "quartiles of entropy_nats on cifar5-open, at the largest size that both have",
        checks.entropy_cifar,
    ),
    Claim(
        "standard-overconfident",
        "Standard ensembles are overconfident on outliers: lowest entropy of all",
        "4.4",
        "quartiles of entropy_nats on notmnist and cifar5-open, at the largest size that both have",
        checks.standard_overconfident,
    ),
    Claim(
        "adversarial-entropy",
        "On FGSM and PGD examples HyperGAN's entropy approaches the maximum, above standard ensembles of "
        "equal size, though its whole ensemble was attacked",
        "4.5, Fig. 5",
        "entropy_nats on fooling images (variant fresh): 90 % of ln 10 at some epsilon, and the mean over "
        "epsilon against standard_ensemble",
        checks.adversarial_entropy,
        attacked=True,
    ),
    # On handwritten digits the smallest epsilon that fools an ensemble is ten times that.
    Claim(
        "small-perturbations",
        "For large ensembles small perturbations (0.01) hardly succeed",
        "4.5, Fig. 5",
        "success_rate (variant same, fused) at epsilon 0.01 with 100 networks or more: at most 5 %",
        checks.small_perturbations,
        HOLDS,
        attacked=True,
    ),
    Claim(
        "one-to-many",
        "Examples made against one network fool 50 to 70 % of the others",
        "A.5, Fig. 10",
        "fooled_share (variant one-to-many), mean over epsilon, for FGSM and PGD",
        checks.one_to_many,
        attacked=True,
    ),
    Claim(
        "fgsm-transfers",
        "FGSM transfers better than PGD",
        "A.5, Fig. 10",
        "fooled_share (variant one-to-many) by attack, mean over epsilon",
        checks.fgsm_transfers,
        attacked=True,
    ),
    Claim(
        "no-discriminator",
        "Without discriminator: same accuracy, less diversity",
        "5, Figs. 6, 7",
        "traces on cifar10: final accuracy of single networks (within a point), final sd/mean",
        checks.no_discriminator,
    ),
    Claim(
        "no-mixer",
        "Without mixer: slow start, same final accuracy, much less diversity",
        "5, Figs. 6, 7",
        "traces: accuracy of single networks first and last (within a point), final sd/mean below half",
        checks.no_mixer,
    ),
    Claim(
        "no-both",
        "Without both: norms hardly vary",
        "A.4, Tables 5, 6",
        "sd/mean of the weight norms on mnist and cifar10 below hypergan's, layer by layer",
        checks.norms_without_both,
    ),
    Claim(
        "diversity-falls",
        "Diversity falls during training",
        "5, Fig. 7",
        "traces: sd/mean of the weight norms, mean over layers, last against first",
        checks.diversity_falls,
    ),
    Claim(
        "gpu-memory",
        "Less than 1.5 GB (MNIST) and 4 GB (CIFAR-10) of GPU memory",
        "4.1",
        "peak_memory_bytes on a GPU, of whole runs",
        checks.gpu_memory,
        device="cuda",
    ),
)


def ledger(
    rows: pd.DataFrame, abouts: tables.Abouts, published: pd.DataFrame, chosen: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """One line a claim, preset and device, presets in report order.

    rows: prepared rows. Columns: verdict; `departs`, yes where it is not what is expected;
    `paper_numbers`, the verdict of the same check on the paper's own tables, empty where they lack the
    numbers; `evidence`, the numbers in a sentence; `command`, what would fill what is missing.
    """
    created = {run: str(about.get("created", "")) for run, about in abouts.items()}
    # Their table names no task and no seed; sources differ between the mean and the sd of one norm.
    theirs = Rows(published.assign(task=published["train"], seed=0, source=""), {})
    own = {claim.name: verdict(claim.check(theirs)) for claim in chosen}
    lines = []
    for (preset, device), part in rows.groupby(list(tables.BLOCK), sort=False):
        asked, nothing = Rows(part, created), Rows(part.iloc[:0], {})
        doubts = _doubts(part)
        for claim in chosen:
            found = claim.check(asked if claim.device in ("", device) else nothing)
            line = _line(claim, found, str(preset), str(device), own[claim.name])
            if claim.attacked and line["verdict"] != UNKNOWN:
                tasks = sorted({f.place for f in found if f.holds is not None} & doubts.keys())
                line["evidence"] += "".join(f" Flagged{MARK} on {task}: {doubts[task]}." for task in tasks)
            lines.append(line)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _doubts(rows: pd.DataFrame) -> dict[str, str]:
    """By task, the attacks that look weaker than they should, with the method and size attacked."""
    texts: dict[str, list[str]] = {}
    found = flags.find(rows)
    for key, part in found.groupby(["task", "method", "crafted_members", "attack"], sort=False):
        task, method, size, attack = key
        epsilons = "/".join(f"{e:g}" for e in sorted(set(part["epsilon"])))
        names = ", ".join(dict.fromkeys(part["flag"]))
        texts.setdefault(str(task), []).append(f"{attack} at {epsilons} on {size} of {method} ({names})")
    return {task: "; ".join(parts) for task, parts in texts.items()}


def verdict(findings: Sequence[Finding]) -> str:
    """What the comparisons of a claim amount to."""
    if any(finding.holds is False for finding in findings):
        return FAILS
    return UNKNOWN if not findings or any(f.holds is None for f in findings) else HOLDS


def _line(claim: Claim, findings: Sequence[Finding], preset: str, device: str, theirs: str) -> dict[str, str]:
    """A claim judged on the findings of one block; theirs: the verdict on the paper's own numbers."""
    found = verdict(findings)
    expected = OPEN if preset == "smoke" else claim.expected
    departs = expected != OPEN and found not in (UNKNOWN, expected)
    known = sorted({f.seeds for f in findings if f.holds is not None})
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "section": claim.section,
        "test": claim.test,
        "preset": preset,
        "device": device,
        "verdict": found,
        "expected": expected,
        "departs": "yes" if departs else "no",
        "paper_numbers": "" if theirs == UNKNOWN else theirs,
        "seeds": "–".join(map(str, dict.fromkeys((known[0], known[-1])))) if known else "",
        "evidence": _sentence(claim, findings, found, known),
        "command": _command(claim, findings, preset, device) if found == UNKNOWN else "",
    }


def _sentence(claim: Claim, findings: Sequence[Finding], found: str, seeds: Sequence[int]) -> str:
    """The numbers behind a verdict, what they rest on, and what is missing."""
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
    """The command that fills what is missing."""
    cells = [cell for finding in findings for cell in finding.missing]
    methods = list(dict.fromkeys(method for method, _ in cells))
    tasks = list(dict.fromkeys(task for _, task in cells))
    return tables.command(methods, tasks, preset, claim.device or device)
