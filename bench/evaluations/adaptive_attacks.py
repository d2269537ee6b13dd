"""Adaptive attacks on the entropy detector, with noise and a black-box search for comparison."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from bench.attacks import adaptive, oblivious
from bench.evaluations.attacks import Trial, check_fresh, chosen_images
from bench.evaluations.detector import Detector
from bench.evaluations.subject import Result, Subject
from bench.evaluations.views import View, attacked_rows, slice_of, views_of
from bench.rng import Streams
from bench.task import AdaptiveScale, AttackScale, Scale, Split

ATTACKS = (*adaptive.GRADIENT, "square", "noise")


def draws(scale: Scale) -> int:
    """Networks to sample: attacked ones, fresh ones, and new ones for every step of `eot`."""
    found = [part.adaptive for part in scale.attacks if part.adaptive is not None]
    return max((2 * a.members + a.steps * a.draws for a in found), default=0)


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of each adaptive attack at each epsilon, on the attacked networks and on as many fresh ones.

    Variant `same` is tested on the attacked networks [0, n), `adaptive` on the fresh [n, 2n); metrics are
    those of the evaluation `attack`, which provides oblivious FGSM and PGD at this size for comparison.
    late_gain: increase during the last quarter of an attack's steps of its success on the attacked networks,
    or of its evasion rate if it is detector-aware; near 0 if more steps would change little. If the method
    holds no further networks, `eot` draws from the attacked ones, and a message says so.
    """
    result = Result()
    jobs = [(part, part.adaptive) for part in subject.scale.attacks if part.adaptive is not None]
    for part, adaptive_scale in jobs:
        size, held = adaptive_scale.members, len(subject.drawn)
        if 2 * size > held:
            subject.say(
                f"  skipped: adaptive attacks on {size} networks (need {2 * size}, half of them fresh; "
                f"the method holds {held})"
            )
            continue
        result.rows += _attacked(subject, part, adaptive_scale, rng)
    return result


def _attacked(
    subject: Subject, part: AttackScale, adaptive_scale: AdaptiveScale, rng: Streams
) -> list[dict[str, Any]]:
    size = adaptive_scale.members
    trial = Trial(range(size), (("same", range(size)), ("adaptive", range(size, 2 * size))), range(0))
    check_fresh(subject.drawn, [trial])
    split = subject.data.test.first(part.images).first(adaptive_scale.images)
    detector = Detector(subject)
    clean, _ = views_of(subject.drawn, trial.ensembles(), split.images, split.labels)
    pool = range(2 * size, min(len(subject.drawn), 2 * size + adaptive_scale.steps * adaptive_scale.draws))
    if not pool:
        pool = range(size)
        subject.say(f"  eot draws from the {size} attacked networks: the method holds no others")
    jobs = list(itertools.product(ATTACKS, part.epsilons))
    rows = []
    for done, (name, epsilon) in enumerate(jobs, start=1):
        images, earlier = _craft(subject, trial.crafted, pool, split, name, epsilon, adaptive_scale, rng)
        seen, _ = views_of(subject.drawn, trial.ensembles(), images, split.labels)
        chosen = chosen_images(clean[trial.crafted], seen[trial.crafted])
        where = {
            "evaluation": "adaptive", "dataset": split.name, "attack": name, "epsilon": epsilon,
            "crafted_members": size,
        }  # fmt: skip
        own = attacked_rows(where | {"variant": "same"}, *_both(clean, seen, trial.crafted), chosen, detector)
        if earlier is not None:
            before, _ = views_of(subject.drawn, [trial.crafted], earlier, split.labels)
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
    """The row of late_gain; none if no clean image was classified correctly."""
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
    adaptive_scale: AdaptiveScale,
    rng: Streams,
) -> tuple[Tensor, Tensor | None]:
    """Attacked images; for gradient attacks also those after three quarters of the steps."""
    attacked = subject.drawn[slice_of(crafted)]
    x, y = split.images, split.labels
    if name == "noise":
        return oblivious.noise(x, epsilon, rng(name, repr(epsilon))), None
    if name == "square":
        return oblivious.square(
            attacked, x, y, epsilon, adaptive_scale.queries, rng(name, repr(epsilon))
        ), None
    networks = subject.drawn[slice_of(pool)]
    how = {"steps": adaptive_scale.steps, "restarts": adaptive_scale.restarts, "draws": adaptive_scale.draws}
    found = adaptive.attack(name, attacked, networks, x, y, epsilon, rng=rng, **how)
    return found.images, found.earlier
