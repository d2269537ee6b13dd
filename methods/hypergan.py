"""HyperGAN: a generator per layer, fed by one mixer, trained through the task's loss.

Source: Ratzlaff & Li, "HyperGAN: A Generative Model for Diverse, Performant Neural Networks".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.training import (
    BlockLinear,
    Count,
    CountOrZero,
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
# Networks whose accuracy on validation images decides whether training has come to rest.
WATCHED = 10


@settings
class HyperGANConfig:
    """Settings of HyperGAN. The paper states neither beta, nor learning rates, nor K, nor epochs."""

    epochs: Count = 100  # passes of all K networks together over the data [100 as the paper's MNF and APD]
    patience: CountOrZero = 0  # epochs without a better validation accuracy that end the fit; 0: none do
    networks: Annotated[int, Field(ge=2)] = 16  # K per step, normalised over them [the reference code has 32]
    batch: Count = 32  # images per network [the reference code has 32]
    shared: bool = False  # one batch for all K networks; else K slices [true: reference code]
    averaged: bool = False  # one network a step, the mean of K; needs shared [true: reference code on CIFAR]
    code: Count = 256  # j, numbers that the mixer starts from [paper, section 4.1]
    latent: Count = 128  # d, numbers that a generator starts from [paper, section 4.1; 256 on CIFAR]
    hidden: Count = 512  # units of both hidden layers of mixer, generators and D [paper, section 4.1]
    # Of ELU in the generators; 0: ReLU [the paper has 0, the reference code on MNIST 1]
    alpha: NotNegative = 1.0
    alpha_mixer: NotNegative = 1.0  # of ELU in the mixer; 0: ReLU [the paper and the reference code have 0]
    biases: bool = True  # the networks have biases [the reference code on MNIST has none]
    mixer: bool = True  # without: q_i ~ N(0, I_d), independent per layer [paper, section 5]
    input_noise: NotNegative = 0.0  # sd of noise added to the mixer's input [reference code: 0.01]
    discriminator: bool = True  # without: beta = 0 [paper, section 5]
    beta: NotNegative = 1.0  # weight of the adversarial term [paper, equation 2]
    saturating: bool = False  # adversarial term log(1 - D(q)); else -log D(q) [true: paper, equation 2]
    summed: bool = False  # adversarial term summed over layers; else its mean [true: paper, equation 2]
    fresh_codes: bool = False  # D learns from codes drawn after the mixer's step [true: reference code]
    scaled: bool = True  # outputs start at a scale per layer; else at that of PyTorch's layers, about 0.4
    # Of sqrt(2 / fan_in), the rms of scaled outputs at the start [0.41: PyTorch's own start of a layer]
    gain: Positive = 0.41
    # Batch normalisation's; frozen: of many codes, batch: of K codes drawn with each network
    statistics: Literal["frozen", "batch"] = "frozen"
    lr: Positive = 1e-3  # of the mixer [the reference code has 5e-4]
    lr_generators: Positive = 1e-3  # of the generators' hidden layers [the reference code has 1e-4]
    lr_last: Positive = 3e-4  # of the generators' last layers [the reference code has 1e-4]
    lr_discriminator: Positive = 1e-4  # of the discriminator [reference code]
    schedule: Literal["cosine", "constant"] = "cosine"  # of all rates [the reference code's are constant]
    weight_decay: NotNegative = 0.0  # mixer and generators [reference code: 1e-4 of 3,200 times mean loss]
    decay_discriminator: NotNegative = 0.0  # weight decay of the discriminator [reference code: 1e-4]

    def __post_init__(self) -> None:
        if self.averaged and not self.shared:
            raise ValueError("averaged networks are one network, which has one batch; set shared = true")


class HyperGAN(Method):
    """Networks drawn by one forward pass: s ~ N(0, I_j), [q_1..q_N] = Q(s), theta_i = G_i(q_i).

    Minimises over Q and G, with D on R^d shared by all layers,

        E[loss(F(x; theta), y)] + beta * mean_i softplus(-D(q_i))

    while D minimises the binary cross-entropy of prior samples p ~ N(0, I_d) against codes. This is
    the non-saturating form of the paper's equations 2 and 3; with `saturating` and `summed` the second term
    is that of equation 2, beta * sum_i log(1 - D(q_i)).

    Differs from the reference code: there D learned prior -> 0, code -> 1 while the mixer maximised
    log D(code), so that both pushed codes away from the prior; here codes are pulled towards it. D
    ends in a logit, without a sigmoid before the loss. D's gradients are cleared every step and its
    codes are detached. Codes are not pretrained: that loss was below its stopping value at the
    start.

    Differs from the paper: mixer and generators have batch normalisation, as in the code, and emit the
    biases too (`biases`); outputs are scaled per layer (`scaled`, `gain`); the K networks of a step see own
    slices of the data (`shared`); units are ELU. The variant `published` follows the paper in these, and the
    code where the paper is silent. Without the mixer codes are the prior itself and a discriminator has
    nothing to act on, so `no-both` equals `no-mixer`, though the paper reports them apart. docs/hypergan.md
    says what these settings change.

    Batch normalisation uses the statistics of the step's K codes in training. For drawing they are
    recomputed from fixed fresh codes and frozen, so that a network does not depend on its
    batch-mates; where `statistics` is "batch", every network has K - 1 batch-mates of its own, drawn from its
    generator and dropped. Where networks are `averaged`, a drawn network is the mean of K.
    """

    Config = HyperGANConfig
    config: HyperGANConfig

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss, self.val = rng, loss, val
        self.targets = self._targets()
        layers = len(self.targets)
        outputs = [sum(s.numel() for s in shapes.values()) for shapes in self.targets.values()]
        with rng.initialise():
            self.mixer = self._mlp(c.code, layers * c.latent, c.alpha_mixer) if c.mixer else nn.Identity()
            self.generators = nn.ModuleList(self._mlp(c.latent, out, c.alpha) for out in outputs)
            self.critic = nn.Sequential(
                nn.Linear(c.latent, c.hidden), nn.ReLU(),
                nn.Linear(c.hidden, c.hidden), nn.ReLU(),
                nn.Linear(c.hidden, 1),
            )  # fmt: skip
        self.keep("mixer", self.mixer)
        self.keep("generators", self.generators)
        self.keep("critic", self.critic)
        # The best of `_watch` so far, and epochs since.
        self.best = self.keep("best", torch.zeros(2, dtype=torch.float64))
        self._optimise()
        self.batches = Minibatches(train, c.batch, 1 if c.shared else c.networks)
        self.recorded = Recorded(self.device)
        self._frozen = False

    def _optimise(self) -> None:
        """Adam for mixer and generators, each part at its own rate, and for the discriminator."""
        c = self.config
        bodies, lasts = zip(*((g[:-1], g[-1]) for g in self._generators()), strict=True)
        groups = [
            {"params": list(self.mixer.parameters()), "relative": 1.0},
            {"params": [p for body in bodies for p in body.parameters()], "relative": c.lr_generators / c.lr},
            {"params": [p for last in lasts for p in last.parameters()], "relative": c.lr_last / c.lr},
        ]
        groups = [group for group in groups if group["params"]]  # there may be no mixer
        self.optimiser = adam(groups, c.lr, betas=(0.5, 0.9), weight_decay=c.weight_decay)
        self.keep("optimiser", self.optimiser)
        self.critic_optimiser = adam(
            self.critic.parameters(), c.lr_discriminator, betas=(0.5, 0.9), weight_decay=c.decay_discriminator
        )
        self.keep("critic_optimiser", self.critic_optimiser)

    def _generators(self) -> list[nn.Sequential]:
        return [g for g in self.generators if isinstance(g, nn.Sequential)]

    def _mlp(self, inputs: int, outputs: int, alpha: float) -> nn.Sequential:
        """Two hidden layers with batch normalisation before the activation."""
        c = self.config
        layers: list[nn.Module] = []
        for width in (inputs, c.hidden):
            normalise = nn.BatchNorm1d(c.hidden, track_running_stats=c.statistics == "frozen")
            layers += [BlockLinear(width, c.hidden), normalise, nn.ELU(alpha)]
        return nn.Sequential(*layers, BlockLinear(c.hidden, outputs))

    def rounds(self) -> int:
        return self.config.epochs

    def rested(self) -> bool:
        """Whether validation accuracy has not risen for `patience` epochs."""
        return 0 < self.config.patience <= self.best[1].item()

    def round(self, i: int) -> dict[str, float]:
        """One epoch: steps of K networks, each followed by one step of the discriminator."""
        self._frozen = False
        self._mode(True)
        loss, adversarial, critic = means(self.recorded.run(self._step, self._rows(i)))
        if self.config.patience:
            self._watch(i)
        return {"loss": loss, "adversarial_loss": adversarial, "discriminator_loss": critic}

    def _watch(self, i: int) -> None:
        """Note how good single networks are on validation data: accuracy, of a regression minus the loss."""
        outputs, labels = self.sample(WATCHED, i, "watch").logits(self.val.images), self.val.labels.cpu()
        if labels.is_floating_point():
            found = -self.loss(outputs, labels).double().mean().item()
        else:
            found = (outputs.argmax(-1) == labels).double().mean().item()
        best, since = self.best.tolist()
        better = i == 0 or found > best
        self.best.copy_(torch.tensor([found, 0.0] if better else [best, since + 1]))

    def _rows(self, i: int) -> Iterator[Row]:
        """Images, noise and rates of the steps of epoch i."""
        c, steps = self.config, len(self.batches)
        noise, prior, fresh = self.rng("codes", i), self.rng("prior", i), self.rng("fresh", i)
        shape = (c.networks, len(self.targets), c.latent)
        for step, row in enumerate(self.batches.rows(self.rng("order", i), own=not c.shared), i * steps):
            row = {**row, "noise": self._noise(c.networks, noise)}
            if self._adversarial:
                row["prior"] = torch.randn(shape, generator=prior)
                if c.fresh_codes:
                    row["fresh"] = self._noise(c.networks, fresh)
            # The discriminator's too: at full rate it would outrun a mixer that has come to rest.
            rates = {"lr": c.lr, "lr_discriminator": c.lr_discriminator}
            if c.schedule == "cosine":
                rates = {name: annealed(lr, step, c.epochs * steps) for name, lr in rates.items()}
            yield {**row, **rates}

    def _step(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        x, y = self.batches.read(row)
        codes = self.codes(row["noise"])
        weights = self._weights(codes)
        if c.averaged:
            weights = _averaged(weights)
        loss = self.engine.losses(weights, x, y, self.loss, own=not c.shared).mean()
        adversarial = critic = torch.zeros_like(loss)
        if self._adversarial:
            adversarial = self.adversarial(codes)
        minimise(self.optimiser, loss + c.beta * adversarial, row["lr"])
        if self._adversarial:
            if c.fresh_codes:
                with torch.no_grad():
                    codes = self.codes(row["fresh"])
            critic = self.discriminate(row["prior"], codes.detach())
            minimise(self.critic_optimiser, critic, row["lr_discriminator"])
        return loss, adversarial, critic

    @property
    def _adversarial(self) -> bool:
        """Whether there is a discriminator, and a mixer that it acts on."""
        return self.config.discriminator and self.config.mixer

    def adversarial(self, codes: Tensor) -> Tensor:
        """What the mixer minimises of codes [K, N, d]: small where D takes them for prior.

        softplus(-D(q)) = -log of the probability of prior, or where `saturating` -softplus(D(q)) =
        log of that of a code; mean over networks, and over layers unless `summed`.
        """
        logits = self.critic(codes.flatten(0, 1))
        term = -F.softplus(logits) if self.config.saturating else F.softplus(-logits)
        return term.mean() * (codes.shape[1] if self.config.summed else 1)

    def discriminate(self, prior: Tensor, codes: Tensor) -> Tensor:
        """Binary cross-entropy of D in nats: prior -> 1, codes -> 0; 2 ln 2 where it cannot tell."""
        real, fake = self.critic(prior.flatten(0, 1)), self.critic(codes.flatten(0, 1))
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def codes(self, s: Tensor) -> Tensor:
        """Layer embeddings [K, N, d] of inputs s ([K, j] with the mixer, [K, N d] without)."""
        return self.mixer(s).unflatten(1, (len(self.targets), self.config.latent))

    @torch.no_grad()
    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        c = self.config
        self._freeze()
        if c.averaged or c.statistics == "batch":
            parts = [self._among_others(rng) for rng in rngs]
        else:
            s = torch.cat([self._noise(1, rng) for rng in rngs]).to(self.device)
            parts = [self._weights(self.codes(part)) for part in s.split(64)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _among_others(self, rng: torch.Generator) -> dict[str, Tensor]:
        """One network of K that are drawn together, [1, *shape] by name: their mean or the first."""
        weights = self._weights(self.codes(self._noise(self.config.networks, rng).to(self.device)))
        return _averaged(weights) if self.config.averaged else {n: w[:1] for n, w in weights.items()}

    def _noise(self, count: int, rng: torch.Generator) -> Tensor:
        c = self.config
        s = torch.randn(count, c.code if c.mixer else len(self.targets) * c.latent, generator=rng)
        if c.mixer and c.input_noise:
            s += c.input_noise * torch.randn(s.shape, generator=rng)
        return s

    def _weights(self, codes: Tensor) -> dict[str, Tensor]:
        """Stacked weights by name, [K, *shape]."""
        c = self.config
        weights = {n: codes.new_zeros(len(codes), *s) for n, s in self.engine.shapes.items() if not c.biases}
        for i, (shapes, generator) in enumerate(zip(self.targets.values(), self.generators, strict=True)):
            flat = generator(codes[:, i])
            if c.scaled:
                fan_in = max(shape[1:].numel() for shape in shapes.values())
                flat = flat * (c.gain * math.sqrt(2 / fan_in) / untrained_rms(c.alpha))
            sizes = [shape.numel() for shape in shapes.values()]
            for (name, shape), part in zip(shapes.items(), flat.split(sizes, 1), strict=True):
                weights[name] = part.unflatten(1, shape)
        return weights

    def _targets(self) -> dict[str, dict[str, torch.Size]]:
        """Shapes of weight and bias by layer: one generator emits both, or the weight alone."""
        targets: dict[str, dict[str, torch.Size]] = {}
        for name, shape in self.engine.shapes.items():
            if self.config.biases or len(shape) > 1:
                targets.setdefault(name.rpartition(".")[0], {})[name] = shape
        return targets

    def _mode(self, train: bool) -> None:
        self.mixer.train(train)
        self.generators.train(train)

    @torch.no_grad()
    def _freeze(self) -> None:
        """Compute batch normalisation's statistics from fixed fresh codes, once after a change."""
        self._mode(False)
        if self._frozen or self.config.statistics == "batch":
            return
        h = self._noise(STATISTICS_CODES, self.rng("statistics")).to(self.device)
        h = _settle(self.mixer, h) if self.config.mixer else h
        codes = h.unflatten(1, (len(self.targets), self.config.latent))
        for i, generator in enumerate(self._generators()):
            _settle(generator[:-1], codes[:, i])  # the last layer is wide and has no statistics
        self._frozen = True


def _averaged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of stacked weights, [1, *shape] by name."""
    return {name: w.mean(0, keepdim=True) for name, w in weights.items()}


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
