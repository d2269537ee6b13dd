"""Standard ensemble: networks trained independently from different initialisations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bench.training import (
    Count,
    Independent,
    Loss,
    Method,
    Minibatches,
    NotNegative,
    Positive,
    Recorded,
    Row,
    Split,
    Streams,
    initial,
    means,
    settings,
)

HE = math.sqrt(6)  # of sqrt(2 / fan_in) to PyTorch's sqrt(1 / (3 fan_in))


@settings
class StandardEnsembleConfig:
    """Settings of the standard ensemble."""

    networks: Count = 10  # trained independently [paper, Table 1: 10 networks]
    epochs: Count = 100  # passes over the data [the paper has 100 for its other baselines, none for this]
    batch: Count = 100  # images per network and step [the MNF and APD code have 100]
    lr: Positive = 1e-3  # annealed by a cosine [Adam's default, reference code on MNIST]
    weight_decay: NotNegative = 0.0  # times weights, added to the gradient [reference code on MNIST: none]
    # Weights at the start: pytorch: uniform, rms sqrt(1 / (3 fan_in)); he: those times sqrt(6), rms
    # sqrt(2 / fan_in) (He et al. 2015); normal: convolutions from N(0, 1) [normal: reference code on MNIST].
    initialisation: Literal["pytorch", "he", "normal"] = "pytorch"


class StandardEnsemble(Method):
    """Independently trained networks; a draw is a seeded permutation of them without replacement.

    Every network minimises the mean loss over its own batches, in its own order, from its own
    initialisation; all train at once on stacked weights, where Adam acts on each number alone.

    Differs from the reference code: PyTorch's default initialisation; there convolution weights
    started from N(0, 1), which handicaps the baseline and alone explains the norms of Table 1 (160 is
    the square root of the second layer's 25,600 weights). `initialisation` "normal" brings that back.
    """

    Config = StandardEnsembleConfig
    config: StandardEnsembleConfig

    def __init__(self, network: nn.Module, config: StandardEnsembleConfig) -> None:
        super().__init__(network, config)
        self.max_members = config.networks

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        c = self.config
        self.rng, self.loss = rng, loss
        self.batches = Minibatches(train, c.batch)
        steps = c.epochs * len(self.batches)
        self.members = Independent(self, c.networks, self._initial, c.lr, steps, c.weight_decay)
        self.recorded = Recorded(self.device)

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch of every network."""
        (loss,) = means(self.recorded.run(self._step, self._rows(i)).double())
        return {"loss": loss}

    def _rows(self, i: int) -> Iterator[Row]:
        """Images and rates of the steps of epoch i."""
        orders = [self.rng("order", i, m) for m in range(self.config.networks)]
        for step, row in enumerate(self.batches.rows_apart(orders), i * len(self.batches)):
            yield {**row, "lr": self.members.rate(step)}

    def _step(self, row: Row) -> tuple[Tensor]:
        x, y = self.batches.read(row)
        losses = self.engine.losses(self.members.weights, x, y, self.loss, own=True)
        self.members.descend(losses, row["lr"])
        return (losses.mean(),)

    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        return self.members.permuted(rngs)

    def _initial(self, network: int) -> dict[str, Tensor]:
        """Weights that one network starts from."""
        rng = self.rng("initialise", network)
        weights = initial(self.engine.shapes, rng)
        for w in weights.values():
            if self.config.initialisation == "he":
                w.mul_(HE)
            elif self.config.initialisation == "normal" and w.dim() > 2:  # of a convolution
                w.normal_(generator=rng)
        return weights
