"""Adaptive attacks on the entropy detector and AutoAttack's parts, with noise and a black-box search.

All attack the same networks, so that the worst over all of them, image by image, is a row of its own.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from bench.attacks import adaptive, autoattack, oblivious
from bench.evaluations import worst_case
from bench.evaluations.attacks import ASCENTS, Trial, check_fresh, chosen_images, craft
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
    The attack `worst` is the worst over all of them, FGSM and PGD included (`worst_case.rows`).
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
    fresh = range(size, 2 * size)
    trial = Trial(range(size), (("same", range(size)), ("adaptive", fresh)), range(0))
    check_fresh(subject.drawn, [trial])
    split = subject.data.test.first(part.images).first(adaptive_scale.images)
    detector = Detector(subject)
    clean, _ = views_of(subject.drawn, trial.ensembles(), split.images, split.labels)
    pool = range(2 * size, min(len(subject.drawn), 2 * size + adaptive_scale.steps * adaptive_scale.draws))
    if not pool:
        pool = range(size)
        subject.say(f"  eot draws from the {size} attacked networks: the method holds no others")
    jobs = _jobs(subject, part, adaptive_scale, clean[trial.crafted].log_p.shape[-1])
    versions = _oblivious(subject, trial, part, split, rng)
    rows = []
    for done, (name, epsilon) in enumerate(jobs, start=1):
        images, earlier = _craft(subject, trial.crafted, pool, split, name, epsilon, adaptive_scale, rng)
        seen, _ = views_of(subject.drawn, trial.ensembles(), images, split.labels)
        versions[epsilon].append(seen)
        chosen = chosen_images(clean[trial.crafted], seen[trial.crafted])
        where = _where(split, name, epsilon, size)
        own = attacked_rows(where | {"variant": "same"}, *_both(clean, seen, trial.crafted), chosen, detector)
        if earlier is not None:
            before, _ = views_of(subject.drawn, [trial.crafted], earlier, split.labels)
            common = where | {"variant": "same"}
            then = attacked_rows(common, *_both(clean, before, trial.crafted), {}, detector)
            rows += _late_gain(name, own, then)
        rows += own
        common = where | {"variant": "adaptive"}
        rows += attacked_rows(common, *_both(clean, seen, fresh), chosen, detector)
        subject.progress(f"{split.name} attacked adaptively", done, len(jobs))
    for epsilon, found in versions.items():
        for variant, places in trial.tested:
            common = _where(split, worst_case.NAME, epsilon, size) | {"variant": variant}
            rows += worst_case.rows(common, clean[places], [seen[places] for seen in found], detector)
    return rows


def _where(split: Split, name: str, epsilon: float, size: int) -> dict[str, Any]:
    return {
        "evaluation": "adaptive", "dataset": split.name, "attack": name, "epsilon": epsilon,
        "crafted_members": size,
    }  # fmt: skip


def _jobs(
    subject: Subject, part: AttackScale, adaptive_scale: AdaptiveScale, classes: int
) -> list[tuple[str, float]]:
    """Attacks with their epsilons; a message if there are too few classes for one."""
    jobs = list(itertools.product(ATTACKS, part.epsilons))
    auto = adaptive_scale.auto
    if auto is None:
        return jobs
    names = auto.attacks
    if "apgd-t" in names and classes < autoattack.FEWEST_CLASSES:
        names = tuple(name for name in names if name != "apgd-t")
        subject.say(f"  skipped: apgd-t (needs {autoattack.FEWEST_CLASSES} classes; the task has {classes})")
    epsilons = [e for e in part.epsilons if not auto.epsilons or e in auto.epsilons]
    return jobs + list(itertools.product(names, epsilons))


def _oblivious(
    subject: Subject, trial: Trial, part: AttackScale, split: Split, rng: Streams
) -> dict[float, list[dict[range, View]]]:
    """By epsilon, predictions on the images of the oblivious attacks, whose rows are those of `attack`."""
    attacked, own = subject.drawn[slice_of(trial.crafted)], Streams(rng.seed, "attack")
    found: dict[float, list[dict[range, View]]] = {}
    for epsilon in part.epsilons:
        crafted = (craft(attacked, split, ascent, epsilon, part.steps, own) for ascent in ASCENTS)
        found[epsilon] = [
            views_of(subject.drawn, trial.ensembles(), images, split.labels)[0]
            for by_name in crafted
            for images in by_name.values()
        ]
    return found


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
    if name in autoattack.ATTACKS:
        assert adaptive_scale.auto is not None
        strength = autoattack.Strength(
            adaptive_scale.steps, adaptive_scale.auto.targets, adaptive_scale.queries, adaptive_scale.draws
        )
        return autoattack.attack(name, attacked, networks, x, y, epsilon, strength, rng), None
    how = {"steps": adaptive_scale.steps, "restarts": adaptive_scale.restarts, "draws": adaptive_scale.draws}
    found = adaptive.attack(name, attacked, networks, x, y, epsilon, rng=rng, **how)
    return found.images, found.earlier
