"""Ensembles with known outputs, and images for them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from small import small_network
from torch import nn

from bench.ensemble import Ensemble
from bench.rng import stream


def linear(*rows):
    """Networks with logits (w x, 0), one per w, on images of [1, 1, 2] pixels."""
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(2, 2)))
    weight = torch.zeros(len(rows), 2, 2)
    weight[:, 0] = torch.tensor(rows)
    return Ensemble(network, {"linear.weight": weight, "linear.bias": torch.zeros(len(rows), 2)})


def pixels(*rows):
    return torch.tensor(rows).view(-1, 1, 1, 2)


def zeros(images):
    return torch.zeros(len(images), dtype=torch.long)


def random_ensemble(members=4, scale=0.3):
    network, rng = small_network(), stream(0, "weights")
    weights = {
        n: torch.randn(members, *p.shape, generator=rng) * scale for n, p in network.named_parameters()
    }
    return Ensemble(network, weights)
