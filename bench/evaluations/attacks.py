"""Oblivious attacks on an ensemble, tested on itself, on fresh ensembles and on single networks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bench.attacks import oblivious, success
from bench.ensemble import Ensemble
from bench.evaluations.accuracy import per_image
from bench.evaluations.detector import Detector
from bench.evaluations.subject import SINGLES, Result, Subject
from bench.evaluations.views import Singles, View, attacked_rows, single_rows, slice_of, views_of
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams
from bench.task import AttackScale, Scale, Split

ONE_TO_MANY = 100  # size of the ensemble that tests attacks on one network: as the paper's baselines

# Ascents and the attacks whose images each gives: one path of PGD ends in one and passes through the other.
ASCENTS = {"fgsm": ("fgsm",), "pgd": ("pgd", "pgd-stop")}

Views = tuple[dict[range, View], dict[range, Singles]]


@dataclass(frozen=True)
class Trial:
    """Indices of the networks that are attacked, and of those that the attack is tested on.

    crafted: the attacked ensemble. tested: ensembles with their variant. singles: fresh networks tested one
    by one. others: networks for `fooled_share` of an attack on a single one; empty for larger ensembles.
    """

    crafted: range
    tested: tuple[tuple[str, range], ...]
    singles: range
    others: range = range(0)

    def ensembles(self) -> list[range]:
        """All ensembles, without duplicates."""
        return [p for p in dict.fromkeys([self.crafted, *(p for _, p in self.tested), self.others]) if p]

    def fresh(self) -> list[range]:
        """Those that must contain none of the attacked networks."""
        return [p for p in (*self.ensembles(), self.singles) if p != self.crafted]


def draws(scale: Scale) -> int:
    """Networks to sample, so that every attacked ensemble has a disjoint fresh one."""
    ensembles = [2 * n for part in scale.attacks for n in part.sizes]
    return max([*ensembles, *(1 + part.others for part in scale.attacks)], default=0)


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of success, entropy, AUROC and detection for each attack, epsilon and ensemble; arrays per image.

    Networks [0, n) are attacked; the images are tested on these (`same`), on others [n, n + m) for every
    size m (`fresh`; m = 1 is the mean over single networks) and, if one network is attacked, on others as
    an ensemble (`one-to-many`). `clean` refers to unattacked images. One ascent gives the images of `pgd`,
    the measure of robustness, and of `pgd-stop`, which stops where all attacked networks are wrong.

    success_rate: of the images that the tested ensemble classified correctly (mean logits), the share that
    fools it now, in the given sense; for `clean` the error rate on all images. entropy_nats and auroc
    (predictive entropy, attacked against all clean images): over all images, or over those that the
    *attacked* ensemble classified correctly and that fool it in the given sense; no row without such images.
    detected_share: of these images, those with entropy above the size's threshold, set on clean
    validation images (`Detector`); for `clean` false alarms. evasion_rate: undetected success.
    fooled_share: mean share of other single networks that misclassify these images. unmoved_share: of
    images without a gradient. `examples` counts images. Raises ValueError if a fresh network was attacked.
    """
    jobs = [(part, trial) for part in subject.scale.attacks for trial in _trials(subject, part)]
    if not jobs:
        return Result()
    check_fresh(subject.drawn, [trial for _, trial in jobs])
    total = sum(len(oblivious.ATTACKS) * len(part.epsilons) for part, _ in jobs)
    count = itertools.count(1)
    detector = Detector(subject)
    result = Result(rows=detector.rows(sorted({1, *subject.sizes})))
    for part, trial in jobs:
        split = subject.data.test.first(part.images)
        clean = _views(subject.drawn, trial, split.images, split.labels)
        if len(trial.crafted) > 1:
            result.rows += _clean(split, clean[0][trial.crafted], detector)
        for attack, epsilon, images in _crafted(subject.drawn, trial, part, split, rng):
            seen = _views(subject.drawn, trial, images, split.labels)
            where = {"evaluation": "attack", "dataset": split.name, "attack": attack, "epsilon": epsilon}
            result.rows += _rows(where, trial, clean, seen, detector)
            still = success.unmoved(split.images, images)
            result.rows.append(_unmoved(where, len(trial.crafted), still))
            # Per-image arrays only for the first network and the task's own largest ensemble.
            if part is subject.scale.attacks[0] and len(trial.crafted) in (1, _largest(jobs, part)):
                result.arrays |= _arrays(f"{split.name}/{attack}/{epsilon}", trial, seen[0], split)
            subject.progress(f"{split.name} attacked", next(count), total)
    return result


def _trials(subject: Subject, part: AttackScale) -> Iterator[Trial]:
    """The trials that the sampled networks allow; a message for every size that is skipped."""
    held = len(subject.drawn)
    for size in part.sizes:
        if 2 * size > held:
            subject.say(
                f"  skipped: attacks on {size} networks (need {2 * size}, half of them fresh; "
                f"the method holds {held})"
            )
            continue
        yield _trial(held, size, part)
    if part.others and held > 1:
        others = range(1, min(held, 1 + part.others))
        trial = _trial(held, 1, part)
        many = ("one-to-many", others[:ONE_TO_MANY])
        yield Trial(trial.crafted, (*trial.tested, many), trial.singles, others)


def _trial(held: int, size: int, part: AttackScale) -> Trial:
    fresh = [("fresh", range(size, size + m)) for m in part.sizes if size + m <= held]
    singles = range(size, min(held, size + SINGLES))
    return Trial(range(size), (("same", range(size)), *fresh), singles)


