"""Bayes by Hypernet: a hypernetwork a tensor, all fed by one noise; its divergence comes from samples.

Source: Pawlowski, Brock, Lee, Rajchl & Glocker 2017, "Implicit Weight Uncertainty in Neural Networks",
and their code, pawni/BayesByHypernet ("the code" below).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.training import (
    BlockLinear,
    Count,
    CountOrZero,
    Loss,
    Method,
    Minibatches,
    Positive,
    Recorded,
    Row,
    Split,
    Streams,
    adam,
    annealed,
    initial,
    means,
    minimise,
    settings,
)

LEAKY_SLOPE = 0.1  # of the hypernetworks' units, code
# Added to squared distances: the logarithm and its gradient stay finite where two samples meet; code.
TINY = 1e-8
# Codes from which a hypernetwork's scale before training is measured.
PROBES = 256


@settings
class BayesByHypernetConfig:
    """Settings of Bayes by Hypernet; the code's are those of its runs on MNIST."""

    epochs: Count = 100  # passes over the data [code's commands]
    networks: Annotated[int, Field(ge=2)] = 5  # K per step; at least 2, for a sample needs a neighbour [code]
    batch: Count = 100  # images per network [code]
    shared: bool = False  # one batch for all K networks; else K slices [the code's loss has one network]
    noise: Count = 8  # normal numbers a network, or a tensor [the code's commands have 1, 8 and 64]
    independent_noise: bool = False  # own numbers for every tensor [an option of the code]
    hidden: Count = 512  # width of the last of three hidden layers [code: 64, 256, 512]
    sliced: bool = False  # one output channel at a time, named to the hypernetwork [code's slice_last_dim]
    # Neighbours among whole networks (full) or in each weight (weight) [full: code's commands]
    kernel: Literal["full", "weight"] = "full"
    prior_sd: Positive = 1.0  # standard deviation of the prior on weights [code's commands]
    prior_samples: Count = 5  # drawn from the prior each step [code: as many as networks]
    free_epochs: CountOrZero = 5  # without divergence at the start [code]
    rise_epochs: CountOrZero = 15  # in which the divergence's weight then rises to 1/N [code]
    # The noise's share in the rms of all weights at the start; below 1: around a network [code: 1]
    spread: Annotated[float, Field(gt=0, le=1)] = 1.0
    lr: Positive = 1e-4  # of Adam, annealed by a cosine [code: 1e-4, there RMSProp]


