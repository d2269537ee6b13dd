"""HyperGAN: a generator per layer, fed by one mixer, trained through the task's loss.

Source: Ratzlaff & Li, "HyperGAN: A Generative Model for Diverse, Performant Neural Networks".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.training import (
    BlockLinear,
    Count,
    Loss,
    Method,
    Minibatches,
    NotNegative,
    Positive,
    Recorded,
    Row,
    Split,
    Streams,
    adam,
    annealed,
    means,
    minimise,
    settings,
)

# Fresh codes from which the frozen statistics of batch normalisation are computed.
STATISTICS_CODES = 2048


@settings
class HyperGANConfig:
    """Settings of HyperGAN. The paper states neither beta, nor learning rates, nor K, nor epochs."""

    epochs: Count = 100  # passes of all K networks together over the data; the paper's MNF and APD have 100
    networks: Annotated[int, Field(ge=2)] = 16  # K per step, normalised over them; the reference code has 32
    batch: Count = 32  # images per network; the reference code has 32
    shared: bool = False  # one batch for all K networks, as in the reference code; else K slices
    code: Count = 256  # j, paper section 4.1
    latent: Count = 128  # d on MNIST, paper section 4.1; 256 on CIFAR
    hidden: Count = 512  # paper section 4.1, two hidden layers everywhere
    # Of ELU in mixer and generators; 1: the code on MNIST, 0: ReLU, as the paper says.
    alpha: NotNegative = 0.25
    mixer: bool = True  # without: q_i ~ N(0, I_d), independent per layer (paper section 5)
    discriminator: bool = True  # without: beta = 0 (paper section 5)
    beta: NotNegative = 1.0  # weight of the adversarial term, equation 2
    scaled: bool = True  # generator outputs start at rms sqrt(2 / fan_in) instead of PyTorch's
    lr: Positive = 1e-3  # mixer and generators, annealed by a cosine; the reference code has 5e-4, 1e-4
    lr_discriminator: Positive = 1e-4  # reference code
    weight_decay: NotNegative = 0.0  # reference code: 1e-4; see the class on why not here


class HyperGAN(Method):
    """Networks drawn by one forward pass: s ~ N(0, I_j), [q_1..q_N] = Q(s), theta_i = G_i(q_i).

    Minimises over Q and G, with D on R^d shared by all layers,

        E[loss(F(x; theta), y)] + beta * mean_i softplus(-D(q_i))

    while D minimises the binary cross-entropy of prior samples p ~ N(0, I_d) against codes. This is
    the non-saturating form of the paper's equations 2 and 3.

    Differs from the reference code: there D learned prior -> 0, code -> 1 while the mixer maximised
    log D(code), so that both pushed codes away from the prior; here codes are pulled towards it. D
    ends in a logit, without a sigmoid before the loss. D's gradients are cleared every step and its
    codes are detached. Codes are not pretrained: that loss was below its stopping value at the
    start. No weight decay: once the loss is small, decay wins over it in the weights that carry the
    code, and all drawn networks become one (measured).

    Differs from the paper: mixer and generators have batch normalisation, as in the code, and emit the
    biases too; outputs are scaled per layer (`scaled`), so that norms compare with Table 1 only for
    the unscaled variant; the K networks of a step see own slices of the data (`shared`). Without the
    mixer codes are the prior itself and a discriminator has nothing to act on, so `no-both` equals
    `no-mixer`, though the paper reports them apart. ELU with alpha 0.25 lies between the paper's ReLU
    and the code's ELU: what the mean of the hidden units feeds into a weight is the same for every
    code, and the larger that mean (0.40 for ReLU, 0.34, 0.16 for ELU), the faster this shared part
    learns and takes over. Networks then become accurate sooner, and differ by their norms and hardly
    by their directions (docs/measurements.md).

    Batch normalisation uses the statistics of the step's K codes in training. For drawing they are
    recomputed from fixed fresh codes and frozen, so that a network does not depend on its
    batch-mates.
    """

    Config = HyperGANConfig
    config: HyperGANConfig

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss = rng, loss
        self.targets = self._targets()
        layers = len(self.targets)
        outputs = [sum(s.numel() for s in shapes.values()) for shapes in self.targets.values()]
        with rng.initialise():
            self.mixer = self._mlp(c.code, layers * c.latent) if c.mixer else nn.Identity()
            self.generators = nn.ModuleList(self._mlp(c.latent, out) for out in outputs)
            self.critic = nn.Sequential(
                nn.Linear(c.latent, c.hidden), nn.ReLU(),
                nn.Linear(c.hidden, c.hidden), nn.ReLU(),
                nn.Linear(c.hidden, 1),
            )  # fmt: skip
        self.keep("mixer", self.mixer)
        self.keep("generators", self.generators)
        self.keep("critic", self.critic)
        weights = [*self.mixer.parameters(), *self.generators.parameters()]
        self.optimiser = adam(weights, c.lr, betas=(0.5, 0.9), weight_decay=c.weight_decay)
        self.keep("optimiser", self.optimiser)
        self.critic_optimiser = adam(self.critic.parameters(), c.lr_discriminator, betas=(0.5, 0.9))
        self.keep("critic_optimiser", self.critic_optimiser)
        self.batches = Minibatches(train, c.batch, 1 if c.shared else c.networks)
        self.recorded = Recorded(self.device)
        self._frozen = False

    def _mlp(self, inputs: int, outputs: int) -> nn.Sequential:
        """Two hidden layers with batch normalisation before the activation."""
        hidden = self.config.hidden
        layers: list[nn.Module] = []
        for width in (inputs, hidden):
            layers += [BlockLinear(width, hidden), nn.BatchNorm1d(hidden), nn.ELU(self.config.alpha)]
        return nn.Sequential(*layers, BlockLinear(hidden, outputs))

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch: steps of K networks, each followed by one step of the discriminator."""
        self._frozen = False
        self._mode(True)
        loss, adversarial, critic = means(self.recorded.run(self._step, self._rows(i)))
        return {"loss": loss, "adversarial_loss": adversarial, "discriminator_loss": critic}

    def _rows(self, i: int) -> Iterator[Row]:
        """Images, noise and rates of the steps of epoch i."""
        c, steps = self.config, len(self.batches)
        noise, prior = self.rng("codes", i), self.rng("prior", i)
        shape = (c.networks, len(self.targets), c.latent)
        for step, row in enumerate(self.batches.rows(self.rng("order", i), own=not c.shared), i * steps):
            yield {
                **row,
                "noise": self._noise(c.networks, noise),
                **({"prior": torch.randn(shape, generator=prior)} if self._adversarial else {}),
                "lr": annealed(c.lr, step, c.epochs * steps),
                # Annealed too: at full rate it would outrun a mixer that has come to rest.
                "lr_discriminator": annealed(c.lr_discriminator, step, c.epochs * steps),
            }

    def _step(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        x, y = self.batches.read(row)
        codes = self.codes(row["noise"])
        loss = self.engine.losses(self._weights(codes), x, y, self.loss, own=not c.shared).mean()
        adversarial = critic = torch.zeros_like(loss)
        if self._adversarial:
            adversarial = self.adversarial(codes)
        minimise(self.optimiser, loss + c.beta * adversarial, row["lr"])
        if self._adversarial:
            critic = self.discriminate(row["prior"], codes.detach())
            minimise(self.critic_optimiser, critic, row["lr_discriminator"])
        return loss, adversarial, critic

    @property
    def _adversarial(self) -> bool:
        """Whether there is a discriminator, and a mixer that it acts on."""
        return self.config.discriminator and self.config.mixer

    def adversarial(self, codes: Tensor) -> Tensor:
        """Mean over networks and layers of softplus(-D(q)); small where D takes codes [K, N, d] for prior."""
        return F.softplus(-self.critic(codes.flatten(0, 1))).mean()

    def discriminate(self, prior: Tensor, codes: Tensor) -> Tensor:
        """Binary cross-entropy of D in nats: prior -> 1, codes -> 0; 2 ln 2 where it cannot tell."""
        real, fake = self.critic(prior.flatten(0, 1)), self.critic(codes.flatten(0, 1))
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def codes(self, s: Tensor) -> Tensor:
        """Layer embeddings [K, N, d] of inputs s ([K, j] with the mixer, [K, N d] without)."""
        return self.mixer(s).unflatten(1, (len(self.targets), self.config.latent))

    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        self._freeze()
        s = torch.cat([self._noise(1, rng) for rng in rngs]).to(self.device)
        with torch.no_grad():
            parts = [self._weights(self.codes(part)) for part in s.split(64)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _noise(self, count: int, rng: torch.Generator) -> Tensor:
        c = self.config
        width = c.code if c.mixer else len(self.targets) * c.latent
        return torch.randn(count, width, generator=rng)

    def _weights(self, codes: Tensor) -> dict[str, Tensor]:
        """Stacked weights by name, [K, *shape]."""
        weights: dict[str, Tensor] = {}
        for i, (shapes, generator) in enumerate(zip(self.targets.values(), self.generators, strict=True)):
            flat = generator(codes[:, i])
            if self.config.scaled:
                fan_in = max(shape[1:].numel() for shape in shapes.values())
                flat = flat * (math.sqrt(2 / fan_in) / untrained_rms(self.config.alpha))
            sizes = [shape.numel() for shape in shapes.values()]
            for (name, shape), part in zip(shapes.items(), flat.split(sizes, 1), strict=True):
                weights[name] = part.unflatten(1, shape)
        return weights

    def _targets(self) -> dict[str, dict[str, torch.Size]]:
        """Shapes of weight and bias by layer: one generator emits both."""
        targets: dict[str, dict[str, torch.Size]] = {}
        for name, shape in self.engine.shapes.items():
            targets.setdefault(name.rpartition(".")[0], {})[name] = shape
        return targets

    def _mode(self, train: bool) -> None:
        self.mixer.train(train)
        self.generators.train(train)

    @torch.no_grad()
    def _freeze(self) -> None:
        """Compute batch normalisation's statistics from fixed fresh codes, once after a change."""
        self._mode(False)
        if self._frozen:
            return
        h = self._noise(STATISTICS_CODES, self.rng("statistics")).to(self.device)
        h = _settle(self.mixer, h) if self.config.mixer else h
        codes = h.unflatten(1, (len(self.targets), self.config.latent))
        for i, generator in enumerate(self.generators):
            assert isinstance(generator, nn.Sequential)
            _settle(generator[:-1], codes[:, i])  # the last layer is wide and has no statistics
        self._frozen = True


def untrained_rms(alpha: float) -> float:
    """Root mean square of what a generator emits before training.

    A last layer in PyTorch's default initialisation has weights of variance 1 / (3 width), so that its
    output has E[h^2] / 3, with h = ELU(x), x ~ N(0, 1) behind batch normalisation:
    E[h^2] = 1/2 + alpha^2 E[(e^x - 1)^2; x < 0].
    """
    below = math.exp(2) * _normal(-2) - 2 * math.exp(0.5) * _normal(-1) + 0.5  # 0.145
    return math.sqrt((0.5 + alpha**2 * below) / 3)


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _settle(network: nn.Module, x: Tensor) -> Tensor:
    """Set every batch normalisation's running statistics to those of this batch; returns the output."""
    assert isinstance(network, nn.Sequential)
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.copy_(x.mean(0))
            layer.running_var.copy_(x.var(0, unbiased=False))
        x = layer(x)
    return x
