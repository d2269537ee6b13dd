"""Deep ensembles: independent networks, a proper scoring rule, and adversarial training.

Source: Lakshminarayanan, Pritzel & Blundell, "Simple and Scalable Predictive Uncertainty Estimation
using Deep Ensembles", NeurIPS 2017.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

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
    gaussian_nll,
    initial,
    means,
    settings,
)


@settings
class DeepEnsembleConfig:
    """Settings of the deep ensemble."""

    networks: Count = 5  # M networks [paper, section 3: 5 in its experiments unless said otherwise]
    epochs: Count = 100  # passes over the data [as the standard ensemble; the paper: 40, for regression]
    batch: Count = 100  # images per network and step [paper, section 3.1]
    lr: Positive = 1e-3  # annealed by a cosine [Adam's default; the paper's fixed 0.1 is for its regressions]
    epsilon: NotNegative = 0.01  # size of the adversarial step, of each feature's range [paper, section 2.3]


class DeepEnsemble(Method):
    """Networks trained apart, each on its images and on the same images moved against it.

    With a proper scoring rule l, every network minimises on its own batches, in its own order, from
    its own initialisation

        l(theta, x, y) + l(theta, x', y),  x' = x + epsilon range sign(grad_x l(theta, x, y)),

    where the range is each input feature's largest less its smallest value in the training data, and
    x' is a constant. Classification: l is the cross-entropy. Regression: the network has two outputs,
    mean and raw variance, and l is the Gaussian negative log-likelihood (`gaussian_nll`). A draw is a
    seeded permutation of the networks without replacement; what is mixed is their predictions.

    Source: paper, algorithm 1 and equation 1. Differs from it: the learning rate is annealed; images
    that training augments are moved after that.
    """

    Config = DeepEnsembleConfig
    config: DeepEnsembleConfig

    def __init__(self, network: nn.Module, config: DeepEnsembleConfig) -> None:
        super().__init__(network, config)
        self.max_members = config.networks

    def adapt(self, network: nn.Module) -> nn.Module:
        """A regression network with an output more, its raw variance; others as they are.

        A single output says that it is one: classes are two at least.
        """
        adapted = copy.deepcopy(network)
        linear = [module for module in adapted.modules() if isinstance(module, nn.Linear)]
        if not linear or linear[-1].out_features != 1:
            return network
        last = linear[-1]
        last.out_features = 2
        # Values stand for nothing: the weights of a network are always given to it.
        last.weight = nn.Parameter(last.weight.detach().repeat(2, 1))
        if last.bias is not None:
            last.bias = nn.Parameter(last.bias.detach().repeat(2))
        return adapted

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        """Raises ValueError for regression of several labels: only one has a variance here."""
        c = self.config
        regression = train.labels.is_floating_point()
        if regression and train.labels.shape[1:] != (1,):
            raise ValueError(f"{train.name}: expected labels [N, 1], found {list(train.labels.shape)}")
        self.rng, self.loss = rng, gaussian_nll if regression else loss
        # [C, H, W], or [D]: how far each feature of an input is moved.
        self.move = c.epsilon * (train.images.amax(0) - train.images.amin(0))
        self.batches = Minibatches(train, c.batch)
        self.members = Independent(self, c.networks, self._initial, c.lr, c.epochs * len(self.batches))
        self.recorded = Recorded(self.device)

    def _initial(self, network: int) -> dict[str, Tensor]:
        """Weights that one network starts from."""
        return initial(self.engine.shapes, self.rng("initialise", network))

    def rounds(self) -> int:
        return self.config.epochs

    def round(self, i: int) -> dict[str, float]:
        """One epoch of every network."""
        plain, moved = means(self.recorded.run(self._step, self._rows(i)).double())
        return {"loss": plain, "adversarial_loss": moved}

    def _rows(self, i: int) -> Iterator[Row]:
        """Images and rates of the steps of epoch i."""
        orders = [self.rng("order", i, m) for m in range(self.config.networks)]
        for step, row in enumerate(self.batches.rows_apart(orders), i * len(self.batches)):
            yield {**row, "lr": self.members.rate(step)}

    def _step(self, row: Row) -> tuple[Tensor, Tensor]:
        x, y = self.batches.read(row)
        x.requires_grad_()
        weights = self.members.weights
        plain = self.engine.losses(weights, x, y, self.loss, own=True)
        moved = self.engine.losses(weights, self.adversarial(x, plain), y, self.loss, own=True)
        self.members.descend(plain + moved, row["lr"])
        return plain.mean(), moved.mean()

    def adversarial(self, x: Tensor, losses: Tensor) -> Tensor:
        """Every network's images x [M, B, ...] moved by one step that raises its own loss the most.

        x + epsilon range sign(grad_x l): the fast gradient sign method, for which the ball is that of
        the maximum norm. No clipping. losses: [M], of these images, whose graph is kept: the gradient in
        the weights comes from the same pass. Source: Goodfellow et al. 2015; paper, section 2.3.
        """
        (gradient,) = torch.autograd.grad(losses.sum(), x, retain_graph=True)
        return x.detach() + self.move * gradient.sign()

    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        return self.members.permuted(rngs)
