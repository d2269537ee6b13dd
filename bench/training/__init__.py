"""The one door for authors of a method: everything that a method imports stands here.

A method is a way to draw stacked weights: a class that says how they are fitted and how networks are
drawn. Complete, if not good: one network, and normal noise of one standard deviation around it.

>>> import torch
>>> from torch import nn
>>> from bench.training import Count, Method, Minibatches, Positive, adam, anneal, initial, settings
>>> @settings
... class NoisyConfig:
...     'Settings of noisy.'
...     epochs: Count = 5  # an integer of at least 1
...     batch: Count = 20
...     lr: Positive = 0.01
...     sd: Positive = 0.05
>>> class Noisy(Method):
...     'One network that minimises the loss; a draw adds N(0, sd^2) to every weight.'
...     Config = NoisyConfig
...
...     def start(self, train, val, *, loss, rng):
...         self.rng, self.loss = rng, loss
...         values = initial(self.engine.shapes, rng("initialise"))  # one network: {name: [*shape]}
...         holder = self.keep("weights", nn.ParameterList(nn.Parameter(w[None]) for w in values.values()))
...         self.weights = dict(zip(values, holder, strict=True))  # stacked: {name: [1, *shape]}
...         self.optimiser = self.keep("optimiser", adam(holder.parameters(), self.config.lr))
...         self.batches = Minibatches(train, self.config.batch)
...
...     def rounds(self):
...         return self.config.epochs
...
...     def round(self, i):
...         total, steps = 0.0, len(self.batches)
...         for step, (x, y) in enumerate(self.batches.epoch(self.rng("order", i), own=False)):
...             anneal(self.optimiser, self.config.lr, i * steps + step, self.rounds() * steps)
...             loss = self.engine.losses(self.weights, x, y, self.loss).sum()
...             self.optimiser.zero_grad()
...             loss.backward()
...             self.optimiser.step()
...             total += loss.item()
...         return {"loss": total / steps}
...
...     def draw(self, rngs):
...         def noisy(w):  # [1, *shape] -> [M, *shape]
...             noise = torch.stack([torch.randn(w.shape[1:], generator=rng) for rng in rngs])
...             return w.detach() + self.config.sd * noise.to(self.device)
...
...         return {name: noisy(w) for name, w in self.weights.items()}
>>> from bench.training import FitSettings, Split, fit
>>> x = torch.rand(100, 4, generator=torch.Generator().manual_seed(0))
>>> data = Split("made-up", x, (x[:, 0] > x[:, 1]).long())
>>> method = Noisy(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), NoisyConfig())
>>> fit(method, data, data, FitSettings(seed=0)).rounds
5
>>> method.sample(7, seed=1)(data.images).shape  # logits of seven networks: [M, B, K]
torch.Size([7, 100, 2])

What there is, each with its own docstring:

The method      `Method`: what an author writes, and what each part may rely on. `self.network`,
                `self.engine`, `self.config` and `self.device` are there from `start` on.
Settings        `settings`, the decorator of a `Config`; types with ranges `Count`, `CountOrZero`, `Positive`,
                `NotNegative`, `Share`, `LogSd`. Others as `Annotated[float, Field(ge=0, le=1)]` with
                pydantic's `Field`, or as `Literal["full", "diagonal"]`.
Data            `Split` (images, labels); `Minibatches` of one: `epoch` for what all networks see or share
                out, `epochs` for an order of each network's own; `rows`, `rows_apart` and `read` for the same
                in steps that are recorded.
Random numbers  `Streams`: `rng("order", i)` is a CPU generator; `rng.initialise()` for PyTorch's modules.
Weights         `Weights`, {name: [M, *shape]}; `initial` makes one network's; `stacked` reads vectors [M, P].
Networks        `self.engine` evaluates them. `.shapes`: {name: shape} of one network. `.losses(weights, x, y,
                loss, own=False)` -> [M]: the way to train, differentiable in the weights; own: x [M, B, ...]
                with images of each network's own. `.logits(weights, x)` -> [M, B, K]. `.single(weights, x,
                operation, before)` -> [B, K]: one network, {name: [*shape]}, whose layers do an operation of
                yours (`Step`, `apply`), in `products` of the layer's size, or are given what `before` makes
                of their input. Layers with weights in order: `.known_steps()`. Operations are counted here,
                in modules that are kept, and in `product` of matrices.
Losses          `Loss`: logits [M, B, K], labels -> [M]; `cross_entropy`, `mse`, `gaussian`, `gaussian_nll`;
                `LOSSES` by name. `normal_kl`, the divergence of normal weights from N(0, 1).
Many cores      What the engine and `adam` do uses all cores; the rest of a step runs on one. `BlockLinear` is
                a wide linear layer on all of them, `summed` a loss added over blocks of a batch, which
                `self.engine.blocks` gives.
Optimisers      `adam`; `anneal`, a rate that depends on the step alone; `Independent`, networks that train at
                once as each would alone.
For a GPU       `Recorded` runs a step for every `Row` of a round (images, noise, rates) and lets a GPU replay
                it; with `annealed`, `set_rate`, `minimise` and `means`. A plain loop works too, slower.
The loop        `fit` with `FitSettings` returns a `Fit`; `check_finite` for steps inside a round.
"""

from bench.engine import BlockLinear, Loss, Recorded, Row, Step, Weights, apply, product, summed
from bench.networks import initial, stacked
from bench.rng import Streams
from bench.settings import Count, CountOrZero, LogSd, NotNegative, Positive, Share, settings
from bench.task import Split
from bench.training.batches import Minibatches
from bench.training.fit import Fit, FitSettings, check_finite, fit
from bench.training.losses import LOSSES, cross_entropy, gaussian, gaussian_nll, mse, normal_kl
from bench.training.method import Method
from bench.training.optimisers import Independent, adam, anneal, annealed, means, minimise, set_rate

__all__ = [
    "LOSSES",
    "BlockLinear",
    "Count",
    "CountOrZero",
    "Fit",
    "FitSettings",
    "Independent",
    "LogSd",
    "Loss",
    "Method",
    "Minibatches",
    "NotNegative",
    "Positive",
    "Recorded",
    "Row",
    "Share",
    "Split",
    "Step",
    "Streams",
    "Weights",
    "adam",
    "anneal",
    "annealed",
    "apply",
    "check_finite",
    "cross_entropy",
    "fit",
    "gaussian",
    "gaussian_nll",
    "initial",
    "means",
    "minimise",
    "mse",
    "normal_kl",
    "product",
    "set_rate",
    "settings",
    "stacked",
    "summed",
]
