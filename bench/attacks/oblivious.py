"""torchattacks' FGSM, PGD and Square on an ensemble, and noise of the same size.

Threat model: the attacker knows every network of the ensemble it attacks and changes each pixel of an
image by at most epsilon; pixels stay in [0, 1]. It maximises the cross-entropy of the mean logits. No
function here changes the state of the global generator; a generator that is given goes on from where it
stands, so that two calls with it differ. Images outside [0, 1], none or NaN, labels that are no class and
networks whose outputs are NaN, which no gradient moves, raise ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import torchattacks
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.attacks.inputs import along, batches, check_images, where
from bench.ensemble import Ensemble, MeanLogits

ATTACKS = ("fgsm", "pgd", "pgd-stop")
STEP = 2.5  # PGD's step size times the number of steps over epsilon: Madry et al. 2018 (2.5 eps / 100)


class Ascent(NamedTuple):
    """Iterates of PGD on the CPU, [B, ...]: the last, and the one at which it stops (`pgd_stop`)."""

    last: Tensor
    stopped: Tensor


def fgsm(ensemble: Ensemble, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
    """Images [B, ...] after one ascent step of size epsilon: clip(x + eps sign(dL/dx), 0, 1).

    L is the cross-entropy of the mean logits. epsilon: a number, or one per image [B]. Returns images on
    the CPU. Source: Goodfellow et al. 2015, section 4.
    """

    def run(eps: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torchattacks.FGSM(MeanLogits(ensemble), eps=eps)(x, y)

    return _in_batches(ensemble, images, labels, epsilon, run)


def pgd(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    steps: int,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Images after `steps` projected ascent steps of size 2.5 eps / steps; the last iterate.

    rng: CPU generator of the random start in the ball, the same on every device; without one PGD starts at
    the image, and epsilon may be one number per image. Otherwise as `fgsm`. Source: Madry et al. 2018,
    section 2.
    """
    return pgd_stop(ensemble, images, labels, epsilon, steps, rng).last


def pgd_stop(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    steps: int,
    rng: torch.Generator | None = None,
) -> Ascent:
    """PGD that goes on "until the image completely fools the whole ensemble", and `pgd`, in one ascent.

    `stopped`: for each image the first of its iterates 1 to `steps` at which every network of the ensemble is
    wrong (argmax_k l_mk != y for all m), the last where there is none; the random start does not count.
    `last`: the images of `pgd`. Arguments as for `pgd`. Source: HyperGAN paper, section 4.5.
    """

    def run(eps: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
        watch = _Watch(ensemble, y)
        alpha = STEP * eps / steps
        attack = torchattacks.PGD(watch, eps=eps, alpha=alpha, steps=steps, random_start=rng is not None)
        last = attack(x, y)
        return torch.stack([last, watch.stopped(last)], 1)

    device = next(ensemble.parameters()).device
    with _drawing_from(rng, device), nullcontext() if device.type == "cpu" else _StartOnCPU():
        both = _in_batches(ensemble, images, labels, epsilon, run)
    return Ascent(both[:, 0].contiguous(), both[:, 1].contiguous())


def square(
    ensemble: Ensemble, images: Tensor, labels: Tensor, epsilon: float, queries: int, rng: torch.Generator
) -> Tensor:
    """Images [B, ...] found by random search over squares, which needs mean logits but no gradient.

    queries: at most. An image that does not fool the ensemble by then is returned unchanged; images of a
    batch share their squares. Otherwise as `fgsm`. Source: Andriushchenko et al. 2020, "Square Attack".
    """

    def run(eps: float | Tensor, x: Tensor, y: Tensor) -> Tensor:
        # It seeds the global generators itself, by default always with 0.
        attack = torchattacks.Square(MeanLogits(ensemble), eps=eps, n_queries=queries, seed=_seed(rng))
        return attack(x, y)

    with _forked(next(ensemble.parameters()).device):
        return _in_batches(ensemble, images, labels, epsilon, run)


def noise(images: Tensor, epsilon: float, rng: torch.Generator) -> Tensor:
    """Images [B, ...] changed by epsilon in every pixel, up or down at random: the baseline of attacks."""
    check_images(images)
    signs = torch.rand(images.shape, generator=rng).sub(0.5).sign()
    return (images + epsilon * signs).clamp(0, 1)


class _Watch(nn.Module):
    """The ensemble's mean logits [B, K]; it notes the first iterate at which every network is wrong.

    The logits are those that PGD's next gradient needs, so watching costs no pass. PGD evaluates its start,
    then every iterate but the last, which it returns.
    """

    def __init__(self, ensemble: Ensemble, labels: Tensor) -> None:
        super().__init__()
        self.ensemble = ensemble
        self._labels = labels
        self._fools = torch.zeros_like(labels, dtype=torch.bool)
        self._first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        logits = self.ensemble(x)
        if self._first is None:
            self._first = x.detach()  # the start, which does not count
        else:
            self._first = where(self._fools, self._first, x.detach())
            self._fools = self._fools | (logits.detach().argmax(-1) != self._labels).all(0)
        return logits.mean(0)

    def stopped(self, last: Tensor) -> Tensor:
        """The first fooling iterate of each image [B, ...], the last where none of those before it fools."""
        assert self._first is not None
        return where(self._fools, self._first, last)


class _StartOnCPU(TorchFunctionMode):
    """Inside, what torchattacks fills with random numbers on a GPU gets those of the CPU's generator.

    A GPU's generator has other numbers, so that one ensemble would be attacked in another way there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.uniform_:
            like = args[0]
            return like.copy_(torch.empty(like.shape, dtype=like.dtype).uniform_(*args[1:], **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@contextmanager
def _drawing_from(rng: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Inside, the CPU's global generator goes on where `rng` stands; afterwards `rng` stands where it ends.

    torchattacks draws its random numbers from the global generators and accepts no other.
    """
    if rng is None:
        yield
        return
    with _forked(device):
        torch.default_generator.set_state(rng.get_state())
        yield
        rng.set_state(torch.default_generator.get_state())


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """Afterwards the global generators have the state that they had before."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _seed(rng: torch.Generator) -> int:
    """A seed from where a generator stands, for an attack that seeds the global generators itself.

    A generator that was not drawn from gives its own, every other a number that is drawn; both have been
    drawn from afterwards.
    """
    new = torch.Generator().manual_seed(rng.initial_seed())
    unused = torch.equal(rng.get_state(), new.get_state())
    drawn = int(torch.randint(2**63 - 1, (), generator=rng))
    return rng.initial_seed() if unused else drawn


def _in_batches(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    run: Callable[[float | Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """What `run` makes of batches of epsilon, images and labels on the ensemble's device, on the CPU."""
    found = []
    for start, x, y in batches(ensemble, images, labels):
        eps = epsilon
        if isinstance(epsilon, Tensor):
            eps = along(epsilon[start : start + len(x)], x).to(x.device)
        found.append(run(eps, x, y).cpu())
    return torch.cat(found)
