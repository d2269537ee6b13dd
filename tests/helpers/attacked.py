"""Networks, data and a row filter for tests of attack evaluations."""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict

import torch
from sklearn.datasets import load_digits
from small import load_stripes, small_network, stripes
from torch import nn

from bench import networks
from bench.ensemble import Ensemble
from bench.evaluations import Subject
from bench.rng import stream
from bench.task import AttackScale, Data, Scale, Split

PART = AttackScale(8, (2, 3), (0.05, 0.3), steps=2, others=5, searched=2)


def stripes_mislabelled():
    """The test data, with a wrong label on the first test image."""
    data = load_stripes(None)
    labels = data.test.labels.clone()
    labels[0] = (labels[0] + 1) % 3
    return dataclasses.replace(data, test=dataclasses.replace(data.test, labels=labels))


def subject(drawn, *parts, sizes=(1, 3)):
    said = []
    scale = Scale(sizes, attacks=parts or (PART,))
    data = stripes_mislabelled()
    return Subject(drawn[: max(sizes)], data, scale, sizes, drawn, say=said.append), said


def trained(members):
    """Networks that are partly correct: one trained network with small noise."""
    data, network = stripes(96), small_network()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.2)
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(data.images), data.labels).backward()
        optimiser.step()
    rng = stream(2, "noise")
    weights = {
        n: p.detach() + 0.25 * torch.randn(members, *p.shape, generator=rng)
        for n, p in network.named_parameters()
    }
    return Ensemble(small_network(), weights)


@functools.cache
def trained_on_digits():
    """Ten small networks trained on 1,000 of scikit-learn's digits, 8x8 pixels, and all their data."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images / 16).float()[:, None], torch.from_numpy(digits.target)
    parts = {"train": slice(0, 1000), "val": slice(1000, 1200), "test": slice(1200, 1300)}
    data = Data(**{name: Split(name, images[at], labels[at].long()) for name, at in parts.items()})
    layers = {
        "flatten": nn.Flatten(),
        "hidden": nn.Linear(64, 32),
        "relu": nn.ReLU(),
        "out": nn.Linear(32, 10),
    }
    network = nn.Sequential(OrderedDict(layers))
    starts = [networks.initial(networks.shapes(network), stream(m, "digits")) for m in range(10)]
    weights = {n: torch.stack([start[n] for start in starts]).requires_grad_() for n in starts[0]}
    engine, truth = Ensemble(network, weights).engine, data.train.labels.repeat(10)
    optimiser = torch.optim.Adam(weights.values(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        logits = engine.logits(weights, data.train.images).flatten(0, 1)
        (10 * nn.functional.cross_entropy(logits, truth)).backward()
        optimiser.step()
    return Ensemble(network, weights), data


def pick(result, metric, **where):
    rows = [r for r in result.rows if r["metric"] == metric]
    return [r for r in rows if all(r.get(k, "") == v for k, v in where.items())]
