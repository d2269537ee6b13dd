"""What an author of a method imports: the interface, batches, losses, optimisers, the loop, and the rest.

A method is a subclass of `Method` with a frozen dataclass `Config`. Networks are stacked weights by name,
[M, *shape]: `initial` makes one, `stacked` reads vectors [M, P] as many; `Independent` trains many at once.
"""

from bench.engine import Loss, Step, Weights, apply
from bench.networks import initial, stacked
from bench.rng import Streams
from bench.task import Split
from bench.training.batches import Minibatches
from bench.training.fit import Fit, FitSettings, check_finite, fit
from bench.training.losses import LOSSES, cross_entropy, gaussian, gaussian_nll, mse
from bench.training.method import Method
from bench.training.optimisers import Independent, adam, anneal

__all__ = [
    "LOSSES",
    "Fit",
    "FitSettings",
    "Independent",
    "Loss",
    "Method",
    "Minibatches",
    "Split",
    "Step",
    "Streams",
    "Weights",
    "adam",
    "anneal",
    "apply",
    "check_finite",
    "cross_entropy",
    "fit",
    "gaussian",
    "gaussian_nll",
    "initial",
    "mse",
    "stacked",
]
