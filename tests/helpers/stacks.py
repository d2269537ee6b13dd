"""Stacked weights of random networks."""

import torch

from bench.networks import shapes
from bench.rng import stream


def stacked(network, members, dtype=torch.float64, seed=0):
    rng = stream(seed, "weights")
    return {
        name: torch.randn(members, *shape, generator=rng, dtype=dtype) / max(1, shape[1:].numel()) ** 0.5
        for name, shape in shapes(network).items()
    }
