"""Intervals over training seeds and bands of empirical distributions (numpy and scipy only)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.95  # the level of every interval and band of the report


class Interval(NamedTuple):
    """A mean over seeds with its spread; `sd`, `low` and `high` are NaN for a single seed."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


def t_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval for the mean: mean ± t(n-1) * sd / sqrt(n), in the unit of `values`.

    values: one number a training seed, [n]; sd has ddof=1. Raises: ValueError where there is none, as
    the mean of nothing is not a number. Source: Student 1908, as scipy.stats.t.interval.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"expected one value a seed, found shape {x.shape}; leave empty cells out")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1)
    sd = float(x.std(ddof=1))
    half = float(special.stdtrit(x.size - 1, 0.5 + confidence / 2)) * sd / math.sqrt(x.size)
    return Interval(mean, sd, mean - half, mean + half, int(x.size))


def ecdf(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The right-continuous step function F(x) = share of values <= x, at its jumps.

    values: [n]. Returns the distinct values in ascending order and F there, so the last is 1.
    Raises: ValueError where there is no value, or one that is not a number.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if not x.size or np.isnan(x).any():
        raise ValueError(
            f"expected numbers, found {x.size} of which {int(np.isnan(x).sum())} NaN; run the cell again"
        )
    jumps, counts = np.unique(x, return_counts=True)
    return jumps, np.cumsum(counts) / x.size


def dkw_half_width(n: int, confidence: float = CONFIDENCE) -> float:
    """Half-width of the band that holds a whole distribution function: sqrt(ln(2 / alpha) / (2 n)).

    n: independent values behind the ECDF. Raises: ValueError if n < 1.
    Source: Dvoretzky, Kiefer and Wolfowitz 1956, with the constant of Massart 1990.
    """
    if n < 1:
        raise ValueError(f"expected at least one value, found {n}; leave empty sets out")
    return math.sqrt(math.log(2 / (1 - confidence)) / (2 * n))
