"""Metrics of predictions: pure functions of outputs or probabilities and labels, in float64, on the host.

Inputs are log-probabilities, so that a probability of 1e-60 has a finite logarithm. Natural logarithms
throughout. Every function raises ValueError for inputs that are NaN, empty, of other shapes than it says, or
not distributions, and for labels that are no class: a comparison with NaN is False, so that a network whose
outputs are NaN would look calibrated or robust.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from scipy.special import entr, log_softmax, logsumexp
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from bench.task import MIN_VARIANCE

ECE_BINS = 15  # Guo et al. 2017, section 5
TPR = 0.95  # of FPR at 95 % TPR
ACCEPTED = (0.99, 0.95, 0.9)  # shares of images that a selective predictor answers
# The largest share that is rejected: a perfect score then rejects the outliers and nothing else.
OUTLIER_SHARE = 0.1
TOLERANCE = 1e-6  # for sums of probabilities: float32 softmax over ten classes is within 1e-7 of one


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Logarithms of softmax probabilities in float64; logits [..., K].

    A logit may be -inf, a probability of 0, where another of its K is finite.
    """
    if not logits.ndim or not logits.size:
        raise ValueError(f"expected logits [..., K] of at least one output, found {logits.shape}")
    broken = int((~np.isfinite(logits.max(-1))).sum())  # the largest of K is NaN where one of them is
    if broken:
        raise ValueError(
            f"expected finite logits, found NaN or infinity in {broken} of {logits[..., 0].size} outputs; "
            "has the fit diverged?"
        )
    return log_softmax(logits.astype(np.float64), axis=-1)


def entropy(log_p: np.ndarray) -> np.ndarray:
    """Entropy H(p) = -sum_k p_k ln p_k in nats; log_p [..., K] -> [...]."""
    return entr(_probabilities(log_p)).sum(-1)


def _probabilities(log_p: np.ndarray) -> np.ndarray:
    """Probabilities [..., K] of their logarithms; raises ValueError unless each K sum to one."""
    p = np.exp(log_p)
    sums = p.sum(-1) if p.ndim else p
    wrong = int((~(np.abs(sums - 1) <= TOLERANCE)).sum())  # also counts NaN
    if wrong or not p.size or not p.ndim:
        raise ValueError(
            f"expected log-probabilities [..., K] of probabilities that sum to one, found {p.shape} and "
            f"{wrong} of {sums.size} distributions that do not; normalise logits first (log_probabilities)"
        )
    return p


def check_members(logits: np.ndarray) -> None:
    """Raises ValueError unless logits are [M, B, K] of at least one network and image."""
    if logits.ndim != 3 or not logits.size:
        raise ValueError(f"expected logits [M, B, K] of at least one network and image, found {logits.shape}")


