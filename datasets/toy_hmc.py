"""The posterior of the toy network by Hamiltonian Monte Carlo; running it writes `toy_reference.csv`.

    python -m bench.datasets.toy_hmc

Chains run in parallel as rows of one tensor, in float64. Only the network's outputs have to mix; its
weights need not, because hidden units can be permuted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from bench import networks
from bench.datasets import toy
from bench.task import NOISE_SD

SEED = 0
CHAINS = 32
WARM_UP = 300  # discarded trajectories per chain, during which the step size adapts
DRAWS = 700  # kept trajectories per chain
LEAPFROGS = 60  # mean number of steps per trajectory, uniform between 0.5 and 1.5 times this
ACCEPTED = 0.8  # target acceptance rate of the step-size adaptation, Hoffman & Gelman 2014

LogDensity = Callable[[Tensor], Tensor]


def outputs(theta: Tensor, x: Tensor) -> Tensor:
    """Outputs [C, B] at inputs x [B] of networks given as vectors theta [C, P], in `networks.toy`'s order."""
    sizes = [shape.numel() for shape in networks.shapes(networks.toy()).values()]
    w, b, v, c = theta.split(sizes, 1)
    hidden = torch.relu(x[:, None] * w[:, None] + b[:, None])  # [C, B, 100]
    return (hidden @ v[:, :, None]).squeeze(2) + c


def log_posterior(x: Tensor, y: Tensor) -> LogDensity:
    """theta [C, P] -> log p(theta, y) [C] up to a constant: y ~ N(f(x), 3^2), theta ~ N(0, I)."""

    def log_density(theta: Tensor) -> Tensor:
        misfit = (y - outputs(theta, x)).square().sum(1) / NOISE_SD**2
        return -0.5 * (misfit + theta.square().sum(1))

    return log_density


def slope(log_density: LogDensity, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities [C] and their gradients [C, P]."""
    leaf = theta.detach().requires_grad_()
    value = log_density(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def hmc(
    log_density: LogDensity, start: Tensor, warm_up: int, draws: int, leapfrogs: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions [C, P] and acceptance probabilities [C] of all chains, after each kept trajectory.

    Leapfrog steps with unit mass and new momenta for every trajectory. All chains share one step size,
    adapted by dual averaging during warm-up to an acceptance rate of `ACCEPTED`. Source: Hoffman &
    Gelman 2014, "The No-U-Turn Sampler", section 3.2 (adaptation) and algorithm 1 (HMC); their
    constants.
    """
    theta = start.clone()
    value, gradient = slope(log_density, theta)
    log_step = smooth = math.log(0.01)
    centre, shortfall = math.log(10) + log_step, 0.0
    for i in range(warm_up + draws):
        step = math.exp(log_step if i < warm_up else smooth)
        count = int(torch.randint(leapfrogs // 2, leapfrogs * 3 // 2 + 1, (), generator=rng))
        momentum = torch.randn(theta.shape, generator=rng, dtype=theta.dtype)
        before = value - 0.5 * momentum.square().sum(1)
        place, new, force = theta, value, gradient
        for _ in range(count):
            momentum = momentum + 0.5 * step * force
            place = place + step * momentum
            new, force = slope(log_density, place)
            momentum = momentum + 0.5 * step * force
        gain = new - 0.5 * momentum.square().sum(1) - before
        chance = torch.nan_to_num(gain, nan=-math.inf).clamp(max=0).exp()
        taken = torch.rand(chance.shape, generator=rng, dtype=chance.dtype) < chance
        theta = torch.where(taken[:, None], place, theta)
        gradient = torch.where(taken[:, None], force, gradient)
        value = torch.where(taken, new, value)
        if i >= warm_up:
            yield theta, chance
            continue
        t = i + 1
        shortfall += (ACCEPTED - chance.mean().item() - shortfall) / (t + 10)
        log_step = centre - math.sqrt(t) / 0.05 * shortfall
        smooth += t**-0.75 * (log_step - smooth)


def r_hat(values: np.ndarray) -> np.ndarray:
    """Split R-hat of each quantity: values [draws, C, G] -> [G].

    sqrt(((n - 1) / n W + B / n) / W) over the 2 C half-chains of length n, W the mean of their
    variances, B / n the variance of their means. Source: Gelman et al., "Bayesian Data Analysis", 3rd
    edition, section 11.4.
    """
    half = len(values) // 2
    parts = np.concatenate([values[:half], values[half : 2 * half]], 1)
    within = parts.var(0, ddof=1).mean(0)
    between = parts.mean(0).var(0, ddof=1)
    return np.sqrt(((half - 1) / half * within + between) / within)


def main() -> None:
    """Run the chains and write the reference file."""
    x, y = (torch.from_numpy(values).double() for values in toy.points()[0])
    grid = torch.from_numpy(toy.grid())
    rng = torch.Generator().manual_seed(SEED)
    count = networks.count(networks.toy())
    start = torch.randn(CHAINS, count, generator=rng, dtype=torch.float64)  # the prior
    found, accepted = [], []
    for theta, chance in hmc(log_posterior(x, y), start, WARM_UP, DRAWS, LEAPFROGS, rng):
        found.append(outputs(theta, grid).float().numpy())
        accepted.append(chance.mean().item())
    values = np.stack(found).astype(np.float64)  # [draws, C, G]
    mixed = r_hat(values)
    lines = [
        f"# points sha256: {toy.points_checksum()}",
        f"# {CHAINS} chains, {WARM_UP} + {DRAWS} trajectories of {LEAPFROGS} steps, seed {SEED}; "
        f"accepted {np.mean(accepted):.3f}, largest R-hat {mixed.max():.4f}",
        "x,mean,sd,r_hat",
    ]
    for row in zip(toy.grid(), values.mean((0, 1)), values.std((0, 1)), mixed, strict=True):
        lines.append("{:.1f},{:.6g},{:.6g},{:.5f}".format(*row))
    toy.REFERENCE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
