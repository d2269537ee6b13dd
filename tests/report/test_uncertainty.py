"""Intervals, bands and tests against hand-worked values, all resamples of small sets, and scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.report.uncertainty import (
    auroc,
    auroc_sd,
    dkw_half_width,
    ecdf,
    holm,
    ks_distance,
    mcnemar,
    paired_resamples,
    paired_t,
    quantile_interval,
    resampled_aurocs,
    seeds_to_resolve,
    share_interval,
    share_sd,
    t_interval,
    variation_interval,
    wasserstein_distance,
)

FEW = st.lists(st.integers(0, 9), min_size=1, max_size=9)
# Worked in facts/evaluation.md, section 3: 11 of 12 pairs in order.
INSIDE, OUTSIDE = [0.1, 0.2, 0.3, 0.4], [0.35, 0.5, 0.6]


def area(inside, outside):
    """AUROC by an independent library."""
    return stats.mannwhitneyu(outside, inside).statistic / (len(inside) * len(outside))


def scores(seed, n=40, m=25, apart=0.8, tied=True):
    """Scores of one method; tied: rounded to one decimal, so that many are equal."""
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(0, 1, n), rng.normal(apart, 1, m)
    return (inside.round(1), outside.round(1)) if tied else (inside, outside)


def test_t_interval_of_five_seeds_by_hand():
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
def test_t_interval_refuses_empty_or_multidimensional_values(values):
    with pytest.raises(ValueError, match="one value per seed"):
        t_interval(values)


def test_ecdf_is_right_continuous():
    x, y = ecdf([1, 2, 2, 4])
    assert dict(zip(x, y, strict=True)) == {1: 0.25, 2: 0.75, 4: 1.0}
    other = stats.ecdf([1, 2, 2, 4]).cdf
    assert np.array_equal(x, other.quantiles) and np.allclose(y, other.probabilities)


@pytest.mark.parametrize("values", [[], [0.0, math.nan]])
def test_ecdf_refuses_empty_or_nan_values(values):
    with pytest.raises(ValueError, match="expected numbers"):
        ecdf(values)


def test_dkw_band_shrinks_with_the_root_of_the_sample_size():
    assert dkw_half_width(1) == pytest.approx(math.sqrt(math.log(40) / 2))
    assert dkw_half_width(100) == pytest.approx(dkw_half_width(1) / 10)
    with pytest.raises(ValueError, match="at least one"):
        dkw_half_width(0)


def test_dkw_band_has_its_nominal_coverage_for_the_uniform_distribution():
    rng = np.random.default_rng(0)
    n, times = 200, 500
    held = 0
    for _ in range(times):
        x, y = ecdf(rng.random(n))
        gap = max(np.max(np.abs(y - x)), np.max(np.abs(y - 1 / n - x)))
        held += gap <= dkw_half_width(n)
    assert held / times >= 0.93


def test_sd_of_a_share_agrees_with_a_bootstrap():
    right = np.arange(360) < 352
    drawn = stats.bootstrap(
        (right,), np.mean, axis=-1, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    )
    assert share_sd(352, 360) == pytest.approx(drawn.standard_error, rel=0.03)
    assert share_sd(3, 4) == pytest.approx(math.sqrt(3 / 64))


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_a_share_of_nothing_is_refused(successes, n):
    with pytest.raises(ValueError, match=f"found {successes} of {n}"):
        share_sd(successes, n)


def test_auroc_by_hand_and_with_ties():
    assert auroc(INSIDE, OUTSIDE) == pytest.approx(11 / 12)
    assert auroc([0, 0, 1], [0, 1, 1]) == pytest.approx(2 / 3)
    assert auroc([1.0], [1.0]) == 0.5


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9)
)
def test_auroc_agrees_with_an_independent_library(inside, outside):
    assert auroc(inside, outside) == pytest.approx(area(inside, outside), abs=1e-12)


@pytest.mark.parametrize(("inside", "outside"), [([0, 1], [0, 1, 2]), ([0, 2, 2], [1, 2]), ([3, 3], [3, 3])])
def test_sd_of_an_auroc_agrees_with_all_resamples(inside, outside):
    every = [
        area([inside[i] for i in a], [outside[j] for j in b])
        for a in itertools.product(range(len(inside)), repeat=len(inside))
        for b in itertools.product(range(len(outside)), repeat=len(outside))
    ]
    assert auroc_sd(inside, outside) == pytest.approx(np.std(every), abs=1e-12)


def test_resampled_aurocs_agree_with_direct_computation():
    first, second = scores(0), scores(1)
    found = resampled_aurocs([first, second], rng_seed=3, resamples=50)
    rng = np.random.default_rng(3)
    for r in range(50):
        i, j = rng.integers(0, 40, 40), rng.integers(0, 25, 25)
        expected = [area(inside[i], outside[j]) for inside, outside in (first, second)]
        assert found[:, r] == pytest.approx(expected, abs=1e-12)


def test_sd_of_resampled_aurocs_agrees_with_the_exact_one():
    inside, outside = scores(0)
    assert np.std(resampled_aurocs([(inside, outside)], 0)[0]) == pytest.approx(
        auroc_sd(inside, outside), rel=0.1
    )


def paired(first, second, rng_seed, resamples=1000):
    """The difference of two methods' AUROCs, tested on the same resamples of the images for both."""
    one, other = resampled_aurocs([first, second], rng_seed, resamples)
    return paired_resamples(auroc(*first) - auroc(*second), one - other)


