"""Typed numbers: decimal digits in a range, and nothing else that Python takes for a number."""

from __future__ import annotations

import pytest

from bench.system.numbers import positive, whole


@pytest.mark.parametrize(
    "text", ["", "²", "٣", "१", "-1", "+1", " 1", "1_0", "1.0", "0x1", "101", "9" * 5000]
)
def test_other_texts_are_no_whole_numbers(text):
    with pytest.raises(ValueError, match="expected a whole number up to 100"):
        whole(text, 100)


def test_whole_numbers_reach_their_limit():
    assert [whole(text, 100) for text in ("0", "007", "100")] == [0, 7, 100]


@pytest.mark.parametrize("text", ["", ".", "nan", "inf", "-1", "0", "1e-999", "1e999", "1_0", "٣", "²", "e3"])
def test_other_texts_are_no_positive_numbers(text):
    with pytest.raises(ValueError, match="expected a number above 0"):
        positive(text, 1e6)


def test_positive_numbers_are_decimal():
    assert [positive(t, 1e6) for t in ("1", "0.5", ".5", "5.", "1e3", "2.5E-1")] == [
        1,
        0.5,
        0.5,
        5,
        1000,
        0.25,
    ]
