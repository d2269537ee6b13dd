"""Adversarial examples: does an attack on one ensemble fool it, a fresh one, or many single networks?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import attacks, metrics
from bench.ensemble import Ensemble
from bench.evaluations.accuracy import per_image
from bench.evaluations.subject import BATCH, Result, Subject
from bench.records import row
from bench.rng import Streams
from bench.task import AttackScale, Scale, Split

ONE_TO_MANY = 100  # networks that test what was made against one, as an ensemble: the paper's baselines


@dataclass(frozen=True)
class View:
    """What an ensemble of `members` networks says of images.

    log_p: log of the mean probability [B, K]; expected: mean entropy of the members [B]; fooled: by
    sense, [B]; share: of the members that are wrong, [B].
    """

    members: int
    log_p: np.ndarray
    expected: np.ndarray
    fooled: Mapping[str, np.ndarray]
    share: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """Predictive entropy [B] in nats."""
        return metrics.entropy(self.log_p)


@dataclass(frozen=True)
class Trial:
    """Places of the networks that are attacked, of the ensembles tested, by variant, and of single ones."""

    crafted: range
    tested: Mapping[str, range]
    singles: range = range(0)

    def places(self) -> list[range]:
        """All of these, each once."""
        return [p for p in dict.fromkeys([self.crafted, *self.tested.values(), self.singles]) if p]


Views = dict[range, View]


def draws(scale: Scale) -> int:
    """Networks to sample, so that every ensemble attacked has a fresh one beside it."""
    ensembles = [2 * n for part in scale.attacks for n in part.sizes]
    return max([*ensembles, *(1 + part.others for part in scale.attacks)], default=0)


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of success, entropy and AUROC for each attack, epsilon and ensemble; arrays per image.

    Networks [0, N) are attacked; tested are these (`same`), as many others [N, 2N) (`fresh`) and, where
    one network is attacked, others as an ensemble (`one-to-many`). `clean` has the images as they are.

    success_rate: share of the images that the tested ensemble had right (mean logits) and that fool it
    now, in the sense named; for `clean` the share of all images that it has wrong. entropy_nats and
    auroc (predictive entropy, attacked images against all clean ones): of all images, or of those that
    the *attacked* ensemble had right and that fool it in the sense named; without any there is no row.
    fooled_share: mean share of single others that are wrong on these. unmoved_share: of images without a
    gradient. `examples` counts the images. Raises ValueError where a fresh network is not fresh.
    """
    jobs = [(part, trial) for part in subject.scale.attacks for trial in _trials(subject, part)]
    _check_fresh(subject.drawn, [trial for _, trial in jobs])
    total = sum(len(attacks.ATTACKS) * len(part.epsilons) for part, _ in jobs)
    count = itertools.count(1)
    result = Result()
    for part, trial in jobs:
        split = subject.data.test.first(part.images)
        clean = _views(subject.drawn, trial, split.images, split.labels)
        if len(trial.crafted) > 1:
            result.rows += _clean(split, clean[trial.crafted])
        for attack, epsilon in itertools.product(attacks.ATTACKS, part.epsilons):
            images = _craft(subject.drawn[_members(trial.crafted)], split, attack, epsilon, part.steps, rng)
            seen = _views(subject.drawn, trial, images, split.labels)
            where = {"evaluation": "attack", "dataset": split.name, "attack": attack, "epsilon": epsilon}
            result.rows += _rows(where, trial, clean, seen)
            still = attacks.unmoved(split.images, images)
            result.rows.append(_unmoved(where, len(trial.crafted), still))
            # Kept per image: the first network, and the task's own largest ensemble.
            if part is subject.scale.attacks[0] and len(trial.crafted) in (1, _largest(jobs, part)):
                result.arrays |= _arrays(f"{split.name}/{attack}/{epsilon}", trial, seen, split)
            subject.progress(f"{split.name} attacked", next(count), total)
    return result


def _trials(subject: Subject, part: AttackScale) -> Iterator[Trial]:
    """What can be attacked with the networks drawn; a line for every size that cannot."""
    held = len(subject.drawn)
    for size in part.sizes:
        if 2 * size > held:
            subject.say(
                f"  left out: attacks on {size} networks (need {2 * size}, half of them fresh; "
                f"the method holds {held})"
            )
            continue
        yield Trial(range(size), {"same": range(size), "fresh": range(size, 2 * size)})
    if part.others and held > 1:
        others = range(1, min(held, 1 + part.others))
        yield Trial(range(1), {"one-to-many": others[:ONE_TO_MANY]}, others)


def _members(places: range) -> slice:
    return slice(places.start, places.stop)


def _largest(jobs: list[tuple[AttackScale, Trial]], part: AttackScale) -> int:
    return max(len(trial.crafted) for own, trial in jobs if own is part)


