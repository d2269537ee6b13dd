"""The section on tuning: trials by rank, and nothing where nothing was tuned."""

from __future__ import annotations

import numpy as np

from bench.records import store, tuning
from bench.records.schema import row
from bench.report.layout.tables import text_tables
from bench.report.rows import Material
from bench.report.sections import tuning as section


def trial(results, run, nll, disagreement, **about):
    common = {
        "run": run, "method": "mnf", "task": "mnist", "train": "mnist", "preset": "quick", "seed": 0,
        "device": "cpu", "evaluation": "tune", "variant": "length 1/3",
    }  # fmt: skip
    seen = {"dataset": "mnist-val", "examples": 5000}
    rows = [
        row("nll_nats", nll, members=20, **seen, **common),
        row("disagreement", disagreement, members=20, **seen, **common),
        row("accuracy", 0.97, members=1, **seen, **common),
        row("accuracy", 0.98, members=20, **seen, **common),
        row("weight_cosine", 0.5, members=20, layer="conv1", **common),
        row("trial_cpu_seconds", 12.0, **common),
    ]
    document = {"code": "", "created": "2026-01-01", "cell": run, "failure": None, "config": {}, **about}
    store.write_run(tuning.folder(results), run, rows, {"nll": np.zeros(3)}, document)


def material(results, rows=None):
    return Material(results, rows, {}, None)


def test_trials_stand_by_rank_with_their_settings(tmp_path):
    trial(tmp_path, "mnf-a", 0.05, 0.01, candidate=0, length="1/3")
    trial(tmp_path, "mnf-b", 0.04, 0.02, candidate=7, length="1/3")
    ranked = [
        {"run": "mnf-b", "rank": 1, "settings": {"lr": 0.002, "batch": 50}},
        {"run": "mnf-a", "rank": 2, "settings": {}},
    ]
    tuning.write_chosen(tmp_path, "mnf-mnist-quick-s0", {"chosen": "mnf-b", "ranked": ranked})
    (table,) = section.tables(material(tmp_path))
    (text,) = text_tables(table)
    assert text.block == {"preset": "quick", "device": "cpu", "task": "mnist", "examples": "5,000 images"}
    lines = [[cell.text for cell in line] for line in text.lines]
    assert lines == [
        ["mnf", "1", "batch=50, lr=0.002", "1/3", "0.0400", "2.00", "97.00", "98.00", "12.0"],
        ["mnf", "2", "as the preset", "1/3", "0.0500", "1.00", "97.00", "98.00", "12.0"],
    ]


def test_without_a_tuning_the_table_has_no_lines(tmp_path):
    (table,) = section.tables(material(tmp_path))
    assert not len(table.frame)


def test_damaged_files_are_left_out_with_a_line_that_says_what_to_do(tmp_path, caplog):
    trial(tmp_path, "mnf-a", 0.05, 0.01, candidate=0, length="1/3")
    trial(tmp_path, "mnf-b", 0.04, 0.02, candidate=7, length="1/3")
    ranked = [{"run": f"mnf-{c}", "rank": i} for i, c in enumerate("ba", start=1)]
    tuning.write_chosen(tmp_path, "mnf-mnist-quick-s0", {"chosen": "mnf-b", "ranked": ranked})
    (tmp_path / "tuning/chosen/x.json").write_text('{"chosen": 3}')
    (tmp_path / "tuning/chosen/._x.json").write_bytes(b"\0\5")
    path = tmp_path / "tuning/raw/mnf-b.csv"
    path.write_text(path.read_text().replace("0.04", "0.01"))
    (table,) = section.tables(material(tmp_path))
    assert table.frame["run"].tolist() == ["mnf-a"]
    broken, edited = (record.getMessage() for record in caplog.records)
    assert "x.json: " in broken and broken.endswith("run bench tune again")
    assert "mnf-b.csv: " in edited and "edited or cut" in edited


def test_tunings_on_different_data_stand_in_blocks_of_their_own(tmp_path):
    for run, sums in (("mnf-a", "a"), ("mnf-b", "b")):
        trial(tmp_path, run, 0.05, 0.01, candidate=0, length="1/3", checksums={"mnist": sums})
        tuning.write_chosen(tmp_path, run, {"chosen": run, "ranked": [{"run": run, "rank": 1}]})
    (table,) = section.tables(material(tmp_path))
    tasks = [text.block["task"] for text in text_tables(table)]
    assert len(set(tasks)) == 2 and all(task.startswith("mnist [data ") for task in tasks)
