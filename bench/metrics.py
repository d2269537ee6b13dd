"""Metrics of predictions: pure functions of probabilities and labels, in float64, on the host.

Everything starts from log-probabilities, so that a probability of 1e-60 has a finite logarithm.
Natural logarithms throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from scipy.special import entr, log_softmax
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

ECE_BINS = 15  # Guo et al. 2017, section 5
RATE = 0.95  # of FPR at 95 % TPR


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithms of softmax probabilities in float64; logits [..., K]."""
    return log_softmax(logits.astype(np.float64), axis=-1)


def entropy(log_p: np.ndarray) -> np.ndarray:
    """Entropy H(p) = -sum_k p_k ln p_k in nats; log_p [..., K] -> [...]."""
    return entr(np.exp(log_p)).sum(-1)


def prefixes(logits: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each ensemble size n: n, log of the mean probability [B, K], mean member entropy [B].

    log p(y|x) = logsumexp_{m<n} log p_m(y|x) - ln n. logits: [M, B, K]; members are streamed, memory
    is that of one member. Sizes beyond M do not appear. Source: HyperGAN paper, section 4.2.
    """
    total = np.full(logits.shape[1:], -np.inf)
    entropies = np.zeros(logits.shape[1])
    for m, member in enumerate(logits, start=1):
        log_p = log_probabilities(member)
        total = np.logaddexp(total, log_p)
        entropies = entropies + entropy(log_p)
        if m in sizes:
            yield m, total - np.log(m), entropies / m


def brier(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Brier score per image, sum_k (p_k - [k = y])^2, from 0 to 2; log_p [B, K] -> [B]."""
    p = np.exp(log_p)
    p[np.arange(len(p)), labels] -= 1
    return np.square(p).sum(-1)


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error sum_b (n_b / n) |accuracy_b - confidence_b|.

    confidence: [B], the probability of the predicted class; correct: [B] booleans. Bins are equal in
    width and closed on the right. A perfectly calibrated model does not score 0 on few images
    (about 0.04 on 1,000). Source: Guo et al. 2017, equation 3.
    """
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=correct.astype(float) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def classification(log_p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL in nats, Brier score and ECE of log-probabilities [B, K] against labels [B]."""
    correct = log_p.argmax(-1) == labels
    return {
        "accuracy": float(correct.mean()),
        "nll_nats": float(-log_p[np.arange(len(labels)), labels].mean()),
        "brier": float(brier(log_p, labels).mean()),
        "ece": ece(np.exp(log_p.max(-1)), correct),
    }


def separation(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """AUROC, AUPR and FPR at 95 % TPR of a score that is larger for outliers.

    inside: [n] scores in distribution, outside: [m] of outliers. `aupr_out` takes outliers as the
    positive class, `aupr_in` the others, both as average precision; `fpr95_id_positive` is the share
    of outliers accepted where at least 95 % of the inliers are.
    """
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    score = np.concatenate([inside, outside])
    false, true, _ = roc_curve(1 - truth, -score, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(truth, score)),
        "aupr_out": float(average_precision_score(truth, score)),
        "aupr_in": float(average_precision_score(1 - truth, -score)),
        "fpr95_id_positive": float(false[np.searchsorted(true, RATE)]),
    }


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an outlier's score exceeds an inlier's, ties counted half."""
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    return float(roc_auc_score(truth, np.concatenate([inside, outside])))