def test_interval_of_a_paired_difference_agrees_with_scipys_bootstrap():
    first, second = scores(0), scores(1, apart=0.1)

    def difference(i, j):
        return area(first[0][i], first[1][j]) - area(second[0][i], second[1][j])

    other = stats.bootstrap(
        (np.arange(40), np.arange(25)), difference, n_resamples=200, batch=1, vectorized=False, paired=False,
        method="percentile", rng=np.random.default_rng(7),
    )  # fmt: skip
    found = paired(first, second, 7, 200)
    assert found.difference == pytest.approx(area(*first) - area(*second))
    assert (found.low, found.high) == pytest.approx(other.confidence_interval, abs=1e-12)


def test_a_difference_changes_sign_with_the_order_of_the_methods():
    first, second = scores(0), scores(1, apart=0.1)
    one, other = paired(first, second, 0, 200), paired(second, first, 0, 200)
    assert one.difference == -other.difference and one.p == pytest.approx(other.p)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_pairing_increases_power_for_methods_that_agree_on_most_images():
    inside, outside = scores(0, 300, 300, tied=False)
    better = outside + 0.1
    both = paired((inside, better), (inside, outside), 0)
    alone = [auroc_sd(inside, better), auroc_sd(inside, outside)]
    assert (both.high - both.low) / (2 * 1.96) < 0.2 * math.hypot(*alone)
    assert both.p < 1e-6


def test_p_of_a_paired_auroc_is_close_to_the_share_of_resamples_beyond_zero():
    first, second = scores(0, 150, 150, 0.8), scores(1, 150, 150, 0.3)
    drawn = np.diff(resampled_aurocs([second, first], 0, 4000), axis=0)[0]
    counted = 2 * (1 + (drawn <= 0).sum()) / (1 + len(drawn))
    assert 0.01 < counted < 0.5
    assert paired(first, second, 0, 4000).p == pytest.approx(counted, rel=0.2)


def test_p_of_a_paired_auroc_is_uniform_under_the_null_hypothesis():
    p = [paired(scores(2 * k, 60, 60), scores(2 * k + 1, 60, 60), k, 100).p for k in range(300)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_p_of_constant_resamples_depends_only_on_their_number():
    assert paired_resamples(0.0, np.zeros(99)) == (0, 0, 0, 1)
    assert paired_resamples(0.5, np.full(99, 0.5)) == (0.5, 0.5, 0.5, 2 / 100)
    same = scores(0)
    assert paired(same, same, 0, 50) == (0, 0, 0, 1)


def test_the_same_seed_gives_the_same_resamples():
    one, again, other = (resampled_aurocs([scores(0)], rng_seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], []), ([1.0, math.nan], [2.0])])
