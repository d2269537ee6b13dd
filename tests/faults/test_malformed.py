"""A few malformed files of each kind; `python tests/faults/malformed.py --inputs 2000` tests more."""

from __future__ import annotations

import pytest
from malformed import KINDS, feed, one


def test_malformed_files_are_refused_or_read_without_harm():
    tally = feed(220, seed=0)
    assert tally.faults == []
    assert sum(tally.counts.values()) >= 200


@pytest.mark.parametrize("kind", KINDS)
def test_valid_files_are_read_and_harmful_ones_are_refused(kind):
    assert one(KINDS[kind], KINDS[kind].whole()) == "read"
    assert {one(KINDS[kind], harm()) for harm in KINDS[kind].harmful} == {"refused"}
