"""Attacks that know the defence, beside noise and a black-box search: what is left of detection then?"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from bench.attacks import adaptive, oblivious
from bench.evaluations.attacks import Trial, check_fresh, chosen_images
from bench.evaluations.detector import Detector
from bench.evaluations.subject import Result, Subject
from bench.evaluations.views import View, attacked_rows, look, slice_of
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
    ones. late_gain: by how much the last quarter of an attack's steps raised its success on the networks
    attacked, or, where it knows of the detector, its evasion rate; near 0 where more steps would change
    little. A method that holds no others lets `eot` draw from the networks attacked, and a line says so.
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
        images, earlier = _craft(subject, trial.crafted, pool, split, name, epsilon, tries, rng)
        seen, _ = look(subject.drawn, trial.ensembles(), images, split.labels)
        chosen = chosen_images(clean[trial.crafted], seen[trial.crafted])
        where = {
            "evaluation": "adaptive", "dataset": split.name, "attack": name, "epsilon": epsilon,
            "crafted_members": size,
        }  # fmt: skip
        own = attacked_rows(where | {"variant": "same"}, *_both(clean, seen, trial.crafted), chosen, detector)
        if earlier is not None:
            before, _ = look(subject.drawn, [trial.crafted], earlier, split.labels)
            common = where | {"variant": "same"}
            then = attacked_rows(common, *_both(clean, before, trial.crafted), {}, detector)
            rows += _late_gain(name, own, then)
        rows += own
        fresh = range(size, 2 * size)
        common = where | {"variant": "adaptive"}
        rows += attacked_rows(common, *_both(clean, seen, fresh), chosen, detector)
        subject.progress(f"{split.name} attacked adaptively", done, len(jobs))
    return rows


def _both(clean: dict[range, View], seen: dict[range, View], places: range) -> tuple[View, View]:
    return clean[places], seen[places]


def _late_gain(name: str, now: list[dict[str, Any]], then: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of what the last quarter of the steps gained; none where no image was right before."""
    metric = "evasion_rate" if name in adaptive.DETECTOR_AWARE else "success_rate"
    found = [[r for r in rows if r["metric"] == metric and r["success"] == "fused"] for rows in (now, then)]
    return [
        a | {"metric": "late_gain", "success": "", "value": a["value"] - b["value"]}
        for a, b in zip(*found, strict=True)
    ]


def _craft(
    subject: Subject,
    crafted: range,
    pool: range,
    split: Split,
    name: str,
    epsilon: float,
    tries: AdaptiveScale,
    rng: Streams,
) -> tuple[Tensor, Tensor | None]:
    """Attacked images, and those after three quarters of the steps where the attack climbs."""
    attacked = subject.drawn[slice_of(crafted)]
    x, y = split.images, split.labels
    if name == "noise":
        return oblivious.noise(x, epsilon, rng(name, repr(epsilon))), None
    if name == "square":
        return oblivious.square(attacked, x, y, epsilon, tries.queries, rng(name, repr(epsilon))), None
    networks = subject.drawn[slice_of(pool)]
    how = {"steps": tries.steps, "restarts": tries.restarts, "draws": tries.draws}
    found = adaptive.attack(name, attacked, networks, x, y, epsilon, rng=rng, **how)
    return found.images, found.earlier
