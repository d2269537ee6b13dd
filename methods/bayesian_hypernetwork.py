"""Bayesian hypernetwork: a flow draws the norm of every filter; directions and biases are learnt.

Source: Krueger, Huang, Islam, Turner, Lacoste & Courville 2017, "Bayesian Hypernetworks", and their
code, CW-Huang/BayesianHypernet ("the code" below).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bench.training import (
    Count,
    CountOrZero,
    LogSd,
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

# The least sd of the affine step; code.
FLOOR = 1e-3
# The largest |log factor| of a coupling: at a high rate Adam would overflow a bare exponential in two steps.
LIMIT = 3.0
# Sd of a coupling's weights at the start, which leave it near the identity; code.
COUPLING_SD = 1e-4


@settings
class BayesianHypernetworkConfig:
    """Settings of the Bayesian hypernetwork; the code's are those of its script on MNIST."""

    epochs: Count = 100  # passes over the data [as the other methods; the code's script has 10]
    networks: Count = 8  # K per step [the code draws one a batch, or one an image]
    batch: Count = 32  # images per network [code]
    shared: bool = False  # one batch for all K networks; else K slices
    couplings: CountOrZero = 4  # of the flow; 0: a diagonal Gaussian [code's regression; its script has 0]
    hidden: Count = 200  # units of a coupling [code]
    log_sd: LogSd = -7.0  # log standard deviation of the scales at the start [code]
    # Of every filter at the start [sqrt(2), He's for ReLU; the code sets it from a batch]
    norm: Positive = 1.414
    prior_sd: Positive = 1.0  # standard deviation of the prior on scales [code: lbda = 1]
    lr: Positive = 1e-4  # of directions, biases and flow, annealed by a cosine [code: Adam at 1e-4]


class BayesianHypernetwork(Method):
    """Networks with W_o = g_o V_o / ||V_o|| for every output unit o, the scales g of all layers from a flow.

    V and the biases are point estimates; g = h(eps), eps ~ N(0, I), is invertible with known
    determinant, so that its density is exact. Minimises, with N training images and g ~ N(0, prior_sd^2),

        E[loss(F(x; w), y) + (1/N) (log q(g) - log p(g))],  log q(g) = log N(eps; 0, I) - log |det dh/deps|,

    where E is the mean over the step's K networks. V's length does not matter, and nothing is asked of
    V and the biases beyond the loss, as in the code.

    h is an elementwise affine step, then couplings (`Flow`) over the scales of all layers together.
    Source: code, `MLPWeightNorm_BHN`; flow `RealNVP` (the code has an autoregressive one as well).

    Differs from the code: convolutions too are weight-normalised, one scale a filter, where it drew
    their whole kernels (on MNIST 800 numbers a filter of the second layer would be too many for a
    dense coupling); K networks a step; directions start as PyTorch's default weights and norms at
    `norm` instead of from the activations on one batch; couplings have no weight normalisation of
    their own, and bounded factors; neither gradients nor probabilities are clipped.
    """

    Config = BayesianHypernetworkConfig
    config: BayesianHypernetworkConfig

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss, self.examples = rng, loss, len(train)
        values = initial(self.engine.shapes, rng("initialise", "points"))
        points = nn.ParameterList(nn.Parameter(v) for v in values.values())
        # Where each layer's scales lie in the flow's output.
        self.units = {name: v.shape[0] for name, v in values.items() if v.dim() > 1}
        with rng.initialise():
            self.flow = Flow(sum(self.units.values()), c.couplings, c.hidden, c.norm, c.log_sd)
        self.keep("points", points)
        self.keep("flow", self.flow)
        self.points = dict(zip(values, points, strict=True))
        self.optimiser = adam([*points.parameters(), *self.flow.parameters()], c.lr)
        self.keep("optimiser", self.optimiser)
        self.batches = Minibatches(train, c.batch, 1 if c.shared else c.networks)
        self.recorded = Recorded(self.device)

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch: means over its steps of the loss and of the divergence by N."""
        loss, kl = means(self.recorded.run(self._step, self._rows(i)))
        return {"loss": loss, "kl_nats_per_example": kl}

    def _rows(self, i: int) -> Iterator[Row]:
        """Images, noise and rates of the steps of epoch i."""
        c, steps = self.config, len(self.batches)
        noise, rows = self.rng("noise", i), self.batches.rows(self.rng("order", i), own=not c.shared)
        for step, row in enumerate(rows, i * steps):
            eps = self._noise(c.networks, noise)
            yield {**row, "eps": eps, "lr": annealed(c.lr, step, c.epochs * steps)}

    def _step(self, row: Row) -> tuple[Tensor, Tensor]:
        c, eps = self.config, row["eps"]
        x, y = self.batches.read(row)
        scales, log_det = self.flow(eps)
        loss = self.engine.losses(self.weights(scales), x, y, self.loss, own=not c.shared).mean()
        kl = log_ratio(eps, scales, log_det, c.prior_sd).mean()
        minimise(self.optimiser, loss + kl / self.examples, row["lr"])
        return loss, kl / self.examples

    def weights(self, scales: Tensor) -> dict[str, Tensor]:
        """Stacked weights by name, [K, *shape], of the scales of all units [K, units]."""
        parts = dict(zip(self.units, scales.split(list(self.units.values()), 1), strict=True))
        return {
            name: normalised(value, parts[name]) if name in parts else value.expand(len(scales), -1)
            for name, value in self.points.items()
        }

    @torch.no_grad()
    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        scales, _ = self.flow(torch.cat([self._noise(1, rng) for rng in rngs]).to(self.device))
        return {name: w.contiguous() for name, w in self.weights(scales).items()}

    def _noise(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.randn(count, self.flow.width, generator=rng)


class Coupling(nn.Module):
    """Scales and shifts one half of permuted numbers, as a hidden layer of ReLU reads off the other half.

    z: [K, d] -> [K, d] and log |det| [K]. (a, b) = halves of z[order]; b' = s(a) b + m(a) with
    log s = LIMIT tanh(. / LIMIT). Source: Dinh et al. 2017, "Density estimation using Real NVP"; code,
    `CoupledDenseLayer`, whose s is a bare exponential plus FLOOR.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.kept = width // 2
        self.register_buffer("order", torch.randperm(width))
        self.order: Tensor
        self.enter = nn.Linear(self.kept, hidden)
        self.leave = nn.Linear(hidden, 2 * (width - self.kept))
        for part in (self.enter, self.leave):
            nn.init.normal_(part.weight, std=COUPLING_SD)
            nn.init.zeros_(part.bias)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z[:, self.order]
        kept, moved = z[:, : self.kept], z[:, self.kept :]
        exponent, shift = self.leave(torch.relu(self.enter(kept))).chunk(2, -1)
        log_scale = LIMIT * torch.tanh(exponent / LIMIT)
        return torch.cat([kept, moved * log_scale.exp() + shift], 1), log_scale.sum(1)


