"""The README's table of results is the one that the committed rows give.

After new rows: `python tests/report/test_readme.py` writes it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.records import runs, schema, store
from bench.report.output.overview import BEGIN, END, overview, replaced
from bench.report.rows import prepare

ROOT = Path(__file__).parents[2]
COLUMNS = [
    ("mnist", "accuracy", 1),
    ("mnist", "accuracy", 5),
    ("mnist", "accuracy", 100),
    ("notmnist", "auroc", 100),
    ("cifar10", "accuracy", 5),
    ("cifar10", "accuracy", 100),
]


def committed() -> str:
    found = runs.find(ROOT / "results", parse=False)
    rows = found.newest()
    abouts = {run: found.runs[run].about for run in sorted(set(rows["run"]))}
    return overview(prepare(rows, abouts), COLUMNS, "quick", "cpu")


def test_the_table_of_results_is_that_of_the_committed_rows():
    text = (ROOT / "README.md").read_text()
    assert replaced(text, committed()) == text, "run python tests/report/test_readme.py"


def test_a_line_a_method_with_the_spread_over_seeds(tmp_path):
    def row(method, task, value, seed=0, members=5):
        return schema.row(
            "accuracy", value, run=f"{method}{task}{seed}{members}", method=method, task=task, train=task,
            preset="quick", seed=seed, members=members, evaluation="accuracy", dataset=task, device="cpu",
            config="c", examples=9, schema=2,
        )  # fmt: skip

    rows = [row("a", "t", 0.5), row("b", "t", 0.6), row("b", "t", 0.8, seed=1), row("c", "u", 0.25)]
    rows.append(row("d", "t", 0.9, members=10))  # no column has it
    path = tmp_path / "rows.csv"
    path.write_text(store.to_csv(rows))
    frame = store.read_csv(path)
    abouts = {run: {"order": 1} for run in set(frame["run"])}
    columns = [("t", "accuracy", 5), ("u", "accuracy", 5)]
    lines = overview(prepare(frame, abouts), columns, "quick", "cpu").splitlines()
    assert lines[0] == BEGIN and lines[-1] == END
    assert lines[3:-1] == ["| `b` | 70.00 ± 14.14 | — |", "| `a` | 50.00 | — |", "| `c` | — | 25.00 |"]


def test_a_document_without_marks_is_refused():
    assert replaced(f"x {BEGIN}old{END} y", "new") == "x new y"
    with pytest.raises(ValueError, match="results: begin"):
        replaced("no table", "new")


if __name__ == "__main__":
    place = ROOT / "README.md"
    place.write_text(replaced(place.read_text(), committed()))
