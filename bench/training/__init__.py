"""What an author of a method imports: the interface, batches, losses, optimisers, the loop, and the rest.

A method is a subclass of `Method` with a `Config`: a class under `@settings`, whose fields have ranges beside
their types (`Count`, `Positive`, ...). Networks are stacked weights by name,
[M, *shape]: `initial` makes one, `stacked` reads vectors [M, P] as many; `Independent` trains many at once.
`Recorded` runs a step for rows of what changes from step to step, and lets a GPU replay it.
"""

from bench.engine import Loss, Recorded, Row, Step, Weights, apply
from bench.networks import initial, stacked
from bench.rng import Streams
from bench.settings import Count, CountOrZero, LogSd, NotNegative, Positive, Share, settings
from bench.task import Split
from bench.training.batches import Minibatches
from bench.training.fit import Fit, FitSettings, check_finite, fit
from bench.training.losses import LOSSES, cross_entropy, gaussian, gaussian_nll, mse
from bench.training.method import Method
from bench.training.optimisers import Independent, adam, anneal, annealed, means, minimise, set_rate

__all__ = [
    "LOSSES",
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
    "set_rate",
    "settings",
    "stacked",
]
