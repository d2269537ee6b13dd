"""Diversity of the largest ensemble: of its weights per layer, and of what its members predict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from bench import diversity
from bench.evaluations.subject import Result, Subject
from bench.records import row
from bench.rng import Streams

# What Figure 8 of the paper shows: two filters of two layers, from 25 networks.
FILTER_LAYERS, FILTERS, FILTER_NETWORKS = 2, 2, 25


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of norms, spread and cosine per layer, and of pairwise disagreement on test images.

    Disagreement is about classes: regression has none. Arrays: the filters that the report shows.
    """
    members = len(subject.ensemble)
    common = {"evaluation": "diversity", "members": members}
    result = Result(arrays=filters(subject.ensemble.weights))
    for layer, values in diversity.weight_statistics(subject.ensemble.weights).items():
        result.rows += [row(name, value, layer=layer, **common) for name, value in values.items()]
    test = subject.test
    if not test.labels.is_floating_point():
        differing = diversity.disagreement(subject.logits(test).argmax(-1))
        result.rows.append(row("disagreement", differing, dataset=test.name, examples=len(test), **common))
    return result


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
