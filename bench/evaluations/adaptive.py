"""Attacks that know the defence, beside noise and a black-box search: what is left of detection then?"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from bench import adaptive, attacks
from bench.evaluations.attack import Trial, check_fresh, chosen_images
from bench.evaluations.subject import Result, Subject
from bench.evaluations.views import Detector, attacked_rows, look, slice_of
from bench.records import row
from bench.rng import Streams
from bench.task import AdaptiveScale, AttackScale, Scale, Split

ATTACKS = (*adaptive.GRADIENT, "square", "noise")


def draws(scale: Scale) -> int:
    """Networks to sample: attacked ones, fresh ones, and new ones for every step of `eot`."""
    tries = [part.adaptive for part in scale.attacks if part.adaptive is not None]
    return max((2 * t.members + t.steps * t.draws for t in tries), default=0)


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of each adaptive attack at each epsilon, on the networks attacked and on as many fresh ones.

    Variant `same` is tested on the networks [0, n) that were attacked, `adaptive` on the fresh [n, 2n);
    metrics are those of the evaluation `attack`, whose FGSM and PGD on as many networks are the oblivious
    ones. late_gain: share of an attack's gain in what it raises that came in the second half of its steps.
    A method that holds no others lets `eot` draw from the networks attacked, with a line that says so.
    """
    result = Result()
    jobs = [(part, part.adaptive) for part in subject.scale.attacks if part.adaptive is not None]
    for part, tries in jobs:
        size, held = tries.members, len(subject.drawn)
        if 2 * size > held:
            subject.say(
                f"  left out: adaptive attacks on {size} networks (need {2 * size}, half of them fresh; "
                f"the method holds {held})"
            )
            continue
        result.rows += _attacked(subject, part, tries, rng)
    return result


def _attacked(
    subject: Subject, part: AttackScale, tries: AdaptiveScale, rng: Streams
) -> list[dict[str, Any]]:
    size = tries.members
    trial = Trial(range(size), (("same", range(size)), ("adaptive", range(size, 2 * size))), range(0))
    check_fresh(subject.drawn, [trial])
    split = subject.data.test.first(part.images).first(tries.images)
    detector = Detector(subject)
    clean, _ = look(subject.drawn, trial.ensembles(), split.images, split.labels)
    pool = range(2 * size, min(len(subject.drawn), 2 * size + tries.steps * tries.draws))
    if not pool:
        pool = range(size)
        subject.say(f"  eot draws from the {size} networks attacked: the method holds no others to draw")
    jobs = list(itertools.product(ATTACKS, part.epsilons))
    rows = []
    for done, (name, epsilon) in enumerate(jobs, start=1):
        images, late = _craft(subject, trial.crafted, pool, split, name, epsilon, tries, rng)
        seen, _ = look(subject.drawn, trial.ensembles(), images, split.labels)
        chosen = chosen_images(clean[trial.crafted], seen[trial.crafted])
        where = {
            "evaluation": "adaptive", "dataset": split.name, "attack": name, "epsilon": epsilon,
            "crafted_members": size,
        }  # fmt: skip
        for variant, places in trial.tested:
            common = where | {"variant": variant}
            rows += attacked_rows(common, clean[places], seen[places], chosen, detector)
        if late is not None:
            common = where | {"variant": "same", "members": size, "examples": len(split)}
            rows.append(row("late_gain", late, **common))
        subject.progress(f"{split.name} attacked adaptively", done, len(jobs))
    return rows


def _craft(
    subject: Subject,
    crafted: range,
    pool: range,
    split: Split,
    name: str,
    epsilon: float,
    tries: AdaptiveScale,
    rng: Streams,
) -> tuple[Tensor, float | None]:
    """Attacked images, and the late gain where the attack climbs."""
    attacked = subject.drawn[slice_of(crafted)]
    x, y = split.images, split.labels
    if name == "noise":
        return attacks.noise(x, epsilon, rng(name, repr(epsilon))), None
    if name == "square":
        return attacks.square(attacked, x, y, epsilon, tries.queries, rng(name, repr(epsilon))), None
    networks = subject.drawn[slice_of(pool)]
    how = {"steps": tries.steps, "restarts": tries.restarts, "draws": tries.draws}
    found = adaptive.attack(name, attacked, networks, x, y, epsilon, rng=rng, **how)
    return found.images, found.late_gain()
