"""What a sweep found: best first, and methods that no paired test tells apart are marked."""

from __future__ import annotations

import math

import pandas as pd

from bench.report import standings
from bench.report.families import Answer, Family
from bench.report.questions import ACCURACY, QUESTIONS, Place
from bench.report.ranks import Standing


def family(*ranks):
    """A family whose methods a, b, c, ... have these ranks at 10 networks of 3 seeds."""
    found = [
        Standing(name, rank, 0.9 - rank / 100, math.nan, 10, 3, 100, (), (), (), ())
        for name, rank in zip("abcdefghijklmnop", ranks, strict=False)
    ]
    answer = Answer(QUESTIONS[0], Place("t", "d", "accuracy", math.nan), pd.DataFrame(), found)
    return Family("quick", "cpu", "t", ["t"], {ACCURACY: answer})


def test_methods_of_one_rank_are_marked_as_tied():
    assert list(standings.lines([family(1, 1, 3)])) == [
        "",
        "accuracy · t · quick · cpu · on d",
        "  1=  a    89.00 %     10 networks, 3 seeds",
        "  1=  b    89.00 %     10 networks, 3 seeds",
        "  3   c    87.00 %     10 networks, 3 seeds",
        "  =: no paired test tells them apart",
    ]


def test_long_tables_are_cut():
    found = list(standings.lines([family(*range(1, 15))]))
    assert found[-1] == "  and 2 more" and len(found) == 3 + standings.SHOWN


def test_runs_of_a_folder_make_a_table_and_damaged_ones_do_not_matter(tmp_path):
    assert standings.of_runs(tmp_path, ["nothing"]) == []
