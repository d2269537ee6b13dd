"""Losses of stacked networks, one number a member."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from bench.engine import Loss
from bench.task import MIN_VARIANCE, NOISE_SD


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of each member in nats: logits [M, B, K], y [B] or [M, B] -> [M]."""
    labels = y if y.dim() == 2 else y.expand(logits.shape[0], -1)
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


def mse(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each member: outputs [M, B, D], y [B, D] or [M, B, D] -> [M]."""
    return (outputs - y).square().flatten(1).mean(1)


def gaussian(outputs: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of each member in nats, mean over examples: -ln N(y; f(x), 3^2).

    (y - f)^2 / (2 sd^2) + ln(sd sqrt(2 pi)), sd the noise of the regression (`bench.task.NOISE_SD`),
    so that N times it is the negative log-likelihood of the data. outputs [M, B, 1], y [B, 1] or
    [M, B, 1] -> [M].
    """
    return mse(outputs, y) / (2 * NOISE_SD**2) + math.log(NOISE_SD * math.sqrt(2 * math.pi))


def gaussian_nll(outputs: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of each member in nats, mean over examples, its own variance learnt.

    -ln N(y; mu, v) = ((y - mu)^2 / v + ln v + ln 2 pi) / 2, v = softplus(raw) + 1e-6. outputs [M, B, 2],
    mu and raw; y [B, 1] or [M, B, 1]; returns [M]. Source: Lakshminarayanan et al.
    2017, "Deep Ensembles", equation 1.
    """
    mean, raw = outputs.chunk(2, -1)
    variance = F.softplus(raw) + MIN_VARIANCE
    terms = (y - mean).square() / variance + variance.log() + math.log(2 * math.pi)
    return terms.flatten(1).mean(1) / 2


def normal_kl(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL(N(mean, sd^2) || N(0, 1)) in nats, summed over all numbers: a scalar."""
    return (0.5 * ((2 * log_sd).exp() + mean.square() - 1) - log_sd).sum()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mse, "gaussian": gaussian}