def test_empty_or_nan_scores_are_refused(inside, outside):
    calls = (auroc, auroc_sd, lambda a, b: resampled_aurocs([(a, b)], 0), ks_distance, wasserstein_distance)
    for function in calls:
        with pytest.raises(ValueError, match=r"expected .* without NaN, found shape"):
            function(inside, outside)


def test_paired_scores_must_have_equal_lengths():
    with pytest.raises(ValueError, match=r"found \[\(40, 24\), \(40, 25\)\] images"):
        resampled_aurocs([scores(0), scores(1, m=24)], 0)
    with pytest.raises(ValueError, match="0 resamples"):
        resampled_aurocs([scores(0)], rng_seed=0, resamples=0)


def rights(both, first, second, neither):
    """Correctness of two methods, given the number of images in each of the four cases."""
    one = [True] * both + [True] * first + [False] * second + [False] * neither
    return np.array(one), np.array([True] * both + [False] * first + [True] * second + [False] * neither)


def test_mcnemar_by_hand():
    # 5 images for one and 1 for the other: p = 2 (1 + 6) / 2^6.
    found = mcnemar(*rights(10, 5, 1, 4))
    assert found.difference == pytest.approx(4 / 20) and found.p == pytest.approx(14 / 64)
    assert mcnemar(*rights(10, 3, 3, 4)).p == 1
    assert mcnemar(*rights(10, 0, 0, 4)) == (0, 0, 0, 1)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 50))
def test_interval_of_mcnemar_excludes_zero_if_p_is_small(first, second, both):
    if first + second + both == 0:
        return
    found = mcnemar(*rights(both, first, second, 0))
    assert found.low <= found.difference <= found.high
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
    turned = mcnemar(*rights(both, second, first, 0))
    assert turned == pytest.approx((-found.difference, -found.high, -found.low, found.p))


@pytest.mark.parametrize(
    ("first", "second"), [([True], [True, False]), ([], []), ([1, 0], [1, 1]), ([[True]], [[True]])]
)
def test_mcnemar_refuses_invalid_correctness_arrays(first, second):
    with pytest.raises(ValueError, match="correctness of the same images"):
        mcnemar(np.array(first), np.array(second))


def test_paired_t_agrees_with_scipy():
    first, second = [0.91, 0.93, 0.92, 0.95, 0.90], [0.90, 0.93, 0.90, 0.93, 0.91]
    other = stats.ttest_rel(first, second)
    found = paired_t(first, second)
    assert found.difference == pytest.approx(0.008)
    assert found.p == pytest.approx(other.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(other.confidence_interval()), rel=1e-12)


def test_pairing_is_needed_for_correlated_seeds():
    luck = np.array([0.90, 0.95, 0.92, 0.97])
    better = luck + np.array([0.01, 0.012, 0.009, 0.011])
    assert paired_t(better, luck).p < 0.001 < 0.5 < stats.ttest_ind(better, luck).pvalue


def test_equal_values_on_every_seed_are_no_difference():
    assert paired_t([0.9, 0.8], [0.9, 0.8]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([0.9], [0.8], "two shared seeds or more, found 1"),
        ([0.9, 0.8], [0.9], "the same seeds, found 2 and 1"),
        ([0.9, math.nan], [0.9, 0.8], "1 NaN"),
        ([0.9, 0.8, 0.7], [0.89, 0.79, 0.69], "the same on all 3 seeds"),
    ],
)
def test_seeds_that_cannot_be_compared_are_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        paired_t(first, second)


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, then 0.03 * 2 and 0.04, which cannot be less than 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p):
    found = holm(p)
    assert all(found >= np.array(p)) and all(found <= np.minimum(1, np.array(p) * len(p) + 1e-12))
    order = np.argsort(p, kind="stable")
    assert all(np.diff(found[order]) >= 0)


