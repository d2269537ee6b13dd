"""Attacks that know the defence: fresh networks at every step, and a detector that looks at entropy.

Threat model: the attacker knows the networks it attacks, may draw others of the same method, and knows that
images of high predictive entropy are rejected; the networks that test the images it does not know. Epsilon
is in pixels of [0, 1], in the maximum norm. Sources: Athalye et al. 2018, "Obfuscated Gradients Give a False
Sense of Security"; Tramèr et al. 2020, "On Adaptive Attacks to Adversarial Example Defenses".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.attacks.oblivious import BATCH, STEP
from bench.ensemble import Ensemble, MeanProbability
from bench.rng import Streams

LAMBDA = 1.0  # nats of entropy that weigh as much as a nat of cross-entropy: the two have one unit
KAPPA = 1.0  # of the margin: a member counts as fooled once another class leads by so much

DETECTOR_AWARE = ("low-entropy", "low-entropy-targeted")
GRADIENT = ("eot", *DETECTOR_AWARE, "margin")
# (images [B, ...], step) -> what the attacker raises, [B]; the step chooses fresh networks.
Objective = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Found:
    """Images [B, ...] on the CPU, the same after three quarters of the steps, and how good they are, [B]."""

    images: Tensor
    earlier: Tensor
    score: Tensor


def climb(
    objective: Objective,
    images: Tensor,
    epsilon: float,
    steps: int,
    start: Tensor,
    judge: Objective | None = None,
) -> Found:
    """Projected sign ascent on any objective: x <- clip(x + 2.5 eps / steps sign(grad), ball, [0, 1]).

    start: where in the ball to begin, [B, ...]. judge: what the score is, where that is not the objective
    itself, as one that changes with the step is not. With the cross-entropy of the mean logits it is `pgd`,
    bit for bit. Raises ValueError for images beyond [0, 1]. Source: Madry et al. 2018, section 2.
    """
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"expected pixels in [0, 1], found {images.min():.3g} to {images.max():.3g}")
    alpha = STEP * epsilon / steps
    x = earlier = start.detach()
    for step in range(steps):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(leaf, step).sum(), leaf)
        moved = x + alpha * gradient.sign()
        x = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(0, 1)
        earlier = x if step < 3 * steps // 4 else earlier
    with torch.no_grad():
        score = (judge or objective)(x, steps).cpu()
    return Found(x.cpu(), earlier.cpu(), score)


def cross_entropy(ensemble: Ensemble, labels: Tensor) -> Objective:
    """Cross-entropy of the mean logits in nats: what the oblivious attacks climb."""
    return lambda x, step: F.cross_entropy(ensemble(x).mean(0), labels, reduction="none")


def expectation(pool: Ensemble, labels: Tensor, draws: int) -> Objective:
    """Cross-entropy of the mean logits of `draws` networks, at every step the next ones of a pool.

    A pool of steps x draws networks gives every step fresh ones; a smaller one comes round again.
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
    """-ln p(y) - lambda H(p), p the mean probability: wrong, and sure of it; lambda is 0 before step `after`.

    Near p(y) = 1 entropy falls faster than the cross-entropy rises: with lambda from the start an image that
    is right is made surer and never wrong.
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
    """ln p(t), p the mean probability and t the likeliest wrong class of the image as it was."""
    view = MeanProbability(ensemble)
    with torch.no_grad():
        target = view(images).scatter(1, labels[:, None], -torch.inf).argmax(-1)
    return lambda x, step: -F.nll_loss(view(x), target, reduction="none")


def margin(ensemble: Ensemble, labels: Tensor) -> Objective:
    """-mean_m max(0, l_my - max_{j != y} l_mj + kappa): members that are not fooled yet pull, no softmax.

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
) -> Found:
    """The best of `restarts` climbs from random places of the ball, image by image.

    name: one of `GRADIENT`. Best by what the attack raises; `eot`, which raises something else at every
    step, by the cross-entropy of the networks attacked. `low-entropy` looks at entropy in the second half of
    its steps. Raises ValueError for another name.
    """
    if name not in GRADIENT:
        raise ValueError(f"expected one of {', '.join(GRADIENT)}, found {name}")
    device = next(attacked.parameters()).device
    parts = []
    for begin in range(0, len(images), BATCH):
        x, y = (t[begin : begin + BATCH].to(device) for t in (images, labels))
        judge = cross_entropy(attacked, y) if name == "eot" else None
        best: Found | None = None
        for restart in range(restarts):
            generator = rng(name, repr(epsilon), begin, restart)
            shift = torch.rand(x.shape, generator=generator).mul(2).sub(1).mul(epsilon)
            place = (x + shift.to(device)).clamp(0, 1)
            objective = _objective(name, attacked, pool, x, y, draws, steps)
            found = climb(objective, x, epsilon, steps, place, judge)
            best = found if best is None else _better(best, found)
        assert best is not None
        parts.append(best)
    return Found(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Found)))


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


def _better(one: Found, other: Found) -> Found:
    """Image by image the one of the higher score."""
    wins = other.score > one.score

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(wins.view(-1, *[1] * (a.dim() - 1)), b, a)

    return Found(*(pick(getattr(one, f.name), getattr(other, f.name)) for f in fields(Found)))