def prefixes(logits: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For each ensemble size n: n, log of the mean probability [B, K], mean member entropy [B].

    log p(y|x) = logsumexp_{m<n} log p_m(y|x) - ln n. logits: [M, B, K]; members are streamed, in the memory
    of one member. Sizes above M are not yielded. Source: HyperGAN paper, section 4.2.
    """
    check_members(logits)
    total = np.full(logits.shape[1:], -np.inf)
    entropies = np.zeros(logits.shape[1])
    for m, member in enumerate(logits, start=1):
        log_p = log_probabilities(member)
        total = np.logaddexp(total, log_p)
        entropies = entropies + entropy(log_p)
        if m in sizes:
            yield m, total - np.log(m), entropies / m


def disjoint(logits: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `prefixes`, for every disjoint ensemble of `size` consecutive members.

    These are independent draws of an ensemble, so their spread is that of drawing; logits: [M, B, K].
    """
    if size < 1:
        raise ValueError(f"expected ensembles of at least one network, found size {size}")
    check_members(logits)
    for start in range(0, len(logits) - size + 1, size):
        ((_, log_p, expected),) = prefixes(logits[start : start + size], {size})
        yield log_p, expected


def check_predictions(log_p: np.ndarray, labels: np.ndarray) -> None:
    """Raises ValueError unless log-probabilities [B, K] are normalised and fit the labels [B]."""
    if log_p.ndim != 2 or len(log_p) != len(labels) or not len(labels):
        raise ValueError(
            f"expected log-probabilities [B, K] and labels [B] of at least one image, found {log_p.shape} "
            f"and {labels.shape}"
        )
    off = np.abs(logsumexp(log_p, axis=-1))
    wrong = int((~(off <= TOLERANCE)).sum())  # also counts NaN
    if wrong:
        raise ValueError(
            f"expected probabilities that sum to one, found {wrong} of {len(off)} images whose do not; "
            "normalise the logits first (log_probabilities)"
        )
    check_labels(labels, log_p.shape[1])


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raises ValueError unless labels [B], at least one, are integers from 0 to K - 1."""
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"expected integer labels [B] of at least one image, found {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, found {labels.min()} to {labels.max()}")


def _check_confidence(confidence: np.ndarray, correct: np.ndarray, bins: int) -> None:
    """Raises ValueError unless these are probabilities [B] and booleans [B], to be put into bins."""
    _check_ranked(confidence, correct)
    if confidence.min() < 0 or confidence.max() > 1 + TOLERANCE:
        raise ValueError(
            f"expected confidences from 0 to 1, found {confidence.min():.3g} to {confidence.max():.3g}; give "
            "the probability of the predicted class"
        )
    if bins < 1:
        raise ValueError(f"expected at least one bin, found {bins}")


def _check_ranked(confidence: np.ndarray, correct: np.ndarray) -> None:
    """Raises ValueError unless these are numbers [B] and booleans [B] of at least one image."""
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence):
        raise ValueError(
            f"expected confidences [B] and as many booleans of at least one image, found {confidence.shape} "
            f"and {correct.shape}"
        )
    if correct.dtype != np.bool_:
        raise ValueError(f"expected booleans, whether each image is right, found {correct.dtype}")
    if np.isnan(confidence).any():
        raise ValueError(
            f"expected confidences that are numbers, found {int(np.isnan(confidence).sum())} NaN"
        )


def check_scores(inside: np.ndarray, outside: np.ndarray) -> None:
    """Raises ValueError if the scores of two sets cannot be compared: a set is empty or contains NaN."""
    for name, scores in (("in-distribution", inside), ("outlying", outside)):
        if scores.ndim != 1 or not len(scores) or np.isnan(scores).any():
            raise ValueError(
                f"expected {name} scores [n] that are numbers, found shape {scores.shape} with "
                f"{int(np.isnan(scores).sum())} NaN; AUROC needs two sets"
            )


def brier(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Brier score per image, sum_k (p_k - [k = y])^2, from 0 to 2; log_p [B, K] -> [B].

    labels: [B]. Raises ValueError as `check_predictions`.
    """
    check_predictions(log_p, labels)
    p = np.exp(log_p)
    p[np.arange(len(p)), labels] -= 1
    return np.square(p).sum(-1)


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error sum_b (n_b / n) |accuracy_b - confidence_b|.

    confidence: [B], the probability of the predicted class; correct: [B] booleans. Bins have equal
    width and are closed on the right. A perfectly calibrated model scores above 0 on few images
    (about 0.04 on 1,000). Source: Guo et al. 2017, equation 3.
    """
    _check_confidence(confidence, correct, bins)
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, weights=correct.astype(float) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def adaptive_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Calibration error over bins with equally many images, in ascending order of confidence.

    As `ece`, whose bins of equal width are mostly empty for an accurate model. If the number of images is
    not a multiple of the bins, the first ones hold one more. Images of equal confidence share a bin, that of
    the first of them, so that the value does not depend on the order of images. Source: Nguyen and O'Connor
    2015, section 4.
    """
    _check_confidence(confidence, correct, bins)
    order = np.lexsort((correct, confidence))  # of a tie the wrong ones first: sums round the same way
    ranked = confidence[order]
    size, more = divmod(len(ranked), bins)
    ends = np.cumsum(np.where(np.arange(bins) < more, size + 1, size))[:-1]
    ends = np.searchsorted(ranked, ranked[ends - 1], side="right")
    gaps = np.split(correct[order] - ranked, ends)
    return float(sum(abs(gap.sum()) for gap in gaps) / len(ranked))


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk-coverage curve: mean over i of the error rate on the i most confident images.

    0 without errors; otherwise smallest if the errors are the least confident predictions. Images of equal
    confidence count with their mean error, so that ties do not depend on order. Source: Geifman, Uziel and
    El-Yaniv 2019, section 3.
    """
    _check_ranked(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    _, group, counts = np.unique(-confidence[order], return_inverse=True, return_counts=True)
    errors = np.bincount(group, weights=1.0 - correct[order]) / counts
    cumulative = np.cumsum(errors[group])
    return float((cumulative / np.arange(1, len(order) + 1)).mean())


def classification(log_p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL in nats, Brier score, ECE, adaptive ECE and AURC of log-probabilities [B, K].

    labels: [B]. Raises ValueError as `check_predictions`.
    """
    check_predictions(log_p, labels)
    correct = log_p.argmax(-1) == labels
    confidence = np.exp(log_p.max(-1))
    return {
        "accuracy": float(correct.mean()),
        "nll_nats": float(-log_p[np.arange(len(labels)), labels].mean()),
        "brier": float(brier(log_p, labels).mean()),
        "ece": ece(confidence, correct),
        "adaptive_ece": adaptive_ece(confidence, correct),
        "aurc": aurc(confidence, correct),
    }


def separation(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """AUROC, AUPR and FPR at 95 % TPR of a score that is larger for outliers.

    inside: [n] in-distribution scores, outside: [m] of outliers. `aupr_out` takes outliers as the
    positive class, `aupr_in` the inliers, both as average precision; `fpr95_id_positive` is the share
    of outliers accepted when at least 95 % of the inliers are, `fpr95_ood_positive` the share of inliers
    rejected when at least 95 % of the outliers are. Raises ValueError as `check_scores`.
    """
    check_scores(inside, outside)
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    score = np.concatenate([inside, outside])
    return {
        "auroc": float(roc_auc_score(truth, score)),
        "aupr_out": float(average_precision_score(truth, score)),
        "aupr_in": float(average_precision_score(1 - truth, -score)),
        "fpr95_id_positive": _false_positives(1 - truth, -score),
        "fpr95_ood_positive": _false_positives(truth, score),
    }


def _false_positives(truth: np.ndarray, score: np.ndarray) -> float:
    """False-positive rate at the first threshold whose true-positive rate reaches `TPR`."""
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    return float(false[np.searchsorted(true, TPR)])


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an outlier's score exceeds an inlier's, ties counted half."""
    check_scores(inside, outside)
    truth = np.concatenate([np.zeros(len(inside)), np.ones(len(outside))])
    return float(roc_auc_score(truth, np.concatenate([inside, outside])))


def accepted_accuracy(
    inside: np.ndarray,
    right: np.ndarray,
    outside: np.ndarray,
    accepted: float,
    outlier_share: float = OUTLIER_SHARE,
) -> float:
    """Accuracy on the images that are answered, outliers mixed in: an accepted outlier is an error.

    Of a mixture in which outliers weigh `outlier_share`, whatever their number, the share `accepted` with
    the lowest scores is answered, and the rest rejected. With weights w_i = (1 - outlier_share) / n of an
    inlier and outlier_share / m of an outlier, and a_i = 1 below the threshold and 0 above it, the value is
    sum_i w_i a_i right_i / accepted. Images whose score is the threshold count with the fraction that
    makes sum_i w_i a_i = accepted: the mean over all orders of ties.

    inside: [n] scores of inliers, right: [n], whether they are classified correctly; outside: [m] scores
    of outliers; larger scores are rejected first. At most min(1, (1 - outlier_share) / accepted).
    Raises ValueError as `check_scores`, and unless 0 < accepted <= 1 and 0 < outlier_share < 1. Source:
    Filos et al. 2019, section 4 (accuracy on retained data); Kim et al. 2021 (accepted outliers as errors).
    """
    check_scores(inside, outside)
    if inside.shape != right.shape or not (0 < accepted <= 1 and 0 < outlier_share < 1):
        raise ValueError(
            f"expected one answer per inlier and shares within (0, 1), found {right.shape} answers of "
            f"{inside.shape} inliers, accepted = {accepted} and outlier_share = {outlier_share}"
        )
    sets = ((1 - outlier_share, len(inside)), (outlier_share, len(outside)))
    weight = np.concatenate([np.full(count, share / count) for share, count in sets])
    earned = weight * np.concatenate([right, np.zeros(len(outside))])
    _, group = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    whole, earned = np.bincount(group, weights=weight), np.bincount(group, weights=earned)
    answered = np.clip(accepted - (np.cumsum(whole) - whole), 0, whole)
    return float((earned * answered / whole).sum() / accepted)


def _check_numbers(**values: np.ndarray) -> None:
    """Raises ValueError where one of these, by name, is empty or holds NaN or infinity."""
    for name, found in values.items():
        if not np.size(found) or not np.isfinite(found).all():
            raise ValueError(
                f"{name}: expected finite numbers, found shape {np.shape(found)} with "
                f"{int((~np.isfinite(found)).sum())} NaN or infinite; has the fit diverged?"
            )


def variance(raw: np.ndarray) -> np.ndarray:
    """The variance encoded by a network's second output, ln(1 + e^raw) + 1e-6.

    Source: Lakshminarayanan et al. 2017, "Deep Ensembles", section 2.2.1.
    """
    _check_numbers(raw=raw)
    return np.logaddexp(0, raw.astype(np.float64)) + MIN_VARIANCE


def gaussian_log_likelihoods(outputs: np.ndarray, labels: np.ndarray, noise_sd: float) -> np.ndarray:
    """ln N(y; f_m(x), v_m(x)) in nats of each member and example, [M, B].

    outputs: [M, B, D], only f (then v = noise_sd^2), or f and a raw variance; labels: [B].
    Raises ValueError for another D.
    """
    if outputs.ndim != 3 or labels.shape != outputs.shape[1:2]:
        raise ValueError(f"expected outputs [M, B, D] and labels [B], found {outputs.shape}, {labels.shape}")
    if outputs.shape[-1] not in (1, 2):
        raise ValueError(f"expected a mean, or a mean and a raw variance, found {outputs.shape[-1]} outputs")
    if not noise_sd > 0:
        raise ValueError(f"expected a positive standard deviation of the noise, found {noise_sd}")
    _check_numbers(outputs=outputs, labels=labels)
    f = outputs[..., 0].astype(np.float64)
    v = variance(outputs[..., 1]) if outputs.shape[-1] == 2 else np.full_like(f, noise_sd**2)
    return -0.5 * (np.square(labels - f) / v + np.log(2 * np.pi * v))


def mixture_log_likelihood(likelihoods: np.ndarray) -> float:
    """Mean over examples of ln (1/M sum_m N(y; f_m, v_m)); likelihoods: [M, B], log-likelihoods."""
    if likelihoods.ndim != 2:
        raise ValueError(f"expected log-likelihoods [M, B], found {likelihoods.shape}")
    _check_numbers(likelihoods=likelihoods)
    return float((logsumexp(likelihoods, 0) - np.log(len(likelihoods))).mean())


def covered(target: np.ndarray, mean: np.ndarray, sd: np.ndarray, width: float) -> np.ndarray:
    """Whether the target lies within `width` standard deviations of the mean, [G] booleans."""
    _check_numbers(target=target, mean=mean, sd=sd)
    return np.abs(target - mean) <= width * sd


def gaussian_wasserstein2(
    mean: np.ndarray, sd: np.ndarray, other_mean: np.ndarray, other_sd: np.ndarray
) -> np.ndarray:
    """Wasserstein-2 distance of univariate normal distributions, sqrt((m - m')^2 + (s - s')^2), [G]."""
    _check_numbers(mean=mean, sd=sd, other_mean=other_mean, other_sd=other_sd)
    return np.hypot(mean - other_mean, sd - other_sd)
