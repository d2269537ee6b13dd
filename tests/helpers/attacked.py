"""Networks, data and a row filter for tests of attack evaluations."""

from __future__ import annotations

import dataclasses

import torch
from small import load_stripes, small_network, stripes

from bench.ensemble import Ensemble
from bench.evaluations import Subject
from bench.rng import stream
from bench.task import AttackScale, Scale

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


def pick(result, metric, **where):
    rows = [r for r in result.rows if r["metric"] == metric]
    return [r for r in rows if all(r.get(k, "") == v for k, v in where.items())]