def _largest(jobs: list[tuple[AttackScale, Trial]], part: AttackScale) -> int:
    return max(len(trial.crafted) for own, trial in jobs if own is part)


def check_fresh(drawn: Ensemble, trials: list[Trial]) -> None:
    """Raises ValueError if a fresh network is among the attacked ones."""
    last = max((p.stop for trial in trials for p in (trial.crafted, *trial.fresh())), default=0)
    hashes = drawn[:last].hashes()
    for trial in trials:
        known = {hashes[i] for i in trial.crafted}
        shared = [i for places in trial.fresh() for i in places if hashes[i] in known]
        if shared:
            raise ValueError(
                f"expected fresh networks to test attacks on {len(trial.crafted)}, found an attacked network "
                f"again at index {shared[0]} of the sample; the method draws the same network twice"
            )


def _crafted(
    drawn: Ensemble, trial: Trial, part: AttackScale, split: Split, rng: Streams
) -> Iterator[tuple[str, float, Tensor]]:
    """Every attack with its epsilon and images: those of one ascent together."""
    attacked = drawn[slice_of(trial.crafted)]
    for ascent, epsilon in itertools.product(ASCENTS, part.epsilons):
        for attack, images in craft(attacked, split, ascent, epsilon, part.steps, rng).items():
            yield attack, epsilon, images


def craft(
    ensemble: Ensemble, split: Split, ascent: str, epsilon: float, steps: int, rng: Streams
) -> dict[str, Tensor]:
    """Images of the oblivious attacks of one ascent, which know neither detector nor resampling."""
    if ascent == "fgsm":
        found: tuple[Tensor, ...] = (oblivious.fgsm(ensemble, split.images, split.labels, epsilon),)
    else:
        start = rng("pgd", len(ensemble), repr(epsilon))
        found = oblivious.pgd_stop(ensemble, split.images, split.labels, epsilon, steps, start)
    return dict(zip(ASCENTS[ascent], found, strict=True))


def _views(drawn: Ensemble, trial: Trial, images: Tensor, labels: Tensor) -> Views:
    return views_of(drawn, trial.ensembles(), images, labels, [trial.singles] if trial.singles else [])


def _clean(split: Split, view: View, detector: Detector) -> list[dict[str, Any]]:
    """Rows of clean images, for comparison with attacked ones."""
    common = {"evaluation": "attack", "dataset": split.name, "variant": "clean", "members": view.members}
    common["examples"] = len(split)
    rows = [row("success_rate", float(wrong.mean()), success=s, **common) for s, wrong in view.fooled.items()]
    rows.append(row("entropy_nats", float(view.entropy.mean()), success="all", **common))
    rejected = detector.rejects(view.members, view.entropy)
    if rejected is not None:
        rows.append(row("detected_share", float(rejected.mean()), success="all", **common))
    return rows


def chosen_images(before: View, after: View) -> dict[str, np.ndarray]:
    """Masks [B]: all images, and by sense those that newly fool the attacked ensemble."""
    right = ~before.fooled["fused"]
    # For one network all senses coincide.
    senses = success.SENSES if after.members > 1 else success.SENSES[:1]
    return {"all": np.ones(len(right), bool)} | {s: right & after.fooled[s] for s in senses}


def _rows(
    where: dict[str, Any], trial: Trial, clean: Views, seen: Views, detector: Detector
) -> list[dict[str, Any]]:
    """Rows of one attack at one epsilon; clean and seen: before and after it."""
    size = len(trial.crafted)
    chosen = chosen_images(clean[0][trial.crafted], seen[0][trial.crafted])
    where = where | {"crafted_members": size}
    rows = []
    for variant, places in trial.tested:
        before, after, common = clean[0][places], seen[0][places], where | {"variant": variant}
        if variant == "fresh" and len(places) != size:
            # The resampling matrix is large: main metrics only.
            rows += attacked_rows(common, before, after, {"all": chosen["all"]}, detector, ("fused",))
        else:
            rows += attacked_rows(common, before, after, chosen, detector)
    if trial.singles:
        common = where | {"variant": "fresh"}
        rows += single_rows(common, clean[1][trial.singles], seen[1][trial.singles], detector)
    if trial.others:
        common = where | {"variant": "one-to-many", "members": len(trial.others)}
        share = seen[0][trial.others].share
        rows += [
            row("fooled_share", float(share[of].mean()), success=s, examples=int(of.sum()), **common)
            for s, of in chosen.items()
            if of.any()
        ]
    return rows


def _unmoved(where: dict[str, Any], size: int, still: np.ndarray) -> dict[str, Any]:
    common = where | {"variant": "same", "members": size, "crafted_members": size}
    return row("unmoved_share", float(still.mean()), examples=len(still), **common)


def _arrays(prefix: str, trial: Trial, seen: dict[range, View], split: Split) -> dict[str, np.ndarray]:
    """Per image, by `<dataset>/<attack>/<epsilon>/<variant>/<members>/<quantity>`; for one network `same`."""
    labels = split.labels.numpy()
    found = {f"{split.name}/attacked/label": labels.astype("i2")}
    size = len(trial.crafted)
    kept = [(v, p) for v, p in trial.tested if len(p) == size and (size > 1 or v == "same")]
    for variant, places in kept:
        log_p, name = seen[places].log_p, f"{prefix}/{variant}/{len(places)}"
        found |= per_image(name, log_p, seen[places].expected)
        found[f"{name}/label_probability"] = np.exp(log_p[np.arange(len(labels)), labels]).astype("f4")
        found[f"{name}/brier"] = predictions.brier(log_p, labels).astype("f4")
    return found