class Flow(nn.Module):
    """An elementwise affine step and couplings in a row: eps [K, d] -> g [K, d] and log |det| [K].

    mean, log_sd: of g at the start, where the couplings are near the identity. Without couplings g is
    normal with independent entries.
    """

    def __init__(self, width: int, couplings: int, hidden: int, mean: float, log_sd: float) -> None:
        super().__init__()
        self.width = width
        self.mean = nn.Parameter(torch.full((width,), mean))
        self.log_sd = nn.Parameter(torch.full((width,), log_sd))
        self.couplings = nn.ModuleList(Coupling(width, hidden) for _ in range(couplings))

    def forward(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = floored(self.log_sd)
        z, log_det = self.mean + log_scale.exp() * eps, log_scale.sum().expand(len(eps))
        for coupling in self.couplings:
            z, more = coupling(z)
            log_det = log_det + more
        return z, log_det


def floored(exponent: Tensor) -> Tensor:
    """log(exp(exponent) + FLOOR)."""
    return torch.logaddexp(exponent, exponent.new_full((), math.log(FLOOR)))  # filled in on the device


def log_ratio(eps: Tensor, scales: Tensor, log_det: Tensor, prior_sd: float) -> Tensor:
    """log q(g) - log p(g) of scales g [K, d] = h(eps), in nats: [K]. Its mean under q is KL(q || p).

    The normal densities' constants cancel. log_det: log |det dh/deps|, [K]. p = N(0, prior_sd^2).
    """
    squares = (scales / prior_sd).square() - eps.square()
    return 0.5 * squares.sum(1) + eps.shape[1] * math.log(prior_sd) - log_det


def normalised(direction: Tensor, scales: Tensor) -> Tensor:
    """Stacked weights g_o V_o / ||V_o||: V [O, ...], g [K, O] -> [K, O, ...]."""
    unit = direction.flatten(1)
    unit = (unit / unit.norm(dim=1, keepdim=True)).view(direction.shape)
    return scales.view(*scales.shape, *[1] * (direction.dim() - 1)) * unit
