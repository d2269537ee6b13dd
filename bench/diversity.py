"""Diversity of an ensemble: pure functions of stacked weights and of member predictions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor


def weight_statistics(weights: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Norm, spread and cosine of each layer's weights over M networks, biases left out.

    weights: by name [M, *shape]; layers in order of the network. Per layer
    - `weight_norm_mean`, `weight_norm_sd`: of the 2-norm of the weight tensor over networks (sd with
      ddof 0). Radial only: networks that point anywhere at one norm have none. Source: HyperGAN
      paper, Table 1.
    - `weight_spread`: sqrt(sum of variances) / norm of the mean, which sees directions too.
    - `weight_cosine`: mean cosine between two different networks (one network: 1).
    """
    found = {}
    for name, stacked in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        w = stacked.detach().flatten(1).double()
        norms = w.norm(dim=1)
        mean = w.mean(0)
        members = len(w)
        unit_sum = (w / norms.clamp_min(1e-300).unsqueeze(1)).sum(0)
        pairs = members * (members - 1)
        found[layer] = {
            "weight_norm_mean": norms.mean().item(),
            "weight_norm_sd": norms.std(correction=0).item(),
            "weight_spread": (w.var(0, correction=0).sum().sqrt() / mean.norm().clamp_min(1e-300)).item(),
            # |sum of unit vectors|^2 counts every ordered pair once and each network with itself.
            "weight_cosine": ((unit_sum.square().sum().item() - members) / pairs) if pairs else 1.0,
        }
    return found


def disagreement(predictions: np.ndarray) -> float:
    """Share of images on which two different networks predict different classes, mean over pairs.

    predictions: [M, B] classes. d = mean_b (1 - sum_k n_bk (n_bk - 1) / (M (M - 1))), n_bk the number
    of networks that say k; exact for all pairs without forming them. One network: 0.
    """
    members = predictions.shape[0]
    if members < 2:
        return 0.0
    classes = np.arange(predictions.max() + 1)
    votes = (predictions[:, :, None] == classes).sum(0, dtype=np.int64)  # [B, K]
    agreeing = (votes * (votes - 1)).sum(1) / (members * (members - 1))
    return float(1 - agreeing.mean())
