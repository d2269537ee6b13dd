"""What an author of a method imports: the interface, batches, losses, optimisers and the loop."""

from bench.training.batches import Minibatches
from bench.training.fit import Fit, FitSettings, check_finite, fit
from bench.training.losses import LOSSES, Loss, cross_entropy, gaussian, mse
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
    "adam",
    "anneal",
    "check_finite",
    "cross_entropy",
    "fit",
    "gaussian",
    "mse",
]
