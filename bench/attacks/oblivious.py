"""torchattacks' FGSM, PGD and Square on an ensemble, and noise of the same size.

Threat model: the attacker knows every network of the ensemble it attacks and changes each pixel of an
image by at most epsilon; pixels stay in [0, 1]. It maximises the cross-entropy of the mean logits. No
function here changes the state of the global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torchattacks
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.ensemble import Ensemble, MeanLogits

ATTACKS = ("fgsm", "pgd")
BATCH = 1000  # images attacked at once
STEP = 2.5  # PGD's step size times the number of steps over epsilon: Madry et al. 2018 (2.5 eps / 100)


def fgsm(ensemble: Ensemble, images: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
    """Images [B, ...] after one ascent step of size epsilon: clip(x + eps sign(dL/dx), 0, 1).

    L is the cross-entropy of the mean logits. epsilon: a number, or one per image [B]. Returns images on
    the CPU. Raises ValueError for images outside [0, 1]. Source: Goodfellow et al. 2015, section 4.
    """
    return _attack(ensemble, images, labels, epsilon, lambda m, eps: torchattacks.FGSM(m, eps=eps))


def pgd(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    steps: int,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Images after `steps` projected ascent steps of size 2.5 eps / steps; the last iterate.

    rng: generator of the random start in the ball, the same on every device; without one PGD starts at the
    image, and epsilon may be one number per image. Otherwise as `fgsm`. Source: Madry et al. 2018,
    section 2.
    """

    def build(model: MeanLogits, eps: float | Tensor) -> torchattacks.PGD:
        alpha = STEP * eps / steps
        return torchattacks.PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=rng is not None)

    seed, device = None if rng is None else rng.initial_seed(), next(ensemble.parameters()).device
    with _seeded(seed, device), nullcontext() if device.type == "cpu" else _StartOnCPU():
        return _attack(ensemble, images, labels, epsilon, build)


def square(
    ensemble: Ensemble, images: Tensor, labels: Tensor, epsilon: float, queries: int, rng: torch.Generator
) -> Tensor:
    """Images [B, ...] found by random search over squares, which needs mean logits but no gradient.

    queries: at most. An image that does not fool the ensemble by then is returned unchanged; images of a
    batch share their squares. Otherwise as `fgsm`. Source: Andriushchenko et al. 2020, "Square Attack".
    """

    def build(model: MeanLogits, eps: float | Tensor) -> torchattacks.Square:
        # It seeds the global generator itself, by default always with 0.
        return torchattacks.Square(model, eps=eps, n_queries=queries, seed=rng.initial_seed())

    with _seeded(rng.initial_seed(), next(ensemble.parameters()).device):
        return _attack(ensemble, images, labels, epsilon, build)


def noise(images: Tensor, epsilon: float, rng: torch.Generator) -> Tensor:
    """Images [B, ...] changed by epsilon in every pixel, up or down at random: the baseline of attacks."""
    signs = torch.rand(images.shape, generator=rng).sub(0.5).sign()
    return (images + epsilon * signs).clamp(0, 1)


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
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside, the global generators are seeded with `seed`; afterwards their state is restored.

    torchattacks draws its random numbers from the global generators and accepts no other.
    """
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _attack(
    ensemble: Ensemble,
    images: Tensor,
    labels: Tensor,
    epsilon: float | Tensor,
    build: Callable[[MeanLogits, float | Tensor], torchattacks.attack.Attack],
) -> Tensor:
    """Run a torchattacks attack in batches and return the images on the CPU."""
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"expected pixels in [0, 1], found {images.min():.3g} to {images.max():.3g}")
    model = MeanLogits(ensemble)
    device = next(ensemble.parameters()).device
    found = []
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        eps = epsilon
        if isinstance(epsilon, Tensor):
            eps = epsilon[part].view(-1, *[1] * (images.dim() - 1)).to(device)
        found.append(build(model, eps)(images[part].to(device), labels[part].to(device)).cpu())
    return torch.cat(found)
