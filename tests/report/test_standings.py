"""What a sweep found: best first, and methods that no paired test tells apart share a rank."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.report import standings
from bench.report.paired import Family

PLACE = {"preset": "quick", "device": "cpu", "task": "t", "dataset": "d", "metric": "accuracy"}


class NoImages:
    """Arrays that were not kept."""

    def right(self, run, dataset, members):
        return None


def family(**values):
    """Accuracies by method over seeds, at 10 networks, and lower ones of single networks."""
    cells = {}
    for method, own in values.items():
        for members, less in ((1, 0.2), (10, 0.0)):
            frame = pd.DataFrame({"value": np.array(own) - less, "run": method, "examples": 100})
            cells[method, members] = frame.rename_axis("seed")
    return Family(PLACE, cells, {}, "", NoImages())


def shown(found):
    return [(line.rank, line.tied, line.method) for line in standings.ranked(found)]


def test_methods_that_a_paired_test_tells_apart_have_ranks_of_their_own():
    found = family(low=[0.70, 0.71, 0.72, 0.70], high=[0.90, 0.912, 0.918, 0.90])
    assert shown(found) == [(1, False, "high"), (2, False, "low")]
    best = standings.ranked(found)[0]
    assert (best.members, best.seeds) == (10, 4) and best.mean == pytest.approx(0.9075)


def test_methods_that_no_test_tells_apart_share_a_rank():
    found = family(a=[0.90, 0.92, 0.91, 0.89], b=[0.91, 0.90, 0.92, 0.90], c=[0.5, 0.51, 0.52, 0.49])
    assert shown(found) == [(1, True, "b"), (1, True, "a"), (3, False, "c")]


def test_without_a_test_the_means_decide_and_nothing_is_called_a_tie():
    assert shown(family(a=[0.9], b=[0.8])) == [(1, False, "a"), (2, False, "b")]
    assert shown(family(a=[0.9], b=[0.9])) == [(1, False, "a"), (1, False, "b")]


def test_runs_of_a_folder_make_a_table_and_damaged_ones_do_not_matter(tmp_path):
    assert standings.of_runs(tmp_path, ["nothing"]) == []
