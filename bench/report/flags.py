"""Flags on attacks that look weaker than they should, and on networks: functions of rows, one line per flag.

An attack that fails for lack of gradients, steps or strength says nothing about a defence. Source: the
checklist of Carlini et al. 2019, "On Evaluating Adversarial Robustness". A network whose output for an image
depends on the other images of its batch has no accuracy or entropy of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import pandas as pd

from bench.report.rows import PLACE, ordered

ATTACKED = (*PLACE, "method", "crafted_members", "attack", "epsilon")
COLUMNS = (*ATTACKED, "flag", "evidence", "fired", "seeds")
GRADIENT_FREE = ("square", "square-mixture", "noise")  # baselines that gradient attacks should beat
# AutoAttack's parts attack the mean probability and succeed by `mixture`, all others by `fused`.
MIXTURE = ("apgd-ce", "apgd-t", "fab", "square-mixture")
APGD = ("apgd-ce", "apgd-t", "apgd-eot", "apgd-margin")  # stronger than PGD, or something is wrong
# Attacks that stop on the way of another, for their entropy: how strong the ascent is, its end says.
STOPPED = {"pgd-stop": "pgd"}
WORST = "worst"  # no attack: of each image the worst version of all attacks
WEAK = 0.5  # minimum success on the attacked networks at the largest epsilon
LARGE = 0.1  # minimum epsilon at which success is expected
LATE = 0.05  # maximum late_gain, above random changes of single images
BATCH = 1e-4  # maximum relative change of outputs with the batch; rounding changes them by 1e-6
MEANING = {
    "no-gradient": "images without a gradient in float32 were not moved",
    "below-black-box": "fools the networks attacked less often than Square or noise of the same size does",
    "below-pgd": "an APGD that fools the networks attacked less often than PGD of the same size does",
    "falls-with-epsilon": "fools the networks attacked less often than at a smaller epsilon",
    "weak": "fools the networks attacked on less than half of the images at the largest epsilon tried",
    "batch-dependent": "outputs for an image change with the other images of its batch: no number is certain",
    "not-converged": "the last quarter of the steps still raised success by more than 5 points",
}


class _Own(NamedTuple):
    """Success on the attacked networks, and the number of images."""

    success: float
    examples: int


class _Line(NamedTuple):
    """What flags ask of a row."""

    metric: str
    success: str
    attack: str
    epsilon: float
    value: float
    examples: Any


_TOLD = ("success_rate", "unmoved_share", "late_gain")  # metrics that flags are raised by


def find(rows: pd.DataFrame) -> pd.DataFrame:
    """All raised flags: the attack, the number of seeds, and the numbers of the first of these seeds.

    An attack that stops on the way of another has the flags of that one at the same epsilon. Flags on the
    networks themselves have neither attack nor epsilon.
    """
    found = rows[rows["evaluation"].isin(("attack", "adaptive")) & rows["value"].notna()]
    found = found[(found["variant"] == "same") & found["crafted_members"].notna()]
    found = found[found["success"].isin(("fused", "mixture", ""))]
    fired: dict[tuple[Any, ...], list[str]] = {}
    place = [*ATTACKED[:-2], "seed"]
    asked = found[[*ATTACKED, "seed"]].drop_duplicates()
    seeds = asked.groupby(list(ATTACKED), dropna=False)["seed"].size().to_dict()
    held: dict[tuple[Any, ...], set[tuple[str, float]]] = {}
    for *where, attack, epsilon in asked[[*place, "attack", "epsilon"]].itertuples(index=False, name=None):
        held.setdefault(tuple(where), set()).add((attack, epsilon))
    told = found[found["metric"].isin(_TOLD)]
    # Lists of tuples: a frame for every run's attack on every size would be slow.
    groups: dict[tuple[Any, ...], list[_Line]] = {}
    columns = [told[c].tolist() for c in (*place, *_Line._fields)]
    for item in zip(*columns, strict=True):
        groups.setdefault(item[: len(place)], []).append(_Line(*item[len(place) :]))
    for key, group in groups.items():
        for attack, epsilon, flag, evidence in _with_stopped(group, held[key]):
            fired.setdefault((*key[:-1], attack, epsilon, flag), []).append(evidence)
    lines = [(*at, texts[0], len(texts), seeds[at[:-1]]) for at, texts in fired.items()]
    lines += _batch_dependent(rows)
    frame = pd.DataFrame(lines, columns=COLUMNS)
    return ordered(frame, [*ATTACKED[1:], "flag"]) if len(frame) else frame


def _batch_dependent(rows: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Lines on networks whose outputs for an image depend on the other images of its batch."""
    asked = rows[(rows["variant"] == "canary") & (rows["metric"] == "batch_dependence")]
    for where, group in asked.groupby([*PLACE, "method"], sort=False):
        beyond = group[~(group["value"] <= BATCH)]  # also NaN
        if len(beyond):
            evidence = f"changed by up to {beyond['value'].iloc[0]:.2g} of the largest output"
            number = (beyond["seed"].nunique(), group["seed"].nunique())
            yield (*where, float("nan"), "", float("nan"), "batch-dependent", evidence, *number)


