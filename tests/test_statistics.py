"""Intervals and bands against numbers worked by hand (facts/evaluation.md, section 3) and against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from bench.statistics import dkw_half_width, ecdf, t_interval


def test_t_interval_of_five_seeds_is_the_one_worked_by_hand():
    values = [0.91, 0.93, 0.92, 0.95, 0.90]
    found = t_interval(values)
    assert found.n == 5
    assert found.mean == pytest.approx(0.922)
    assert found.sd == pytest.approx(0.019235, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.898116, 0.945884), abs=1e-6)
    other = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(other, rel=1e-12)


def test_one_seed_has_a_mean_and_no_spread():
    found = t_interval([0.1])
    assert (found.mean, found.n) == (0.1, 1)
    assert all(math.isnan(x) for x in (found.sd, found.low, found.high))


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_t_interval_refuses_what_is_no_list_of_seeds(values):
    with pytest.raises(ValueError, match="one value a seed"):
        t_interval(values)


def test_ecdf_is_right_continuous():
    x, y = ecdf([1, 2, 2, 4])
    assert dict(zip(x, y, strict=True)) == {1: 0.25, 2: 0.75, 4: 1.0}
    other = stats.ecdf([1, 2, 2, 4]).cdf
    assert np.array_equal(x, other.quantiles) and np.allclose(y, other.probabilities)


@pytest.mark.parametrize("values", [[], [0.0, math.nan]])
def test_ecdf_refuses_what_is_no_sample(values):
    with pytest.raises(ValueError, match="expected numbers"):
        ecdf(values)


def test_dkw_band_shrinks_with_the_root_of_the_sample():
    assert dkw_half_width(1) == pytest.approx(math.sqrt(math.log(40) / 2))
    assert dkw_half_width(100) == pytest.approx(dkw_half_width(1) / 10)
    with pytest.raises(ValueError, match="at least one"):
        dkw_half_width(0)


def test_dkw_band_holds_the_uniform_distribution_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n, times = 200, 500
    held = 0
    for _ in range(times):
        x, y = ecdf(rng.random(n))
        gap = max(np.max(np.abs(y - x)), np.max(np.abs(y - 1 / n - x)))
        held += gap <= dkw_half_width(n)
    assert held / times >= 0.93
