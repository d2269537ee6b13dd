"""Uncertainty of the report's numbers: over training seeds, over images, between methods (numpy and scipy).

Images are resampled with replacement (the bootstrap of Efron 1979), the two sets of an AUROC separately.
A training seed gives one value: seeds are compared by Student's t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

CONFIDENCE = 0.95  # the level of every interval and band of the report
# 25 lie beyond each end of a 95 % interval. Efron and Tibshirani 1993 recommend about this number.
RESAMPLES = 1000
# Relative variation of differences over seeds below which it is only rounding.
ROUNDING = 1e-9
Scores = tuple[ArrayLike, ArrayLike]  # of one method: of in-distribution images [n], of outliers [m]


class Interval(NamedTuple):
    """A mean over seeds with its spread; `sd`, `low` and `high` are NaN for a single seed."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


class Paired(NamedTuple):
    """A paired difference of two methods, first minus second; p is two-sided."""

    difference: float
    low: float
    high: float
    p: float


def t_interval(values: ArrayLike) -> Interval:
    """Student's interval for the mean: mean ± t(n-1) * sd / sqrt(n), in the unit of `values`.

    values: one number per training seed, [n]; sd has ddof=1. Raises: ValueError if there is none.
    Source: Student 1908, as scipy.stats.t.interval.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"expected one value per seed, found shape {x.shape}; omit empty cells")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1)
    sd = float(x.std(ddof=1))
    half = float(special.stdtrit(x.size - 1, 0.5 + CONFIDENCE / 2)) * sd / math.sqrt(x.size)
    return Interval(mean, sd, mean - half, mean + half, int(x.size))


def ecdf(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The right-continuous step function F(x) = share of values <= x, at its jumps.

    values: [n]. Returns the distinct values in ascending order and F at these, so the last is 1.
    Raises: ValueError if there is no value, or a NaN.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    if not x.size or np.isnan(x).any():
        raise ValueError(
            f"expected numbers, found {x.size} of which {int(np.isnan(x).sum())} NaN; run the cell again"
        )
    jumps, counts = np.unique(x, return_counts=True)
    return jumps, np.cumsum(counts) / x.size


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a share of n images; for a mean of values in [0, 1] a wide one.

    The ends are quantiles: alpha/2 of Beta(k, n - k + 1) and 1 - alpha/2 of Beta(k + 1, n - k), with
    k = share * n. Of values within [0, 1] those that are 0 or 1 vary most at the same mean: the interval of
    a mean of such values (of the share of networks that are right, say) is no wider than this one.
    Raises: ValueError unless 0 <= share <= 1 and n > 0. Source: Clopper and Pearson 1934.
    """
    if not (n > 0 and 0 <= share <= 1):
        raise ValueError(f"expected a share within [0, 1] of one image or more, found {share} of {n}")
    k, tail = share * n, (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def quantile_interval(values: ArrayLike, q: float) -> tuple[float, float]:
    """An interval for the q-quantile of the distribution behind values [n], between two of the sorted values.

    The number of values below the quantile is Binomial(n, q): the interval is [x_(l), x_(u + 1)] with l and
    u its alpha/2 and 1 - alpha/2 quantiles, counted from 1; infinite where n is too small for an end. Needs
    no assumption on the distribution. Raises: ValueError if there is no value, or a NaN. Source: David and
    Nagaraja 2003, "Order Statistics", section 7.1.
    """
    x = np.sort(_sample(values, "values"))
    tail = (1 - CONFIDENCE) / 2
    below, upto = (int(stats.binom.ppf(level, x.size, q)) for level in (tail, 1 - tail))
    low = float(x[below - 1]) if below > 0 else -math.inf
    return low, float(x[upto]) if upto < x.size else math.inf


def variation_interval(ratio: float, n: int) -> tuple[float, float]:
    """An interval for sd / mean of a normal quantity, from the ratio (ddof = 1) of n independent values.

    ratio / sqrt(((u + 2) / n - 1) ratio^2 + u / (n - 1)) with u the 1 - alpha/2 and alpha/2 quantiles of
    chi-squared with n - 1 degrees of freedom: McKay's method, modified by Vangel; accurate for ratios up to
    a third. Infinite at the upper end where the ratio is too large for an end. Raises: ValueError if n < 2
    or the ratio is negative. Source: Vangel 1996.
    """
    if n < 2 or not ratio >= 0:
        raise ValueError(f"expected a ratio of two values or more, at least 0, found {ratio} of {n}")
    tail = (1 - CONFIDENCE) / 2
    ends = []
    for level in (1 - tail, tail):
        u = float(stats.chi2.ppf(level, n - 1))
        under = ((u + 2) / n - 1) * ratio**2 + u / (n - 1)
        ends.append(ratio / math.sqrt(under) if under > 0 else math.inf)
    return ends[0], ends[1]


def seeds_to_resolve(sd: float, distance: float, most: int) -> int | None:
    """The fewest seeds, at most `most`, with which a t-interval of this sd is narrower than the distance.

    t(k-1) * sd / sqrt(k) < distance; None if there is no such number of seeds.
    """
    for k in range(2, most + 1):
        if float(special.stdtrit(k - 1, 0.5 + CONFIDENCE / 2)) * sd / math.sqrt(k) < distance:
            return k
    return None


def dkw_half_width(n: int) -> float:
    """Half-width of the confidence band of a distribution function: sqrt(ln(2 / alpha) / (2 n)).

    n: independent values behind the ECDF. Raises: ValueError if n < 1.
    Source: Dvoretzky, Kiefer and Wolfowitz 1956, with the constant of Massart 1990.
    """
    if n < 1:
        raise ValueError(f"expected at least one value, found {n}; omit empty sets")
    return math.sqrt(math.log(2 / (1 - CONFIDENCE)) / (2 * n))


def share_sd(successes: int, n: int) -> float:
    """Standard deviation of a share over all resamples of n images: sqrt(p (1 - p) / n), p = successes / n.

    Exact: a resampled count is Binomial(n, p). Raises: ValueError unless 0 <= successes <= n and n > 0.
    """
    p = _share(successes, n)
    return math.sqrt(p * (1 - p) / n)


def _share(successes: int, n: int) -> float:
    if not (n > 0 and 0 <= successes <= n):
        raise ValueError(f"expected 0 <= successes <= n, found {successes} of {n}; omit empty sets")
    return successes / n


def _sample(values: ArrayLike, name: str) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size or np.isnan(x).any():
        raise ValueError(
            f"expected {name} [n] without NaN, found shape {x.shape} with {int(np.isnan(x).sum())} NaN; "
            "omit empty sets, and run cells with NaN scores again"
        )
    return x


def _scores(scores: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    inside, outside = scores
    return _sample(inside, "in-distribution scores"), _sample(outside, "outlying scores")


class _Places(NamedTuple):
    """Order [n] of the in-distribution scores; for each outlier [m] how many are below, and at most equal."""

    order: NDArray[np.intp]
    below: NDArray[np.intp]
    upto: NDArray[np.intp]


def _places(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> _Places:
    order = np.argsort(inside, kind="stable")
    ranked = inside[order]
    return _Places(order, np.searchsorted(ranked, outside, "left"), np.searchsorted(ranked, outside, "right"))


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """P(an outlier's score exceeds an inlier's) + P(it equals it) / 2, of scores [n] and [m].

    Raises: ValueError if a set is empty or a score NaN. Source: Bamber 1975.
    """
    a, b = _scores((inside, outside))
    places = _places(a, b)
    return float((places.below + places.upto).sum() / (2 * a.size * b.size))


def auroc_sd(inside: ArrayLike, outside: ArrayLike) -> float:
    """Standard deviation of the AUROC over all resamples of the two sets of images, drawn separately.

    With k(x, y) = [y > x] + [y = x] / 2 the variance is ((m - 1) Var_x E_y k + (n - 1) Var_y E_x k +
    Var k) / (n m), with moments over the given images: the limit of a bootstrap, computed exactly.
    inside: scores [n]; outside: [m]. Raises: ValueError as `auroc`. Source: Bamber 1975, with the moments
    of the sample.
    """
    a, b = _scores((inside, outside))
    n, m = a.size, b.size
    places, mirror = _places(a, b), _places(b, a)
    of_outside = (places.below + places.upto) / (2 * n)
    of_inside = 1 - (mirror.below + mirror.upto) / (2 * m)
    area = float(of_outside.mean())
    ties = float((places.upto - places.below).sum()) / (n * m)
    # k is 1/2 on ties, so the mean of k^2 is the mean of k minus a quarter of the share of ties.
    whole = area - ties / 4 - area**2
    variance = ((m - 1) * float(of_inside.var()) + (n - 1) * float(of_outside.var()) + whole) / (n * m)
    return math.sqrt(max(variance, 0.0))


def resampled_aurocs(
    scores: Sequence[Scores], rng_seed: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """AUROC [S, R] of S methods in R resamples of shared images, the two sets drawn separately.

    scores: for each method the in-distribution scores [n] and those of outliers [m], all for the same
    images in the same order, so that differences between methods are paired. Resample r draws n, then m
    indices with replacement from `numpy.random.default_rng(rng_seed)`. Scores are sorted once; a resample
    counts how often it contains each image, and ties count half. Raises: ValueError if there is no method or
    resample, a set is empty, a score NaN, or lengths differ.
    """
    found = [_scores(pair) for pair in scores]
    sizes = sorted({(a.size, b.size) for a, b in found})
    if len(sizes) != 1 or resamples < 1:
        raise ValueError(
            f"expected scores of the same images and a resample or more, found {sizes} images and "
            f"{resamples} resamples; compare methods on one data set"
        )
    n, m = sizes[0]
    places = [_places(a, b) for a, b in found]
    rng = np.random.default_rng(rng_seed)
    sums = np.empty((len(places), resamples))
    upto = np.zeros(n + 1)  # integers, exact in float64: fast products, and ties stay exact
    for r in range(resamples):
        inside = np.bincount(rng.integers(0, n, n), minlength=n)
        outside = np.bincount(rng.integers(0, m, m), minlength=m).astype(np.float64)
        for s, place in enumerate(places):
            np.cumsum(inside[place.order], out=upto[1:])
            # Two products: adding the two long arrays first allocates memory and takes five times as long.
            sums[s, r] = outside @ upto[place.below] + outside @ upto[place.upto]
    return sums / (2 * n * m)


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def paired_resamples(difference: float, resampled: ArrayLike) -> Paired:
    """A difference on shared images with percentile interval and p from its resamples [R].

    p = 2 (1 - Phi(|difference| / sd of the resamples)): a p-value counted from resamples cannot fall below
    2 / (R + 1), with which Holm's procedure would reject nothing among dozens of pairs. If the resamples
    do not vary, p is that minimum, or 1 without a difference. Raises: ValueError for fewer than two
    resamples, or NaN. Source: Robin et al. 2011 (pROC), bootstrap test of two curves.
    """
    x = _sample(resampled, "resampled differences")
    if x.size < 2:
        raise ValueError(f"expected two resamples or more, found {x.size}; raise `resamples`")
    low, high = _percentiles(x)
    sd = float(x.std(ddof=1))
    if sd > ROUNDING * abs(difference):
        p = 2 * float(special.ndtr(-abs(difference) / sd))
    else:
        p = 2 / (x.size + 1) if difference else 1.0
    return Paired(difference, low, high, p)


def mcnemar(first: ArrayLike, second: ArrayLike) -> Paired:
    """Difference of two accuracies on shared images: (b - c) / n, b and c counting images only one has right.

    first, second: whether each image is correct, [n] bool. p is exact: b is Binomial(b + c, 1/2) if neither
    is better. The interval is that of Clopper and Pearson for b / (b + c), rescaled to the difference: it
    excludes 0 if p < 0.05; it is conditional on the number of discordant images, b + c.
    Raises: ValueError if there is no image, or lengths differ. Source: McNemar 1947; Clopper and Pearson
    1934.
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 1 or not a.size or a.dtype != bool or b.dtype != bool:
        raise ValueError(
            f"expected correctness of the same images, bool [n], found {a.dtype} {a.shape} and "
            f"{b.dtype} {b.shape}; compare methods on one data set"
        )
    better, worse = int((a & ~b).sum()), int((b & ~a).sum())
    apart = better + worse
    if not apart:
        return Paired(0.0, 0.0, 0.0, 1.0)
    test = stats.binomtest(better, apart, 0.5)
    low, high = test.proportion_ci(CONFIDENCE, "exact")
    scale = apart / a.size
    return Paired(
        (better - worse) / a.size, (2 * low - 1) * scale, (2 * high - 1) * scale, float(test.pvalue)
    )


def paired_t(first: ArrayLike, second: ArrayLike) -> Paired:
    """Mean difference over shared training seeds, with Student's interval and p for a difference of zero.

    first, second: one value per seed, in the same order, [n]. Equal values on all seeds give p = 1.
    Raises: ValueError if lengths differ, fewer than two seeds are shared, a value is NaN, or all seeds have
    the same non-zero difference, so that its variance cannot be estimated. Source: Student 1908.
    """
    a, b = _sample(first, "values of seeds"), _sample(second, "values of seeds")
    if a.size != b.size:
        raise ValueError(f"expected values of the same seeds, found {a.size} and {b.size}; pair them by seed")
    if a.size < 2:
        raise ValueError(f"expected two shared seeds or more, found {a.size}; run another seed")
    d = a - b
    over = t_interval(d)
    if not d.any():
        return Paired(0.0, 0.0, 0.0, 1.0)
    if float(np.ptp(d)) <= ROUNDING * float(np.abs(d).max()):
        raise ValueError(f"expected differences that vary, found the same on all {d.size} seeds; run more")
    t = abs(over.mean) / (over.sd / math.sqrt(over.n))
    return Paired(over.mean, over.low, over.high, 2 * float(special.stdtr(over.n - 1, -t)))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm-adjusted p-values [k], in the order given: rejecting those <= alpha bounds the family-wise error.

    The i-th smallest (from 0) times k - i, at least the previous one, at most 1; empty for empty input.
    Raises: ValueError if one is not within [0, 1]. Source: Holm 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected p-values [k] within [0, 1], found {p}; omit untested pairs")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)), 1)
    return adjusted


def ks_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Largest distance of two empirical distribution functions: sup_x |F_a(x) - F_b(x)|, from 0 to 1.

    a: values [n]; b: [m]. Raises: ValueError if a set is empty or a value NaN. Source: Smirnov 1939.
    """
    _, distance = _apart(a, b)
    return float(distance.max())


def wasserstein_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Area between two empirical distribution functions, the Wasserstein-1 distance: integral of |F_a - F_b|.

    a: values [n]; b: [m]; in their unit. Raises: ValueError if a set is empty or a value NaN.
    Source: Vallender 1974.
    """
    jumps, distance = _apart(a, b)
    # scipy's function uses a BLAS product, whose last digit depends on the number of threads.
    return float((distance[:-1] * np.diff(jumps)).sum())


def _apart(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All jumps of two ECDFs in ascending order [n + m], and |F_a - F_b| there."""
    x, y = np.sort(_sample(a, "values")), np.sort(_sample(b, "values"))
    jumps = np.sort(np.concatenate([x, y]))
    first, second = (np.searchsorted(s, jumps, "right") / s.size for s in (x, y))
    return jumps, np.abs(first - second)
