"""Diversity of an ensemble: pure functions of stacked weights and of member predictions.

Every function raises ValueError for inputs that are NaN, infinite, empty or of other shapes than it says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from bench.metrics.predictions import check_labels, check_members, log_probabilities

KERNEL_IMAGES = 1000  # images per matrix product: bounds memory, does not change the result


def weight_statistics(weights: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Norm, spread and cosine of each layer's weights over M networks, without biases.

    weights: by name [M, *shape]; layers in the network's order. Per layer
    - `weight_norm_mean`, `weight_norm_sd`: of the 2-norm of the weight tensor over networks (sd with
      ddof 0). Blind to direction: zero for any networks of equal norm. Source: HyperGAN paper, Table 1.
    - `weight_spread`: sqrt(sum of variances) / norm of the mean, sensitive to direction too.
    - `weight_cosine`: mean cosine between two different networks (one network: 1).
    """
    found = {}
    for name, stacked in weights.items():
        layer, _, kind = name.rpartition(".")
        if kind != "weight":
            continue
        w = stacked.detach().flatten(1).double()
        if not w.numel() or not w.isfinite().all():
            raise ValueError(
                f"{name}: expected finite weights of at least one network, found shape {list(stacked.shape)} "
                f"with {int((~w.isfinite()).sum())} NaN or infinite; has the fit diverged?"
            )
        norms = w.norm(dim=1)
        mean = w.mean(0)
        members = len(w)
        unit_sum = (w / norms.clamp_min(1e-300).unsqueeze(1)).sum(0)
        pairs = members * (members - 1)
        found[layer] = {
            "weight_norm_mean": norms.mean().item(),
            "weight_norm_sd": norms.std(correction=0).item(),
            "weight_spread": (w.var(0, correction=0).sum().sqrt() / mean.norm().clamp_min(1e-300)).item(),
            # |sum of unit vectors|^2 sums the cosines of all ordered pairs, including M pairs (i, i).
            "weight_cosine": ((unit_sum.square().sum().item() - members) / pairs) if pairs else 1.0,
        }
    return found


def pairwise_kl(logits: np.ndarray) -> float:
    """Mean over images and ordered pairs of networks of KL(p_i || p_j) in nats; logits [M, B, K].

    sum_ij KL(p_i || p_j) = M sum_i sum_k p_ik ln p_ik - sum_k (sum_i p_ik) (sum_j ln p_jk), exact for all
    pairs in the memory of one network. One network: 0.
    """
    check_members(logits)
    members = logits.shape[0]
    if members < 2:
        return 0.0
    negentropy = np.zeros(logits.shape[1])
    p_sum, log_sum = np.zeros(logits.shape[1:]), np.zeros(logits.shape[1:])
    for member in logits:
        log_p = log_probabilities(member)
        p = np.exp(log_p)
        negentropy += (p * log_p).sum(-1)
        p_sum += p
        log_sum += log_p
    total = members * negentropy - (p_sum * log_sum).sum(-1)
    return max(0.0, float(total.mean() / (members * (members - 1))))


def double_fault(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of images that two different networks both misclassify, mean over pairs; one network: 0.

    predictions: [M, B] classes; labels: [B]. Low where networks err on different images. Source: Giacinto
    and Roli 2001, "Design of effective neural network ensembles".
    """
    _check_classes(predictions)
    check_labels(labels, 1 + int(max(predictions.max(), labels.max())))
    if labels.shape != predictions.shape[1:]:
        raise ValueError(f"expected a label for each of {predictions.shape[1]} images, found {len(labels)}")
    members = predictions.shape[0]
    if members < 2:
        return 0.0
    wrong = (predictions != labels).sum(0, dtype=np.int64)
    return float((wrong * (wrong - 1)).mean() / (members * (members - 1)))


def effective_networks(logits: np.ndarray) -> float:
    """Number of networks without any overlap that are as diverse as these, from 1 to M; logits [M, B, K].

    exp(-sum_i l_i ln l_i), l the eigenvalues of C / M, where C_ij is the mean over images of the
    Bhattacharyya coefficient sum_k sqrt(p_ik p_jk): 1 if all networks are the same function, M if the
    probabilities of no two overlap. Source: the Vendi score, Friedman and Dieng 2023, definition 3.1.
    """
    check_members(logits)
    members, images = logits.shape[:2]
    kernel = np.zeros((members, members))
    for start in range(0, images, KERNEL_IMAGES):
        part = log_probabilities(logits[:, start : start + KERNEL_IMAGES])
        roots = np.exp(part / 2).reshape(members, -1)
        kernel += roots @ roots.T
    values = np.linalg.eigvalsh(kernel / (images * members)).clip(1e-300)
    return float(np.exp(-(values * np.log(values)).sum()))


def disagreement(predictions: np.ndarray) -> float:
    """Share of images on which two different networks predict different classes, mean over pairs.

    predictions: [M, B] classes. d = mean_b (1 - sum_k n_bk (n_bk - 1) / (M (M - 1))), n_bk the number
    of networks that predict k; exact over all pairs without enumerating them. One network: 0.
    """
    _check_classes(predictions)
    members = predictions.shape[0]
    if members < 2:
        return 0.0
    classes = np.arange(predictions.max() + 1)
    votes = (predictions[:, :, None] == classes).sum(0, dtype=np.int64)  # [B, K]
    agreeing = (votes * (votes - 1)).sum(1) / (members * (members - 1))
    return float(1 - agreeing.mean())


def _check_classes(predictions: np.ndarray) -> None:
    """Raises ValueError unless these are classes [M, B], integers from 0 on, at least one."""
    if predictions.ndim != 2 or not predictions.size or predictions.dtype.kind not in "iu":
        raise ValueError(
            f"expected integer classes [M, B] of at least one network and image, found {predictions.dtype} "
            f"{predictions.shape}"
        )
    if predictions.min() < 0:
        raise ValueError(f"expected classes from 0 on, found {predictions.min()}")
