"""Diversity of the largest ensemble: of the weights of each layer, and of the members' predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from bench.evaluations.subject import Result, Subject
from bench.metrics import diversity, symmetry
from bench.records.schema import row
from bench.rng import Streams

# As in Figure 8 of the paper: two filters of two layers, from 25 networks.
FILTER_LAYERS, FILTERS, FILTER_NETWORKS = 2, 2, 25


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of norms, spread, cosine and distance of weights, and of diversity of predictions on test images.

    Disagreement, pairwise KL, double fault and effective networks need classes: not for regression.
    A single network has norms but no pairwise metrics, and a message says so. Arrays: the filters that the
    report shows.
    """
    members = len(subject.ensemble)
    weights = subject.ensemble.weights
    common = {"evaluation": "diversity", "members": members}
    result = Result(arrays=filters(weights))
    for layer, values in diversity.weight_statistics(weights).items():
        kept = values if members > 1 else {"weight_norm_mean": values["weight_norm_mean"]}
        result.rows += [row(name, value, layer=layer, **common) for name, value in kept.items()]
    if members < 2:
        subject.say("  skipped: diversity of 1 network (expected at least two; raise --members)")
        return result
    try:
        apart = symmetry.weight_distance(subject.ensemble.engine.network, weights)
        result.rows += [row(name, value, **common) for name, value in apart.items()]
    except ValueError as error:  # the network's symmetries are not known
        subject.say(f"  skipped: distance of weights ({error})")
    if not subject.test.labels.is_floating_point():
        result.rows += _predicted(subject)
    return result


def _predicted(subject: Subject) -> list[dict[str, Any]]:
    """Rows of diversity of predictions; effective networks for every size above 1."""
    test = subject.test
    logits, labels = subject.logits(test), test.labels.numpy()
    predictions = logits.argmax(-1)
    common = {"evaluation": "diversity", "dataset": test.name, "examples": len(test)}
    found = {
        "disagreement": diversity.disagreement(predictions),
        "pairwise_kl_nats": diversity.pairwise_kl(logits),
        "double_fault": diversity.double_fault(predictions, labels),
    }
    rows = [row(name, value, members=len(logits), **common) for name, value in found.items()]
    for size in (n for n in subject.sizes if n > 1):
        count = diversity.effective_networks(logits[:size])
        rows.append(row("effective_networks", count, members=size, **common))
    return rows


def filters(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The first filters of the first convolutions, `filters/<layer>/<index>` -> [M, height, width].

    A filter is the kernel from a layer's first input channel to output channel `index`, of the first
    `FILTER_NETWORKS` networks. A network without convolutions has none. Source: paper, Figure 8.
    """
    kernels = [(name, w) for name, w in weights.items() if name.endswith(".weight") and w.dim() == 5]
    return {
        f"filters/{name.removesuffix('.weight')}/{i}": w[:FILTER_NETWORKS, i, 0].float().cpu().numpy()
        for name, w in kernels[:FILTER_LAYERS]
        for i in range(min(FILTERS, w.shape[1]))
    }