def _check_fresh(drawn: Ensemble, trials: list[Trial]) -> None:
    """Raises ValueError where a network that tests as a fresh one is among those attacked."""
    last = max((places.stop for trial in trials for places in trial.places()), default=0)
    hashes = drawn[:last].hashes()
    for trial in trials:
        known = {hashes[i] for i in trial.crafted}
        fresh = [p for p in trial.places() if p != trial.crafted]
        shared = [i for places in fresh for i in places if hashes[i] in known]
        if shared:
            raise ValueError(
                f"expected fresh networks to test attacks on {len(trial.crafted)}, found the same network "
                f"again at place {shared[0]} of the draw; the method draws one network twice"
            )


def _craft(ensemble: Ensemble, split: Split, attack: str, epsilon: float, steps: int, rng: Streams) -> Tensor:
    if attack == "fgsm":
        return attacks.fgsm(ensemble, split.images, split.labels, epsilon)
    start = rng("pgd", len(ensemble), repr(epsilon))
    return attacks.pgd(ensemble, split.images, split.labels, epsilon, steps, start)


def _views(drawn: Ensemble, trial: Trial, images: Tensor, labels: Tensor) -> Views:
    return {p: look(drawn[_members(p)], images, labels) for p in trial.places()}


@torch.no_grad()
def look(networks: Ensemble, images: Tensor, labels: Tensor) -> View:
    """What an ensemble says of images [B, ...], taken in batches, so that memory is that of one."""
    device = next(networks.parameters()).device
    parts = []
    for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        logits, truth = networks(x.to(device)).cpu().numpy(), y.numpy()
        ((_, log_p, expected),) = metrics.prefixes(logits, {len(logits)})
        share = (logits.argmax(-1) != truth).mean(0)
        parts.append((log_p, expected, share, attacks.fooled(logits, truth)))
    log_p, expected, share = (np.concatenate([part[i] for part in parts]) for i in range(3))
    senses = {s: np.concatenate([part[3][s] for part in parts]) for s in attacks.SENSES}
    return View(len(networks), log_p, expected, senses, share)


def _clean(split: Split, view: View) -> list[dict[str, Any]]:
    """Rows of images as they are: what attacks have to be compared with."""
    common = {"evaluation": "attack", "dataset": split.name, "variant": "clean", "members": view.members}
    common["examples"] = len(split)
    rows = [row("success_rate", float(wrong.mean()), success=s, **common) for s, wrong in view.fooled.items()]
    return [*rows, row("entropy_nats", float(view.entropy.mean()), success="all", **common)]


def _rows(where: dict[str, Any], trial: Trial, clean: Views, seen: Views) -> list[dict[str, Any]]:
    """Rows of one attack at one epsilon; clean and seen: before and after it."""
    crafted = trial.crafted
    right = ~clean[crafted].fooled["fused"]
    chosen = {"all": np.ones(len(right), bool)}
    # Of one network all senses are the same.
    senses = attacks.SENSES if len(crafted) > 1 else attacks.SENSES[:1]
    chosen |= {s: right & seen[crafted].fooled[s] for s in senses}
    where = where | {"crafted_members": len(crafted)}
    rows = []
    for variant, places in trial.tested.items():
        before, after = clean[places], seen[places]
        common = where | {"variant": variant, "members": after.members}
        had = ~before.fooled["fused"]
        if had.any():
            rows += [
                row("success_rate", float(w[had].mean()), success=s, examples=int(had.sum()), **common)
                for s, w in after.fooled.items()
            ]
        for success, of in chosen.items():
            rows += _entropies(before.entropy, after.entropy[of], common | {"success": success})
    if trial.singles:
        common = where | {"variant": "one-to-many", "members": len(trial.singles)}
        share = seen[trial.singles].share
        rows += [
            row("fooled_share", float(share[of].mean()), success=s, examples=int(of.sum()), **common)
            for s, of in chosen.items()
            if of.any()
        ]
    return rows


def _entropies(before: np.ndarray, after: np.ndarray, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean entropy of attacked images and their separation from clean ones; none without images."""
    if not len(after):
        return []
    common = where | {"examples": len(after)}
    return [
        row("entropy_nats", float(after.mean()), **common),
        row("auroc", metrics.auroc(before, after), **common),
    ]


def _unmoved(where: dict[str, Any], size: int, still: np.ndarray) -> dict[str, Any]:
    common = where | {"variant": "same", "members": size, "crafted_members": size}
    return row("unmoved_share", float(still.mean()), examples=len(still), **common)


def _arrays(prefix: str, trial: Trial, seen: Views, split: Split) -> dict[str, np.ndarray]:
    """Per image, by `<dataset>/<attack>/<epsilon>/<variant>/<members>/<quantity>`; one network is `same`."""
    labels = split.labels.numpy()
    found = {f"{split.name}/attacked/label": labels.astype("i2")}
    kept = trial.tested if len(trial.crafted) > 1 else {"same": trial.crafted}
    for variant, places in kept.items():
        log_p, name = seen[places].log_p, f"{prefix}/{variant}/{len(places)}"
        found |= per_image(name, log_p, seen[places].expected)
        found[f"{name}/label_probability"] = np.exp(log_p[np.arange(len(labels)), labels]).astype("f4")
        found[f"{name}/brier"] = metrics.brier(log_p, labels).astype("f4")
    return found
