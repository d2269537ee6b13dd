"""Tables for LaTeX: booktabs, one cell a column, special characters escaped."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from bench.report.layout.tables import Cell, Table, TextTable
from bench.report.output import latex
from bench.report.output.latex import SIGNS, escaped, to_latex


def table():
    frame = pd.DataFrame(
        {
            "preset": "quick", "task": "a_b", "method": ["m_1 & co", "100%"], "members": [1, 1000],
            "metric": "accuracy", "unit": "fraction", "mean": [0.5, 0.75], "sd": [0.01, float("nan")],
            "seeds": [2, 1], "examples": 10, "device": "cpu",
        }
    )  # fmt: skip
    return Table(
        "t", "A title", "a note\nof 50 % more", frame, ("preset", "task"), ("method", "members"), ("metric",)
    )


def test_a_table_has_rules_a_caption_and_as_many_cells_a_line_as_columns():
    text = to_latex(table())
    assert [text.count(rf"\{rule}") for rule in ("toprule", "midrule", "bottomrule")] == [1, 1, 1]
    assert r"\caption{A title (quick $\cdot$ a\_b $\cdot$ 10 images)}" in text
    (layout,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert layout == "llrr" and len(lines) == 3
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {3}
    assert r"m\_1 \& co & 1 & 50.0 $\pm$ 1.0 & 2 \\" in lines
    assert r"100\% & 1,000 & 75.00 & 1 \\" in lines  # no test tells it apart


def test_the_best_values_are_bold(monkeypatch):
    text = TextTable({}, ["accuracy"], [[Cell("75.00 %", best=True)], [Cell("50.00 %")]], lead=0)
    monkeypatch.setattr(latex, "text_tables", lambda table: [text])
    assert re.findall(r"^(.*) \\\\$", to_latex(table()), re.M)[1:] == [r"\textbf{75.00 \%}", r"50.00 \%"]


def test_notes_are_comments():
    assert "% a note of 50 % more\n" in to_latex(table())


@pytest.mark.parametrize(
    ("plain", "written"),
    [
        ("a_b%&#${}", r"a\_b\%\&\#\$\{\}"),
        (r"\x", r"\textbackslash{}x"),
        ("x^2~y<z", r"x\textasciicircum{}2\textasciitilde{}y\textless{}z"),
        ("0.5 ± 0.1 †", r"0.5 $\pm$ 0.1 $\dagger$"),
        ("Müller", "Müller"),
    ],
)
def test_special_characters_are_escaped(plain, written):
    assert escaped(plain) == written


def test_signs_are_written_in_ascii():
    assert "".join(SIGNS.values()).isascii() and not any(sign.isascii() for sign in SIGNS)
