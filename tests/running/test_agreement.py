"""Two runs of one cell are compared bit for bit or within a tolerance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.running import agreement
from bench.running.agreement import (
    RETRAINED,
    SAME_FIT,
    Comparison,
    Tolerance,
    compare_arrays,
    compare_rows,
)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.booleans(), st.integers(1, 10**6))
def test_the_tolerance_is_symmetric_and_shrinks_with_more_examples(first, second, share, count):
    for tolerance in (SAME_FIT, RETRAINED):
        allowed = tolerance.allowed(first, second, share, count)
        assert allowed == tolerance.allowed(second, first, share, count)
        assert allowed >= tolerance.allowed(first, second, share, 2 * count)
        assert allowed > tolerance.allowed(first, second, share, None) > 0


def test_tolerances_are_absolute_for_fractions_and_relative_for_numbers():
    tolerance = Tolerance(absolute=0.1, relative=0.5, exponent=0.5)
    assert tolerance.allowed(0.2, 0.9, True, None) == 0.1
    assert tolerance.allowed(0.2, 0.9, True, 100) == pytest.approx(0.1 + 0.1)
    assert tolerance.allowed(-8.0, 2.0, False, None) == 4.0
    assert tolerance.allowed(1e-9, 0.0, False, None) == 0.5 * agreement.MIN_SCALE


def rows_of(value, unit="nats", examples=""):
    key = tuple("nll_nats" if c == "metric" else "" for c in agreement.schema.KEY)
    return {key: {"value": value, "unit": unit, "examples": examples}}


@pytest.mark.parametrize(
    ("old", "new", "exact", "near"),
    [
        ("1.0", "1.0", True, True),
        ("1.0", "1.0000001", False, True),
        ("1.0", "1.1", False, False),
        ("nan", "nan", True, True),
        ("nan", "1.0", False, False),
        ("inf", "1.0", False, False),
    ],
)
def test_rows_are_compared_as_text_or_as_numbers(old, new, exact, near):
    for tolerance, agrees in ((None, exact), (SAME_FIT, near)):
        found = Comparison()
        compare_rows(rows_of(old), rows_of(new), tolerance, found)
        assert (not found.differing) is agrees
        assert (found.largest is None) is (old == new)


def test_counts_of_examples_are_compared_only_without_a_tolerance():
    for tolerance, count in ((None, 1), (SAME_FIT, 0)):
        found = Comparison()
        compare_rows(rows_of("1.0", examples="10"), rows_of("1.0", examples="9"), tolerance, found)
        assert len(found.differing) == count


@pytest.mark.parametrize(
    ("old", "new", "exact", "near"),
    [
        (np.ones(4, "f4"), np.ones(4, "f4"), True, True),
        (np.ones(4, "f4"), np.full(4, 1 + 1e-6, "f4"), False, True),
        (np.ones(4, "f4"), np.ones(4, "f8"), False, False),
        (np.ones(4, "f4"), np.ones(5, "f4"), False, False),
        (np.ones(9, "f4"), np.full(9, 9, "f4"), False, False),
        (np.array([math.inf, 1]), np.array([math.inf, 1]), True, True),
        (np.array([math.nan] * 9), np.ones(9), False, False),
    ],
)
def test_arrays_are_compared_by_bytes_or_by_means(old, new, exact, near):
    for tolerance, agrees in ((None, exact), (SAME_FIT, near)):
        found = Comparison()
        compare_arrays({"a": old}, {"a": new}, tolerance, found)
        assert (not found.differing) is agrees and found.arrays == 1
