"""Table and figure of robust accuracy, on synthetic rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.records import schema
from bench.report.layout.figures import drawing_style, method_styles
from bench.report.output.markdown import to_markdown
from bench.report.rows import Material, prepare
from bench.report.sections import defence, robustness

VALUES = {"pgd": 0.6, "pgd-stop": 0.7, "eot": 0.5, "apgd-t": 0.4, "worst": 0.3}


def material(values=VALUES, size=5):
    """Robust accuracy by attack, higher on fresh networks, with rows of the resampling matrix beside it."""
    rows = []
    for attack, value in values.items():
        evaluation = "attack" if attack.startswith("pgd") else "adaptive"
        where = {"evaluation": evaluation, "dataset": "d", "attack": attack, "epsilon": 0.1, "examples": 100}
        fresh = "fresh" if evaluation == "attack" else "adaptive"
        for variant, members, more in (("same", size, 0.0), (fresh, size, 0.1), (fresh, 1, 0.2)):
            there = where | {"variant": variant, "members": members, "crafted_members": size}
            for sense in ("fused", "mixture"):
                rows.append(schema.row("robust_accuracy", value + more, success=sense, **there))
            rows.append(schema.row("detected_share", 1 - value, success="fused", **there))
            rows.append(schema.row("success_rate", 1 - value, success="fused", **there))
    place = {"run": "m-0", "method": "m", "task": "t", "train": "t", "preset": "quick", "seed": 0}
    place |= {"config": "c", "device": "cpu"}
    columns = pd.DataFrame(
        [dict.fromkeys(schema.COLUMNS, "") | r | place for r in rows], columns=schema.COLUMNS
    )
    numbers = [*schema.INTEGERS, *schema.FLOATS]
    frame = columns.assign(**{c: pd.to_numeric(columns[c], errors="coerce") for c in numbers})
    return Material(Path(), prepare(frame, {}), {}, pd.DataFrame())


def test_the_table_shows_each_attack_and_the_worst_first():
    (table,) = robustness.tables(material())
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("| 0.1 | 5 |")]
    assert [line.split(" | ")[2] for line in lines] == ["worst", "apgd-t", "eot", "pgd"]
    # Own and fresh, by mean logits and by mean probability; evasion was not measured.
    assert lines[0].startswith("| 0.1 | 5 | worst | m | 30.0 | 40.0 | 30.0 | 40.0 | 70.0")


def test_sizes_without_a_worst_have_no_lines():
    (table,) = robustness.tables(material({"pgd": 0.6, "eot": 0.5}))
    assert not len(table.frame)


def test_the_worst_has_no_line_among_the_attacks_that_know_the_defence():
    table = next(t for t in defence.tables(material()) if t.name == "adaptive-attacks")
    assert set(table.frame["attack"]) == {"pgd", "eot", "apgd-t"}


def test_the_figure_has_a_panel_per_epsilon_and_a_row_per_attack():
    part = material()
    with drawing_style():
        ((entry, plan),) = robustness.figures(part, method_styles(["m"]))
        figure = plan()
    assert entry.name == "robustness-t-quick"
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["worst", "apgd-t", "eot", "pgd"]
    drawn = {tuple(map(round, map(float, point))) for line in axes.lines for point in line.get_xydata()}
    assert {(30, 0), (40, 0), (60, 3), (70, 3)} <= drawn