class BayesByHypernet(Method):
    """Networks whose tensors are w_t = G_t(z), z ~ N(0, I) the same for all tensors of a network.

    With `independent_noise` every tensor has its own z.

    Minimises, with N training images and the prior N(0, prior_sd^2) on weights and biases,

        E[loss(F(x; w), y)] + (1/N) KL(q(w) || p(w)).

    q has no density that could be computed, so the divergence is estimated from the step's K networks
    and samples of the prior by distances to nearest neighbours (`neighbour_kl`): between whole networks
    (kernel "full"), or in every weight by itself, summed ("weight"; the divergence of the marginals).

    Both are biased with few samples. Where D is large, all distances between whole networks are about
    their mean: for q = N(0, s^2 I) the "full" estimate tends to (D/2) log((1 + s^2) / (2 s^2)), which
    falls with s for ever, so that only the loss holds the weights.

    Differs from the code: every network of a step has its share of the loss, there only the first;
    outputs are scaled per tensor and have a learnt centre; Adam with a falling rate instead of RMSProp;
    log(m/(n-1)) is added once for D dimensions, not D times (a constant).
    """

    Config = BayesByHypernetConfig
    config: BayesByHypernetConfig

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss, self.examples = rng, loss, len(train)
        widths = (max(1, c.hidden // 8), max(1, c.hidden // 2), c.hidden)
        with rng.initialise():
            self.hypernetworks = nn.ModuleList(
                Hypernetwork(shape, c.noise, widths, c.sliced) for shape in self.engine.shapes.values()
            )
        self._place(rng("initialise", "centre"), rng("probes"))
        self.keep("hypernetworks", self.hypernetworks)
        self.optimiser = adam(self.hypernetworks.parameters(), c.lr)
        self.keep("optimiser", self.optimiser)
        self.batches = Minibatches(train, c.batch, 1 if c.shared else c.networks)
        # On the device: a step needs `prior_samples` normal numbers a weight.
        self.noise = torch.Generator(self.device)
        self.recorded = Recorded(self.device, [self.noise])

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch: means over its steps of the loss and of the divergence by N at full weight."""
        self.noise.manual_seed(self.rng("noise", i).initial_seed())
        loss, kl = means(self.recorded.run(self._step, self._rows(i)))
        return {"loss": loss, "kl_nats_per_example": kl}

    def _rows(self, i: int) -> Iterator[Row]:
        """Images, rates and the divergence's weights of the steps of epoch i."""
        c, steps = self.config, len(self.batches)
        rows = self.batches.rows(self.rng("order", i), own=not c.shared)
        for step, row in enumerate(rows, i * steps):
            yield {**row, "lr": annealed(c.lr, step, c.epochs * steps), "kl_weight": self.kl_weight(step)}

    def _step(self, row: Row) -> tuple[Tensor, Tensor]:
        c = self.config
        x, y = self.batches.read(row)
        weights = self.weights(self._noise(c.networks, self.noise))
        loss = self.engine.losses(weights, x, y, self.loss, own=not c.shared).mean()
        kl = self.kl(weights, self.noise)
        minimise(self.optimiser, loss + row["kl_weight"] * kl, row["lr"])
        return loss, kl / self.examples

    def kl_weight(self, step: int) -> float:
        """What the divergence is multiplied by at a step: 0 at first, then rising, then 1/N."""
        epoch = step / len(self.batches)
        risen = (epoch - self.config.free_epochs) / max(self.config.rise_epochs, 1e-9)
        return min(1.0, max(0.0, risen)) / self.examples

    def kl(self, weights: dict[str, Tensor], noise: torch.Generator) -> Tensor:
        """Estimated KL(q || p) in nats from stacked weights [K, *shape] by name: a scalar."""
        c = self.config
        q = torch.cat([w.flatten(1) for w in weights.values()], 1)
        shape = (c.prior_samples, q.shape[1])
        p = c.prior_sd * torch.randn(shape, generator=noise, device=q.device)
        if c.kernel == "full":
            return neighbour_kl(q, p)
        return neighbour_kl(q.unsqueeze(-1), p.unsqueeze(-1)).sum()

    def weights(self, noise: Tensor) -> dict[str, Tensor]:
        """Stacked weights by name, [K, *shape], of normal numbers [K, tensors, noise]."""
        parts = zip(self.engine.shapes, self.hypernetworks, noise.unbind(1), strict=True)
        return {name: hypernetwork(z) for name, hypernetwork, z in parts}

    @torch.no_grad()
    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        noise = torch.cat([self._noise(1, rng) for rng in rngs])
        parts = [self.weights(part) for part in noise.split(64)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _noise(self, count: int, rng: torch.Generator) -> Tensor:
        tensors, numbers = len(self.engine.shapes), self.config.noise
        own = tensors if self.config.independent_noise else 1
        noise = torch.randn((count, own, numbers), generator=rng, device=rng.device)
        return noise.expand(count, tensors, numbers).to(self.device)

    @torch.no_grad()
    def _place(self, centre: torch.Generator, probes: torch.Generator) -> None:
        """Give every tensor the rms sqrt(2 / fan_in) of a trainable network, biases that of their layer.

        `spread` of it comes from the noise, the rest is one network's initial weights.
        """
        spread = self.config.spread
        values = initial(self.engine.shapes, centre)  # of rms 1 / sqrt(3 fan_in)
        fan_in = {n.rpartition(".")[0]: s[1:].numel() for n, s in self.engine.shapes.items() if len(s) > 1}
        z = torch.randn(PROBES, self.config.noise, generator=probes)
        for (name, value), hypernetwork in zip(values.items(), self.hypernetworks, strict=True):
            assert isinstance(hypernetwork, Hypernetwork)
            wanted = spread * math.sqrt(2 / fan_in[name.rpartition(".")[0]])
            hypernetwork.scale.mul_(wanted / hypernetwork(z).square().mean().sqrt())
            hypernetwork.centre.copy_(math.sqrt(6 * (1 - spread**2)) * value)


class Hypernetwork(nn.Module):
    """Maps noise [K, n] to one tensor of every network, [K, *shape]: a centre and what the layers make.

    widths: of the hidden layers, leaky ReLU; without any it is affine. Where sliced, it emits one of
    the first dimension's slices at a time, of which a one-hot vector beside the noise tells it: all
    slices of a network share their noise. Glorot's uniform weights, biases 0. Source: code, `BBHLayer`.
    """

    def __init__(self, shape: torch.Size, noise: int, widths: Sequence[int], sliced: bool) -> None:
        super().__init__()
        self.shape = shape
        slices = shape[0] if sliced and len(shape) > 1 else 1
        self.centre = nn.Parameter(torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("names", torch.eye(slices))
        self.scale: Tensor
        self.names: Tensor
        layers: list[nn.Module] = []
        inputs = noise + slices
        for width in widths:
            layers += [BlockLinear(inputs, width), nn.LeakyReLU(LEAKY_SLOPE)]
            inputs = width
        self.layers = nn.Sequential(*layers, BlockLinear(inputs, shape.numel() // slices))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, noise: Tensor) -> Tensor:
        count, slices = len(noise), len(self.names)
        named = [noise.unsqueeze(1).expand(-1, slices, -1), self.names.expand(count, -1, -1)]
        made = self.layers(torch.cat(named, -1).flatten(0, 1))
        return self.centre + (self.scale * made).view(count, *self.shape)


def neighbour_kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(q || p) in nats, estimated from samples: q [n, ..., d], p [m, ..., d] -> [...].

    (d/n) sum_i log(rho_i / nu_i) + log(m / (n - 1)), rho_i the distance of q's sample i to the nearest
    of p, nu_i to the nearest other one of q. Source: Perez-Cruz 2008, with one neighbour; code.
    """
    d = q.shape[-1]
    logs = _log_nearest(q, p, other=False) - _log_nearest(q, q, other=True)
    return d * logs.mean(0) + math.log(len(p) / (len(q) - 1))


def _log_nearest(x: Tensor, among: Tensor, other: bool) -> Tensor:
    """Log distance of each sample x [n, ..., d] to the nearest of [m, ..., d], [n, ...].

    other: the samples are the same, and none is its own neighbour.
    """
    with torch.no_grad():
        least = x.new_full(x.shape[:-1], math.inf)
        nearest = torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device)
        for j, candidate in enumerate(among):
            squares = (x - candidate).square_().sum(-1)
            if other:
                squares[j].fill_(math.inf)
            nearest.masked_fill_(squares < least, j)
            least = torch.minimum(least, squares)
        nearest = nearest.unsqueeze(-1).expand_as(x)
    # From the chosen pairs alone: the gradient then costs n differences, not n m.
    return 0.5 * (x - among.gather(0, nearest)).square().sum(-1).add(TINY).log()
