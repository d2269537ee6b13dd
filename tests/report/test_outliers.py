"""The table of OOD detection."""

from __future__ import annotations

import pandas as pd
import pytest

from bench.records import schema
from bench.report.rows import prepare
from bench.report.sections.outliers import ACCEPTED, OOD, out_of_distribution, selective


def test_accuracy_on_accepted_images_is_a_column_a_share_mean_over_seeds():
    place = {"method": "mnf", "task": "digits", "train": "digits", "preset": "quick", "config": "c"}
    place |= {"device": "cpu", "evaluation": "ood", "members": 10, "examples": 40}
    rows = []
    for seed in (0, 1):
        where = place | {"run": f"r{seed}", "seed": seed, "dataset": "letters"}
        for share, value in ((0.99, 0.91), (0.95, 0.92), (0.9, 0.93)):
            rows.append(schema.row("accepted_accuracy", value + seed / 100, quantile=share, **where))
        rows.append(schema.row("auroc", 0.8, **where))
        rows.append(schema.row("entropy_nats", 0.1, **(where | {"dataset": "digits"})))
        rows.append(schema.row("entropy_nats", 0.2, **where))
        rows.append(schema.row("entropy_nats", 0.2, quantile=0.5, **where))
    frame = pd.DataFrame(rows, columns=schema.COLUMNS).astype({"members": "Int64", "seed": "Int64"})
    text = {c: "" for c in ("layer", "variant", "attack", "success", "source", "commit")}
    abouts = {run: {"created": "2025", "sizes": [10]} for run in ("r0", "r1")}
    rows = prepare(frame.assign(**text), abouts)
    found = selective(rows, abouts).set_index("metric")
    assert len(found) == 3 and not len(selective(rows[rows["metric"] == "auroc"], abouts))
    for percent, value in ((99, 0.915), (95, 0.925), (90, 0.935)):
        line = found.loc[f"accepted_accuracy_{percent}"]
        assert (line["mean"], line["seeds"], line["dataset"]) == (pytest.approx(value), 2, "letters")
        assert f"accepted_accuracy_{percent}" in ACCEPTED and f"accepted_accuracy_{percent}" in schema.METRICS
    found = out_of_distribution(rows, abouts).set_index("metric")
    assert set(found.index) <= set(OOD)
    assert found.loc["entropy_out_nats", "mean"] == pytest.approx(0.2)
