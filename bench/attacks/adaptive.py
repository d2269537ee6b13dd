"""Adaptive attacks: aware that networks are resampled and that a detector rejects high entropy.

Threat model: the attacker knows the networks it attacks, may draw others of the same method, and knows that
images of high predictive entropy are rejected; it does not know the fresh networks used for testing. Epsilon
bounds the maximum norm, for pixels in [0, 1]. Sources: Athalye et al. 2018, "Obfuscated Gradients Give a
False Sense of Security"; Tramèr et al. 2020, "On Adaptive Attacks to Adversarial Example Defenses".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attacks.inputs import batches, check_images, where
from bench.attacks.oblivious import STEP
from bench.ensemble import Ensemble, MeanProbability
from bench.rng import Streams

LAMBDA = 1.0  # weight of entropy relative to cross-entropy; both are in nats
KAPPA = 1.0  # margin in logits by which another class must lead for a member to count as fooled

DETECTOR_AWARE = ("low-entropy", "low-entropy-targeted")
GRADIENT = ("eot", *DETECTOR_AWARE, "margin")
# (images [B, ...], step) -> the value that the attacker maximises, [B]; the step selects fresh networks.
Objective = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class AttackResult:
    """Attacked images [B, ...] on the CPU, also after three quarters of the steps, and their score [B]."""

    images: Tensor
    earlier: Tensor
    score: Tensor


def ascend(
    objective: Objective,
    images: Tensor,
    epsilon: float,
    steps: int,
    start: Tensor,
    score_objective: Objective | None = None,
) -> AttackResult:
    """Projected sign ascent on any objective: x <- clip(x + 2.5 eps / steps sign(grad), ball, [0, 1]).

    start: initial images in the ball, [B, ...]. score_objective: computes the score in place of an objective
    that changes with the step. With the cross-entropy of the mean logits the result equals `pgd` bit for bit.
    Raises ValueError for images outside [0, 1]. Source: Madry et al. 2018, section 2.
    """
    check_images(images)
    alpha = STEP * epsilon / steps
    x = earlier = start.detach()
    for step in range(steps):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(leaf, step).sum(), leaf)
        moved = x + alpha * gradient.sign()
        x = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
        earlier = x if step < 3 * steps // 4 else earlier
    with torch.no_grad():
        score = (score_objective or objective)(x, steps).cpu()
    return AttackResult(x.cpu(), earlier.cpu(), score)


def cross_entropy(ensemble: Ensemble, labels: Tensor) -> Objective:
    """Cross-entropy of the mean logits in nats: the objective of the oblivious attacks."""
    return lambda x, step: F.cross_entropy(ensemble(x).mean(0), labels, reduction="none")


def expectation(pool: Ensemble, labels: Tensor, draws: int) -> Objective:
    """Cross-entropy of the mean logits of `draws` networks, at every step the next ones of a pool.

    A pool of steps x draws networks gives every step fresh ones; a smaller pool is used cyclically.
    """

    def value(x: Tensor, step: int) -> Tensor:
        first = step * draws % len(pool)
        taken = [pool[first : first + draws]]
        if (over := first + draws - len(pool)) > 0:
            taken.append(pool[: min(over, first)])
        logits = torch.cat([networks(x) for networks in taken if len(networks)]).mean(0)
        return F.cross_entropy(logits, labels, reduction="none")

    return value


def low_entropy(ensemble: Ensemble, labels: Tensor, after: int = 0) -> Objective:
    """-ln p(y) - lambda H(p), p the mean probability: confidently wrong; lambda is 0 before step `after`.

    Near p(y) = 1 entropy changes faster than cross-entropy: with lambda from the start, a correctly
    classified image becomes more confident and is never misclassified.
    """
    view = MeanProbability(ensemble)

    def value(x: Tensor, step: int) -> Tensor:
        log_p = view(x)
        wrong = F.nll_loss(log_p, labels, reduction="none")
        if step < after:
            return wrong
        return wrong + LAMBDA * (log_p.exp() * log_p).sum(-1)

    return value


def targeted(ensemble: Ensemble, images: Tensor, labels: Tensor) -> Objective:
    """ln p(t), p the mean probability and t the most probable wrong class of the clean image."""
    view = MeanProbability(ensemble)
    with torch.no_grad():
        target = view(images).scatter(1, labels[:, None], -torch.inf).argmax(-1)
    return lambda x, step: -F.nll_loss(view(x), target, reduction="none")


def margin(ensemble: Ensemble, labels: Tensor) -> Objective:
    """-mean_m max(0, l_my - max_{j != y} l_mj + kappa): only members not yet fooled have a gradient.

    It does not saturate: cross-entropy has no gradient in float32 beyond margins of 104 nats.
    """

    def value(x: Tensor, step: int) -> Tensor:
        logits = ensemble(x)
        index = labels.expand(len(logits), -1).unsqueeze(-1)
        others = logits.scatter(2, index, -torch.inf).amax(-1)
        lead = logits.gather(2, index).squeeze(-1) - others
        return -(lead + KAPPA).clamp_min(0).mean(0)

    return value


def attack(
    name: str,
    attacked: Ensemble,
    pool: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    steps: int,
    restarts: int,
    draws: int,
    rng: Streams,
) -> AttackResult:
    """For each image the best of `restarts` ascents from random points of the ball.

    name: one of `GRADIENT`. Best by the attack's objective; for `eot`, whose objective changes with the
    step, by the cross-entropy of the attacked networks. `low-entropy` adds the entropy term in the second
    half of its steps. Raises ValueError for another name, and as `fgsm` for images, labels and networks.
    """
    if name not in GRADIENT:
        raise ValueError(f"expected one of {', '.join(GRADIENT)}, found {name}")
    parts = []
    for begin, x, y in batches(attacked, images, labels):
        score_objective = cross_entropy(attacked, y) if name == "eot" else None
        best: AttackResult | None = None
        for restart in range(restarts):
            generator = rng(name, repr(epsilon), begin, restart)
            shift = torch.rand(x.shape, generator=generator).mul(2).sub(1).mul(epsilon)
            place = (x + shift.to(x.device)).clamp(0, 1)
            objective = _objective(name, attacked, pool, x, y, draws, steps)
            found = ascend(objective, x, epsilon, steps, place, score_objective)
            best = found if best is None else _better(best, found)
        assert best is not None
        parts.append(best)
    return AttackResult(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(AttackResult)))


def _objective(
    name: str, attacked: Ensemble, pool: Ensemble, x: Tensor, y: Tensor, draws: int, steps: int
) -> Objective:
    match name:
        case "eot":
            return expectation(pool, y, draws)
        case "low-entropy":
            return low_entropy(attacked, y, steps // 2)
        case "low-entropy-targeted":
            return targeted(attacked, x, y)
        case _:
            return margin(attacked, y)


def _better(one: AttackResult, other: AttackResult) -> AttackResult:
    """For each image, the one with the higher score."""
    wins = other.score > one.score
    pairs = [(getattr(other, f.name), getattr(one, f.name)) for f in fields(AttackResult)]
    return AttackResult(*(where(wins, *pair) for pair in pairs))
