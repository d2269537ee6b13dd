"""SWAG: networks from a Gaussian that is fitted to the path of stochastic gradient descent.

Source: Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.training import (
    Count,
    Loss,
    Method,
    Minibatches,
    NotNegative,
    Positive,
    Share,
    Split,
    Streams,
    initial,
    settings,
    stacked,
)

MIN_VARIANCE = 1e-30  # authors' code, var_clamp: what rounding may leave below zero


@settings
class SWAGConfig:
    """Settings of SWAG."""

    epochs: Annotated[int, Field(ge=2)] = 300  # passes over the data [paper, appendix: 300 on CIFAR-10]
    collect_from: Share = 0.5  # share of the epochs, at most all but the last two [paper: epoch 161 of 300]
    rank: Annotated[int, Field(ge=2)] = 20  # columns of the deviation matrix [paper, section 5: K = 20]
    batch: Count = 100  # images per step [as the other methods here; paper: 128]
    lr: Positive = 0.01  # constant [the paper's SWA rate on CIFAR with VGG-16]
    momentum: Share = 0.9  # of SGD [authors' code]
    weight_decay: NotNegative = 5e-4  # of SGD [paper, on CIFAR with VGG-16]

    @property
    def first(self) -> int:
        """The first epoch whose weights are collected, counted from 0."""
        return min(int(self.collect_from * self.epochs), self.epochs - 2)  # two are the least to draw from


class SWAG(Method):
    """A Gaussian over weights with the mean and the covariance of an SGD path of constant rate.

    After every epoch from `first` on, with the weights theta_i of the i-th of them [P]:

        m_i = m_(i-1) + (theta_i - m_(i-1)) / i,    s_i = s_(i-1) + (theta_i^2 - s_(i-1)) / i,
        D = the last `rank` columns theta_i - m_i.

    A draw, with K columns collected, sd^2 = max(s - m^2, 1e-30), z1 ~ N(0, I_P) and z2 ~ N(0, I_K):

        theta = m + sd z1 / sqrt(2) + D z2 / sqrt(2 (K - 1)).

    Source: Maddox et al. 2019, algorithm 1 and section 3.3.

    Differs from the paper: the rate is constant from the start (there it falls to that constant in the
    first half of the fit); moments are float64, since float32 would lose the difference of s and m^2;
    no statistics of BatchNorm are made again, since no network here has any.
    """

    Config = SWAGConfig
    config: SWAGConfig

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c, shapes = self.config, self.engine.shapes
        self.rng, self.loss = rng, loss
        self.batches = Minibatches(train, c.batch)
        # One network as a stack of one: [1, *shape].
        holder = nn.ParameterList(nn.Parameter(w[None]) for w in initial(shapes, rng("initialise")).values())
        self.keep("weights", holder)
        self.weights = dict(zip(shapes, holder, strict=True))
        self.optimiser = torch.optim.SGD(
            holder.parameters(), c.lr, momentum=c.momentum, weight_decay=c.weight_decay
        )
        self.keep("optimiser", self.optimiser)
        size = sum(shape.numel() for shape in shapes.values())
        self.collected = self.keep("collected", torch.zeros((), dtype=torch.int64))
        self.mean = self.keep("mean", torch.zeros(size, dtype=torch.float64))
        self.square = self.keep("square", torch.zeros(size, dtype=torch.float64))
        self.deviations = self.keep("deviations", torch.zeros(c.rank, size))

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch; from `first` on its last weights are collected."""
        total = 0.0
        for x, y in self.batches.epoch(self.rng("order", i), own=False):
            loss = self.engine.losses(self.weights, x, y, self.loss).mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.item()
        if i >= self.config.first:
            self.collect(torch.cat([w.detach().flatten() for w in self.weights.values()]))
        return {"loss": total / len(self.batches)}

    def collect(self, theta: Tensor) -> None:
        """Take weights [P] into the moments and the deviation matrix, whose oldest row gives way."""
        row = int(self.collected) % self.config.rank
        self.collected += 1
        self.mean += (theta - self.mean) / self.collected
        self.square += (theta.double().square() - self.square) / self.collected
        self.deviations[row] = theta - self.mean

    def ready(self) -> bool:
        return int(self.collected) >= 2

    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        columns = min(int(self.collected), self.config.rank)
        sd = (self.square - self.mean.square()).clamp(min=MIN_VARIANCE).sqrt()
        # All normal numbers of a network from its own generator, on the CPU as that is.
        noise = torch.stack([torch.randn(len(sd) + columns, generator=rng) for rng in rngs])
        z1, z2 = noise.to(self.device).split([len(sd), columns], 1)  # [M, P], [M, K]
        diagonal = sd.float() * z1 / math.sqrt(2)
        low_rank = z2 @ self.deviations[:columns] / math.sqrt(2 * (columns - 1))
        return stacked(self.mean.float() + diagonal + low_rank, self.engine.shapes)
