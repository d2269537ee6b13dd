"""The page's text: well formed, complete, with every link leading somewhere."""

from __future__ import annotations

import shutil
from collections import Counter
from html.parser import HTMLParser

import pandas as pd
import pytest
from test_report import METHODS, fake_failure, fake_run

from bench import report
from bench.report.arrays import Images
from bench.report.layout.tables import Cell, TextTable
from bench.report.output.folds import finding
from bench.report.paired import VERDICTS
from bench.report.questions import QUESTIONS, Place
from bench.report.ranks import standings


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for method, largest in METHODS.items():
        fake_run(folder, method, "digits", "quick", 0, largest)
    fake_run(folder, "hypergan", "digits", "smoke", 0)
    fake_failure(folder)
    report.build(folder)
    return folder


class Outline(HTMLParser):
    """Tracks open tags and mismatched closing tags."""

    def __init__(self):
        super().__init__()
        self.open, self.wrong, self.count = [], [], Counter()
        self.ids, self.links = [], []

    def handle_starttag(self, tag, attributes):
        self.count[tag] += 1
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[k] for k in ("href", "src") if k in found]
        if tag == "img":
            assert found["alt"]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_well_formed_and_all_that_it_links_to_is_there(results):
    text = (results / "report.html").read_text()
    outline = Outline()
    outline.feed(text)
    assert not outline.open and not outline.wrong
    assert outline.count["img"] == len(list((results / "figures").glob("*.svg")))
    assert len(set(outline.ids)) == len(outline.ids)
    assert len(text) < 3_000_000
    for link in outline.links:
        found = link.removeprefix("#") in outline.ids if link.startswith("#") else (results / link).is_file()
        assert found or link == "data:,", link


def test_a_single_file_holds_its_figures(results, tmp_path):
    folder = shutil.copytree(results, tmp_path / "copy")
    report.build(folder, single_file=True)
    outline = Outline()
    outline.feed((folder / "report.html").read_text())
    inside = [link for link in outline.links if link.startswith("data:image/svg+xml;base64,")]
    assert len(inside) == outline.count["img"] > 0


def test_every_number_of_a_method_leads_to_its_runs(results):
    text = (results / "report.html").read_text()
    assert 'href="#runs-quick-cpu-digits-hypergan"' in text
    line = text.partition('<tr id="runs-quick-cpu-digits-hypergan">')[2].partition("</tr>")[0]
    assert all(part in line for part in ("raw/digits-", "c0ffee", "abcabcabcabc", "cpu", "2025-01-01"))


def ranks(values, verdicts=(), question=0):
    """Rank and mark of each method; values: by method, one number a seed. verdicts: better of each pair."""
    asked = QUESTIONS[question]
    at = Place("t", "d", asked.metrics[0], float("nan"))
    lines = [
        {
            "method": method,
            "members": 10,
            "seed": seed,
            "value": value,
            "run": f"{method}{seed}",
            "examples": 9,
        }
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]
    place = {"task": "t", "dataset": "d", "metric": asked.metrics[0], "members": 10, "over": "images"}
    tested = [
        place | {"method": a, "other": b, "verdict": "tie" if not way else "higher"}
        | {"difference": way or 0.1, "p_holm": 0.01 if way else 0.5}
        for a, b, way in verdicts
    ]  # fmt: skip
    table = pd.DataFrame(tested, columns=list(VERDICTS))
    answers = pd.DataFrame(lines).assign(examples=9)
    found = standings(asked, at, answers, table, Images(None))
    return {standing.method: (standing.rank, standing.settled) for standing in found}


def test_methods_that_no_test_tells_apart_share_a_rank():
    numbers = {"a": [0.99], "b": [0.98], "c": [0.97]}
    assert ranks(numbers, [("a", "b", 0), ("a", "c", 1), ("b", "c", 1)]) == {
        "a": (1, True), "b": (1, True), "c": (3, True),
    }  # fmt: skip


def test_the_number_places_what_was_not_tested_and_the_rank_says_so():
    assert ranks({"a": [0.99], "b": [0.98]}) == {"a": (1, False), "b": (2, False)}
    assert ranks({"a": [0.9], "b": [0.9]}) == {"a": (1, False), "b": (1, False)}


def test_a_rank_follows_the_test_and_not_the_number_where_they_differ():
    assert ranks({"a": [0.99], "b": [0.98]}, [("a", "b", -1)]) == {"b": (1, True), "a": (2, True)}


def test_tests_that_contradict_each_other_still_leave_a_first():
    found = ranks({"a": [0.9], "b": [0.8], "c": [0.7]}, [("a", "b", 1), ("b", "c", 1), ("a", "c", -1)])
    assert sorted(found.values()) == [(1, True), (2, True), (3, True)]


def test_seeds_are_paired_and_less_is_better_where_the_metric_says_so():
    assert QUESTIONS[1].metrics == ("nll_nats",)
    found = ranks({"a": [0.1, 0.2, 0.3], "b": [0.2, 0.31, 0.4], "c": [0.3, 0.1, 0.2]}, question=1)
    assert found == {"a": (1, True), "c": (1, True), "b": (3, True)}


def test_a_summary_names_the_best_of_the_largest_size():
    lines = [[Cell("5"), Cell("a"), Cell("1", best=True)], [Cell("10"), Cell("b"), Cell("2", best=True)]]
    text = TextTable({}, ["networks", "method", "NLL [nats]\u00a0↓"], lines, lead=2)
    assert finding(text) == "best NLL [nats]: 2 (b, 10 networks)"
    verdicts = TextTable({}, ["verdict"], [[Cell("tie")], [Cell("a higher")], [Cell("b higher")]], lead=1)
    assert finding(verdicts) == "2 decided, 1 tie"