def _with_stopped(
    group: list[_Line], held: Collection[tuple[str, float]]
) -> Iterator[tuple[str, float, str, str]]:
    """Flags of one run's attacks on one ensemble size; those of an ascent to the end also where it stops."""
    for attack, epsilon, flag, evidence in _of_one([line for line in group if line.attack not in STOPPED]):
        yield attack, epsilon, flag, evidence
        for stopped, whole in STOPPED.items():
            if whole == attack and (stopped, epsilon) in held:
                yield stopped, epsilon, flag, f"{attack}: {evidence}"


def _of_one(group: list[_Line]) -> Iterator[tuple[str, float, str, str]]:
    """Flags of one run's attacks on one ensemble size: attack, epsilon, flag, evidence."""
    values: dict[tuple[str, str], dict[tuple[str, float], _Line]] = {}
    for line in group:
        values.setdefault((line.metric, line.success), {})[line.attack, line.epsilon] = line
    own = {
        sense: {
            key: _Own(line.value, 0 if pd.isna(line.examples) else int(line.examples))
            for key, line in values.get(("success_rate", sense), {}).items()
        }
        for sense in ("fused", "mixture")
    }
    for (attack, epsilon), line in values.get(("unmoved_share", ""), {}).items():
        if line.value > 0:
            yield attack, epsilon, "no-gradient", f"{line.value:.0%} of {line.examples} images"
    for (attack, epsilon), line in values.get(("late_gain", ""), {}).items():
        if line.value > LATE:
            yield attack, epsilon, "not-converged", f"{line.value:+.0%} in the last quarter"
    largest = max((epsilon for _, epsilon in own["fused"]), default=0.0)
    for sense, held in own.items():
        for attack, epsilon in held:
            if attack not in GRADIENT_FREE and (attack in MIXTURE) == (sense == "mixture"):
                for flag, evidence in _too_weak(held, attack, epsilon, largest):
                    yield attack, epsilon, flag, evidence


def _too_weak(
    own: dict[tuple[str, float], _Own], attack: str, epsilon: float, largest: float
) -> Iterator[tuple[str, str]]:
    """Flags of an attack by its success and that of others in its sense. largest: epsilon of any attack."""
    success, examples = own[attack, epsilon]
    image = 1.5 / examples if examples else 0.0  # a difference of one image raises no flag
    best = max(
        ((own[b, epsilon].success, b) for b in GRADIENT_FREE if (b, epsilon) in own), default=(0.0, "")
    )
    if best[0] > success + image:
        yield "below-black-box", f"{success:.0%}, {best[1]} {best[0]:.0%}"
    pgd = own.get(("pgd", epsilon))
    if attack in APGD and pgd is not None and pgd.success > success + image:
        yield "below-pgd", f"{success:.0%}, pgd {pgd.success:.0%}"
    before = max((value.success for (a, e), value in own.items() if a == attack and e < epsilon), default=0.0)
    if before > success + image:
        yield "falls-with-epsilon", f"{success:.0%} after {before:.0%}"
    if epsilon == largest >= LARGE and success < WEAK:
        yield "weak", f"{success:.0%} of {examples} images"


def marked(frame: pd.DataFrame, flags: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column `flags`: names of the flags of each line's attack, or empty."""
    keys = list(ATTACKED)
    known: dict[tuple[Any, ...], str] = {}
    for *key, flag in flags[[*keys, "flag"]].itertuples(index=False, name=None):
        known[tuple(key)] = " ".join(filter(None, (known.get(tuple(key), ""), flag)))
    texts = [known.get(key, "") for key in frame[keys].itertuples(index=False, name=None)]
    return frame.assign(flags=texts)
