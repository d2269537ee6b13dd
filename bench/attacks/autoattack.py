"""AutoAttack's parts on the mixture, and APGD on the objectives of two adaptive attacks, with torchattacks.

Threat model: the attacker knows every network of the ensemble it attacks; epsilon bounds the maximum norm,
for pixels in [0, 1]. `apgd-ce` ascends the cross-entropy, `apgd-t` the difference of logits to one other
class after another (targeted DLR), `fab` searches the nearest image of another class, `square-mixture`
searches without gradients. These four attack the mixture: its logits are ln mean_m p_m, and an image fools if
their argmax is not its label. `apgd-eot` and `apgd-margin` ascend the objectives of `eot` and `margin`, which
are to fool the mean logits. Only images still classified correctly are attacked.

torchattacks' own FAB, Square and APGD on `MeanProbability` fool the same images (tests/test_peers.py). The
single runs inside them are called here because as a whole they return an image that does not fool as it was
before the attack, so that clean images would enter entropies and detection; they seed the global generators,
always with the same number; and they take neither another objective nor fewer targets. Sources: Croce and
Hein 2020, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks";
Croce and Hein 2020, "Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary Attack".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torchattacks
from torch import Tensor, nn

from bench.attacks import adaptive
from bench.attacks.inputs import batches, where
from bench.ensemble import Ensemble, MeanLogits, MeanProbability
from bench.rng import Streams

MIXTURE = ("apgd-ce", "apgd-t", "fab", "square-mixture")
OBJECTIVES = ("apgd-eot", "apgd-margin")
ATTACKS = (*MIXTURE, *OBJECTIVES)
FEWEST_CLASSES = 4  # the targeted DLR divides by the lead of the best logit over the third and the fourth

# (images, labels) of those still classified correctly, and the turn -> attacked images
Run = Callable[[Tensor, Tensor, int], Tensor]


class Strength(NamedTuple):
    """The budget of an attack; each uses a part of it.

    steps: of an ascent and of FAB. targets: classes that `apgd-t` and `fab` try, the most probable first.
    queries: of Square. draws: networks per step of `apgd-eot`.
    """

    steps: int
    targets: int
    queries: int
    draws: int


def attack(
    name: str,
    attacked: Ensemble,
    pool: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    strength: Strength,
    rng: Streams,
) -> Tensor:
    """Images [B, ...] after the attack, on the CPU.

    pool: networks of `apgd-eot`. An image that does not fool the ensemble is returned where its first ascent
    (Square: its search) had the highest loss, and for `fab` moved by at most epsilon towards the other class;
    one that is misclassified as it is, unchanged. The same streams give the same images on every device.
    Raises ValueError for another name, `apgd-t` with fewer than four classes, and, as `fgsm`, for images,
    labels and networks.
    """
    if name not in ATTACKS:
        raise ValueError(f"expected one of {', '.join(ATTACKS)}, found {name}")
    view = MeanLogits(attacked) if name in OBJECTIVES else MeanProbability(attacked)
    parts = []
    for begin, x, y in batches(attacked, images, labels):
        with torch.no_grad():
            logits = view(x)
        classes = logits.shape[-1]
        if name == "apgd-t" and classes < FEWEST_CLASSES:
            raise ValueError(f"apgd-t needs at least {FEWEST_CLASSES} classes, found {classes}")
        turns = min(strength.targets, classes - 1) if name in ("apgd-t", "fab") else 1
        run = _run(name, view, attacked, pool, epsilon, strength)
        with _seeded(rng(name, repr(epsilon), begin)):
            parts.append(_in_turns(view, run, turns, x, y, logits.argmax(-1) == y).cpu())
    return torch.cat(parts)


def _in_turns(view: nn.Module, run: Run, turns: int, x: Tensor, y: Tensor, right: Tensor) -> Tensor:
    """Each turn attacks the images that those before left classified correctly (right: [B])."""
    found = x.clone()
    for turn in range(turns):
        left = right.nonzero().flatten()
        if not len(left):
            break
        at, truth = x[left], y[left]
        moved = run(at, truth, turn).detach()
        with torch.no_grad():
            holds = view(moved).argmax(-1) == truth
        kept = moved if turn == 0 else where(holds, found[left], moved)
        found[left], right[left] = kept, holds
    return found


def _run(
    name: str, view: nn.Module, attacked: Ensemble, pool: Ensemble, epsilon: float, strength: Strength
) -> Run:
    """The attack of this name. The library's loop over targets is not used: it reseeds and drops failures."""
    if name == "fab":
        fab = torchattacks.FAB(view, eps=epsilon, steps=strength.steps, multi_targeted=True)

        @torch.no_grad()
        def boundary(x: Tensor, y: Tensor, turn: int) -> Tensor:
            fab.target_class = turn + 2  # counted from the highest logit, which is the label's
            return x + (fab.attack_single_run_targeted(x, y) - x).clamp(-epsilon, epsilon)

        return boundary
    if name == "square-mixture":
        square = torchattacks.Square(view, eps=epsilon, n_queries=strength.queries)

        def search(x: Tensor, y: Tensor, turn: int) -> Tensor:
            square.init_hyperparam(x)
            return square.attack_single_run(x, y)[1]

        return search

    def ascent(x: Tensor, y: Tensor, turn: int) -> Tensor:
        how = {"eps": epsilon, "steps": strength.steps}
        if name == "apgd-t":
            apgd = torchattacks.APGDT(view, **how)
            apgd.target_class = turn + 2
        elif name == "apgd-ce":
            apgd = torchattacks.APGD(view, **how)
        elif name == "apgd-eot":
            apgd = _OnObjective(view, adaptive.expectation(pool, y, strength.draws), **how)
        else:
            apgd = _OnObjective(view, adaptive.margin(attacked, y), **how)
        best, holds, _, fooling = apgd.attack_single_run(x, y)
        return where(holds, best, fooling)

    return ascent


class _OnObjective(torchattacks.APGD):
    """APGD that ascends an objective of `adaptive`; whether an image fools, the model decides.

    The objective takes the place of the DLR loss, which torchattacks computes from the logits.
    """

    def __init__(self, model: nn.Module, objective: adaptive.Objective, **how: float) -> None:
        super().__init__(model, loss="dlr", **how)
        self._objective, self._images, self._step = objective, torch.empty(0), 0

    @torch.no_grad()
    def get_logits(self, inputs: Tensor) -> Tensor:
        self._images = inputs
        return self.model(inputs)

    def dlr_loss(self, x: Tensor, y: Tensor) -> Tensor:
        value = self._objective(self._images, self._step)
        self._step += 1
        return value


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Inside, the global generator has a seed drawn from this one; afterwards its state is restored.

    The parts of torchattacks draw on the CPU, whatever the device, and accept no generator.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
