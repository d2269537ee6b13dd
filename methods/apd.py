"""APD: a chain of stochastic gradient Langevin dynamics, distilled into a generator by a WGAN-GP.

Source: Wang, Vicol, Lucas, Gu, Grosse & Zemel, "Adversarial Distillation of Bayesian Neural Network
Posteriors", ICML 2018, and its code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from bench.training import (
    Count,
    Loss,
    Method,
    Minibatches,
    NotNegative,
    Positive,
    Recorded,
    Row,
    Share,
    Split,
    Streams,
    adam,
    annealed,
    check_finite,
    initial,
    means,
    minimise,
    product,
    settings,
    stacked,
)

# Networks whose spread is compared with the chain's after a block of generator steps.
SPREAD_NETWORKS = 256
# Factor of the generator's last layer at the start. He-uniform spreads as much into every direction,
# also into those where the chain hardly moves; networks off by that much fail (measured: 65 % accuracy
# where the chain has 98.6 %), and unlearning it takes longest.
FIRST_SPREAD = 0.1
# Directions of less than this share of the largest variance are rounding.
NEGLIGIBLE = 1e-10


@settings
class APDConfig:
    """Settings of APD; the chain's come first, then the generator's."""

    # wgan: a generator; gaussian: mean and diagonal variance; none: the networks themselves [paper: wgan]
    distil: Literal["wgan", "gaussian", "none"] = "wgan"
    epochs: Count = 100  # of the chain [the HyperGAN paper gives APD 100, the code has 400]
    passes: Count = 1  # over the data in an epoch; more where few images make few steps
    batch: Count = 100  # images per step of the chain [reference code]
    step_size: Positive = 0.05  # eta, of the chain after burn-in [reference code]
    first_step_size: Positive = 0.05  # falls to step_size by a cosine in burn-in [reference code: constant]
    precision: NotNegative = 50.0  # of the prior, N lambda [reference code: lambda 1e-3 at its N of 50,000]
    burn_in: Share = 0.2  # of the epochs, not kept [our choice; the code's 500 steps keep untrained ones]
    keep: Count = 27  # networks kept per epoch [reference code: every 20th step at N = 55,000]
    span: bool = True  # the generator emits coordinates in the span of the kept networks
    blocks: Count = 100  # of generator steps: how often a fit can be looked at and stopped
    block_steps: Count = 1000  # generator steps per block [reference code: 100,000 in all]
    latent: Count = 32  # numbers that the generator starts from [reference code, fully-connected networks]
    hidden: Count = 100  # width of generator and critic, three layers each [reference code]
    samples: Count = 100  # networks per step of generator and critic [reference code]
    critic_steps: Count = 5  # per generator step [reference code]
    penalty: NotNegative = 10.0  # weight of the gradient penalty [reference code]
    lr: Positive = 1e-4  # of generator and critic, Adam [reference code]

    def __post_init__(self) -> None:
        if self.distil != "none" and self.kept < 2:
            raise ValueError(f"keep: expected at least 2 networks to distil, found {self.kept}; raise keep")

    @property
    def burnt(self) -> int:
        """Epochs of which no network is kept."""
        return min(round(self.burn_in * self.epochs), self.epochs - 1)

    @property
    def kept(self) -> int:
        """Networks that the whole chain leaves."""
        return (self.epochs - self.burnt) * self.keep


class Chain(nn.Module):
    """What a chain leaves: its networks as vectors [epochs, keep, P], the last of an epoch its end.

    done: rounds of the fit that are over. held: epochs that are in memory. stored: whether networks
    belong to the state; where they lie in a folder of shards, they do not.
    """

    samples: Tensor
    done: Tensor
    held: Tensor

    def __init__(self, epochs: int, keep: int, count: int, stored: bool) -> None:
        super().__init__()
        self.register_buffer("samples", torch.zeros(epochs, keep, count), persistent=stored)
        self.register_buffer("held", torch.tensor(0), persistent=stored)
        self.register_buffer("done", torch.tensor(0))


class APD(Method):
    """Networks of a Langevin chain (SGLD), or of a generator that was trained to imitate them.

    The chain starts from PyTorch's default initialisation. With N training images, step size eta
    and prior precision lambda N, a step is

        theta <- theta - (eta / 2) (grad mean_batch loss + lambda theta) + N(0, eta / N)

    which is Langevin dynamics at temperature 1 of the posterior exp(-N loss - lambda N |theta|^2 / 2)
    with step eta / N. After burn-in `keep` networks of each epoch are kept. The generator G (latent
    z ~ N(0, I) -> P numbers) and the critic D minimise

        L_G = -E D(G(z)),    L_D = E D(G(z)) - E D(theta) + penalty E (|grad D(u)| - 1)^2

    u uniform between pairs of both. Rounds: epochs of the chain, then blocks of generator steps.

    `distil` = "none" draws from the kept networks themselves, without replacement, so that the loss
    by distillation shows; "gaussian" draws each weight from its own normal distribution with the
    chain's mean and variance: the control that a generator has to beat. Variants share the chain.

    Differs from the reference code: the weights that the GAN sees are centred on the chain's mean
    and scaled by one number; where `span`, they are coordinates in the span of the kept networks, an
    isometry, because a generator step on all weights takes a second on a CPU. The generator's last
    layer starts at a tenth of He's scale. The learning rate of both falls by a cosine. Burn-in is a
    share of the epochs, in which the chain's step may fall (`first_step_size`). All kept networks are
    the GAN's data; the code draws 10,000 of them.
    """

    Config = APDConfig
    config: APDConfig
    stage = ("epochs", "passes", "batch", "step_size", "first_step_size", "precision", "burn_in", "keep")
    members_setting = "keep"

    def __init__(self, network: nn.Module, config: APDConfig) -> None:
        super().__init__(network, config)
        self.burnt, self.kept = config.burnt, config.kept
        if config.distil == "none":
            self.max_members = self.kept

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss, self.images = rng, loss, len(train)
        self.batches = Minibatches(train, c.batch)
        self.steps = c.passes * len(self.batches)  # of an epoch
        if c.keep > self.steps:
            raise ValueError(
                f"keep: an epoch of {self.steps} steps holds no {c.keep} networks; "
                f"lower it with --set <method>.keep={self.steps}, or lower batch"
            )
        count = sum(shape.numel() for shape in self.engine.shapes.values())
        self.chain = self.keep("chain", Chain(c.epochs, c.keep, count, stored=self.stage_folder is None))
        self.theta = torch.zeros(count, device=self.device)  # the network that walks
        self.slots = torch.zeros(c.keep, count, device=self.device)  # those of its epoch that are kept
        # On the device: a step needs a normal number a weight.
        self.noise = torch.Generator(self.device)
        self.chain_recorded = Recorded(self.device, [self.noise])
        self.recorded = Recorded(self.device)
        self._coordinates: Coordinates | None = None
        if c.distil == "wgan":
            self._start_gan(min(self.kept - 1, count) if c.span else count)

    def _start_gan(self, width: int) -> None:
        c = self.config
        with self.rng.initialise():
            self.generator = self.keep("generator", mlp(c.latent, c.hidden, width, last=FIRST_SPREAD))
            self.critic = self.keep("critic", mlp(width, c.hidden, 1))
        self.optimiser = self.keep("optimiser", adam(self.generator.parameters(), c.lr, betas=(0.5, 0.9)))
        optimiser = adam(self.critic.parameters(), c.lr, betas=(0.5, 0.9))
        self.critic_optimiser = self.keep("critic_optimiser", optimiser)

    def rounds(self) -> int:
        return self.config.epochs + (self.config.blocks if self.config.distil == "wgan" else 0)

    def round(self, i: int) -> dict[str, float]:
        """An epoch of the chain, or a block of generator steps."""
        epochs = self.config.epochs
        self._hold(min(i, epochs))
        losses = self._epoch(i) if i < epochs else self._block(i - epochs)
        self.chain.done.fill_(i + 1)
        return losses

    def _hold(self, epochs: int) -> None:
        """Have the chain's first epochs in memory; those in the folder of shards are read."""
        while self.chain.held < epochs:
            self._epoch(int(self.chain.held))

    def _epoch(self, i: int) -> dict[str, float]:
        tensors, losses = self.stage_round(i, lambda: self._langevin(i))
        self.chain.samples[i] = tensors["samples"]
        self.chain.held.fill_(i + 1)
        return losses

    @torch.enable_grad()  # a network asked for may be computed anew where its shard was removed
    def _langevin(self, i: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Epoch i of the chain, from the last network of the epoch before."""
        c = self.config
        self.theta.copy_(self.chain.samples[i - 1, -1] if i else self._first())
        self.noise.manual_seed(self.rng("noise", i).initial_seed())
        losses = self.chain_recorded.run(self._chain_step, self._chain_rows(i)).double()
        for step, (loss,) in enumerate(losses.tolist()):
            eta = self.step_size(i * self.steps + step)
            setting = "step_size" if eta <= c.step_size else "first_step_size"
            check_finite(self, f"epoch {i}, step {step}", {"loss": loss}, setting)
        (loss,) = means(losses)
        end = {"loss": loss, "weight_norm": self.theta.norm().item()}
        check_finite(self, f"epoch {i}, step {self.steps - 1}", end, setting)
        return {"samples": self.slots.clone()}, {"loss": loss}

    def _chain_rows(self, i: int) -> Iterator[Row]:
        """Images, step sizes, and which of the kept networks each step of epoch i overwrites."""
        c, steps, order = self.config, self.steps, self.rng("order", i)
        passes = (self.batches.rows(order, own=False) for _ in range(c.passes))
        # The last step of a slot stays: with 6 steps and 2 slots those of 2 and 5.
        slots = (torch.arange(steps) * c.keep // steps).split(1)
        for step, row in enumerate(itertools.chain.from_iterable(passes)):
            eta = self.step_size(i * steps + step)
            yield {**row, "slot": slots[step], "half": eta / 2, "spread": math.sqrt(eta / self.images)}

    def _chain_step(self, row: Row) -> tuple[Tensor]:
        x, y = self.batches.read(row)
        leaf = self.theta.detach().requires_grad_()
        loss = self.engine.losses(stacked(leaf[None], self.engine.shapes), x, y, self.loss)[0]
        (gradient,) = torch.autograd.grad(loss, leaf)
        self.theta.copy_(self.step(leaf.detach(), gradient, row))
        self.slots.index_copy_(0, row["slot"], self.theta[None])
        return (loss,)

    def step(self, theta: Tensor, gradient: Tensor, row: Row) -> Tensor:
        """One step of Langevin dynamics: theta, gradient of the mean loss [P] -> theta [P].

        row: `half`, eta / 2, and `spread`, sqrt(eta / N).
        """
        drift = gradient + (self.config.precision / self.images) * theta
        random = torch.randn(theta.shape, generator=self.noise, device=self.device)
        return theta - row["half"] * drift + row["spread"] * random

    def step_size(self, step: int) -> float:
        """eta of a step: a cosine from `first_step_size` in burn-in, `step_size` after it."""
        c, burnt = self.config, self.burnt * self.steps
        if step >= burnt:
            return c.step_size
        falling = (1 + math.cos(math.pi * step / burnt)) / 2
        return c.step_size + (c.first_step_size - c.step_size) * falling

    def _first(self) -> Tensor:
        values = initial(self.engine.shapes, self.rng("initialise"))
        return torch.cat([v.flatten() for v in values.values()]).to(self.device)

    def _pool(self) -> Tensor:
        """The networks kept so far [n, P]; in burn-in those of the latest epoch."""
        epochs = min(int(self.chain.done), self.config.epochs)
        self._hold(epochs)
        return self.chain.samples[min(self.burnt, epochs - 1) : epochs].flatten(0, 1)

    @property
    def coordinates(self) -> Coordinates:
        """What the GAN sees of the kept networks."""
        if self._coordinates is None:
            self._coordinates = Coordinates(self._pool(), self.config.span)
        return self._coordinates

    def _block(self, i: int) -> dict[str, float]:
        """A block of generator steps, `critic_steps` of the critic before each."""
        losses = self.recorded.run(self._block_step, self._block_rows(i))
        distance, penalty = means(losses.view(-1, 2))
        found = {"wasserstein": distance, "gradient_penalty": penalty}
        check_finite(self, f"block {i}", found)
        return found | self.spread(i)

    def _block_rows(self, i: int) -> Iterator[Row]:
        """What the steps of block i draw, and their rates."""
        c, count = self.config, len(self.coordinates.values)
        rng, shape = self.rng("distil", i), (c.critic_steps, c.samples)
        for step in range(i * c.block_steps, (i + 1) * c.block_steps):
            yield {
                "real": torch.randint(count, shape, generator=rng),
                "mix": torch.rand(*shape, 1, generator=rng),
                "fake": torch.randn(*shape, c.latent, generator=rng),
                "z": torch.randn(c.samples, c.latent, generator=rng),
                "lr": annealed(c.lr, step, c.blocks * c.block_steps),
            }

    def _block_step(self, row: Row) -> list[Tensor]:
        """Steps of the critic, then one of the generator; distance and penalty of each of the critic's."""
        found: list[Tensor] = []
        real = self.coordinates.values[row["real"]]
        with torch.no_grad():
            fake = self.generator(row["fake"])
        for r, f, m in zip(real, fake, row["mix"], strict=True):
            of_real, of_fake = self.critic(torch.cat([r, f])).chunk(2)
            distance = of_real.mean() - of_fake.mean()
            penalty = gradient_penalty(self.critic, m * r + (1 - m) * f)
            minimise(self.critic_optimiser, self.config.penalty * penalty - distance, row["lr"])
            found += [distance, penalty]
        # The critic's own gradients of this step are cleared before its next one.
        minimise(self.optimiser, -self.critic(self.generator(row["z"])).mean(), row["lr"])
        return found

    @torch.no_grad()
    def spread(self, block: int) -> dict[str, float]:
        """The generator's standard deviation over the chain's: sqrt(sum of variances), by layer too."""
        rng = self.rng("spread", block)
        z = torch.randn(SPREAD_NETWORKS, self.config.latent, generator=rng).to(self.device)
        drawn, chain = (v.var(0) for v in (self.coordinates.vectors(self.generator(z)), self._pool()))
        pairs = {"sd_ratio": (drawn, chain)}
        parts = (stacked(v[None], self.engine.shapes).items() for v in (drawn, chain))
        for (name, of_drawn), (_, of_chain) in zip(*parts, strict=True):
            layer, _, kind = name.rpartition(".")
            if kind == "weight":
                pairs[f"sd_ratio_{layer}"] = (of_drawn, of_chain)
        return {name: (d.sum() / c.sum()).sqrt().item() for name, (d, c) in pairs.items()}

    @torch.no_grad()
    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        c = self.config
        if c.distil == "wgan" and self.chain.done > c.epochs:
            z = torch.cat([torch.randn(1, c.latent, generator=rng) for rng in rngs]).to(self.device)
            return stacked(self.coordinates.vectors(self.generator(z)), self.engine.shapes)
        pool = self._pool()
        if c.distil == "gaussian":
            noise = torch.stack([torch.randn(pool.shape[1], generator=rng) for rng in rngs])
            sd, mean = torch.std_mean(pool, 0, correction=0)
            return stacked(mean + sd * noise.to(self.device), self.engine.shapes)
        # From the first generator alone, so that a larger draw begins with a smaller one. A trace
        # may ask for more than there are yet.
        order = torch.randperm(len(pool), generator=rngs[0]).to(self.device)
        turns = torch.arange(len(rngs), device=self.device) % len(pool)
        return stacked(pool[order[turns]], self.engine.shapes)


class Coordinates:
    """Coordinates of vectors [n, P] around their mean, scaled to root mean square 1, and the way back.

    span: orthonormal coordinates in the affine span, [n, min(n - 1, P)], by the eigenvectors of the
    Gram matrix: distances are those of the vectors up to the one scale, so that a 1-Lipschitz critic
    means the same; else the centred vectors themselves, [n, P].
    """

    def __init__(self, vectors: Tensor, span: bool) -> None:
        self.mean = vectors.mean(0)
        centred = vectors - self.mean
        self.basis = _basis(centred) if span else None
        values = centred if self.basis is None else product(centred, self.basis.t())
        self.scale = values.square().mean().sqrt()
        self.values = values / self.scale

    def vectors(self, values: Tensor) -> Tensor:
        """Vectors [M, P] of coordinates [M, D]."""
        return self.mean + self.scale * (values if self.basis is None else product(values, self.basis))


def _basis(centred: Tensor) -> Tensor:
    """Orthonormal rows [min(n - 1, P), P] that span centred vectors [n, P], largest variance first."""
    n, count = centred.shape
    wide = centred.double()
    variances, directions = torch.linalg.eigh(product(wide, wide.t()))
    size = min(n - 1, count)
    variances, directions = variances.flip(0)[:size], directions.flip(1)[:, :size]
    # A sign of its own for every direction, so that a stored generator fits on another machine.
    largest = directions.abs().argmax(0, keepdim=True)
    directions = directions * directions.gather(0, largest).sign()
    lengths = variances.clamp_min(0).sqrt()
    inverse = torch.where(variances > NEGLIGIBLE * variances[0], 1 / lengths, 0.0)
    return product((directions * inverse).t(), wide).to(centred.dtype)


def mlp(inputs: int, hidden: int, outputs: int, last: float = 1.0) -> nn.Sequential:
    """Three hidden layers with ReLU; weights He-uniform (the last layer's times `last`), biases zero."""
    layers: list[nn.Module] = []
    for width in (inputs, hidden, hidden):
        layers += [nn.Linear(width, hidden), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(hidden, outputs))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        cast(nn.Linear, network[-1]).weight.mul_(last)
    return network


def gradient_penalty(critic: nn.Sequential, x: Tensor) -> Tensor:
    """Mean over x [B, D] of (|grad D(x)| - 1)^2, differentiable in the weights of a critic from `mlp`.

    grad D(x) is the product of the layers' weights, without the units that are 0 at x: no second derivatives
    are needed. Source: Gulrajani et al., "Improved Training of Wasserstein GANs", equation 3.
    """
    *hidden, last = (layer for layer in critic if isinstance(layer, nn.Linear))
    with torch.no_grad():
        _, *units = itertools.accumulate(hidden, lambda h, layer: layer(h).relu_(), initial=x)
    gradient = last.weight
    for layer, h in zip(reversed(hidden), reversed(units), strict=True):
        gradient = product(gradient * h.sign(), layer.weight)
    return (gradient.norm(dim=1) - 1).square().mean()