@pytest.mark.parametrize("p", [[0.1, math.nan], [1.1], [-0.1]])
def test_holm_refuses_invalid_p_values(p):
    with pytest.raises(ValueError, match="within"):
        holm(p)


# scipy warns about the p-value for so few values, which is not used.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=9), st.lists(st.integers(0, 9), min_size=1, max_size=9)
)
def test_distances_of_distributions_agree_with_scipy_and_are_symmetric(a, b):
    assert ks_distance(a, b) == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12)
    assert wasserstein_distance(a, b) == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)
    assert ks_distance(a, b) == ks_distance(b, a) and ks_distance(a, a) == 0
    assert wasserstein_distance(a, a) == 0
    # The means differ by at most the transported mass: |E a - E b| <= W1.
    assert abs(np.mean(a) - np.mean(b)) <= wasserstein_distance(a, b) + 1e-12


def test_wasserstein_distance_of_a_shift_is_the_shift():
    x = np.random.default_rng(0).random(50)
    assert wasserstein_distance(x, x + 0.25) == pytest.approx(0.25)


def test_the_interval_of_a_share_is_that_of_clopper_and_pearson():
    for k, n in ((0, 16), (3, 10), (16, 16), (9900, 10_000)):
        exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert share_interval(k / n, n) == pytest.approx((exact.low, exact.high), abs=1e-12)
    # Between whole numbers, between their intervals.
    low, high = share_interval(0.35, 10)
    assert share_interval(0.3, 10)[0] < low < share_interval(0.4, 10)[0]
    assert share_interval(0.3, 10)[1] < high < share_interval(0.4, 10)[1]
    for share, n in ((1.1, 10), (-0.1, 10), (0.5, 0), (math.nan, 10)):
        with pytest.raises(ValueError, match="expected a share"):
            share_interval(share, n)


def test_the_interval_of_a_quantile_covers_it_in_95_of_100_samples():
    # Of nine values the median lies between the second and the eighth: 1 - 2 * 10 / 512 = 0.961.
    assert quantile_interval(range(1, 10), 0.5) == (2, 8)
    assert quantile_interval([1, 2, 3], 0.5) == (-math.inf, math.inf)
    rng = np.random.default_rng(0)
    for q in (0.25, 0.5):
        ends = np.array([quantile_interval(rng.random(200), q) for _ in range(400)])
        assert 0.93 <= ((ends[:, 0] <= q) & (q <= ends[:, 1])).mean() <= 1
    with pytest.raises(ValueError, match="1 NaN"):
        quantile_interval([1, math.nan], 0.5)


def test_the_interval_of_a_coefficient_of_variation_covers_it_in_95_of_100_samples():
    rng = np.random.default_rng(0)
    for ratio, n in ((0.02, 5), (0.2, 10), (0.3, 100)):
        x = rng.normal(1, ratio, (1000, n))
        found = x.std(1, ddof=1) / x.mean(1)
        ends = np.array([variation_interval(float(r), n) for r in found])
        assert 0.93 <= ((ends[:, 0] <= ratio) & (ratio <= ends[:, 1])).mean() <= 0.97
    # For a small ratio that of a standard deviation: sd sqrt((n - 1) / chi2).
    low, high = variation_interval(1e-6, 5)
    expected = [1e-6 * math.sqrt(4 / stats.chi2.ppf(level, 4)) for level in (0.975, 0.025)]
    assert (low, high) == pytest.approx(expected)
    for ratio, n in ((0.1, 1), (-0.1, 5), (math.nan, 5)):
        with pytest.raises(ValueError, match="expected a ratio"):
            variation_interval(ratio, n)


def test_the_seeds_that_resolve_a_difference():
    for sd, distance in ((1.0, 0.5), (0.2, 0.5)):
        k = seeds_to_resolve(sd, distance, 100)
        half = [stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n) for n in (k, k - 1)]
        assert half[0] < distance and (k == 2 or distance <= half[1])
    assert seeds_to_resolve(1.0, 0.0, 100) is None and seeds_to_resolve(1.0, 0.01, 100) is None
