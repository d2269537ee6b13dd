"""Section `tuning`: the trials of `bench tune`, and which one each method's settings come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from bench.errors import BenchError
from bench.records import runs, tuning
from bench.records.runs import Run
from bench.report.data_sets import told_apart
from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import MISSING, Table, digits, heading
from bench.report.rows import BLOCK, TASK, Material

NAME = "tuning"
FIGURES: dict[str, str] = {}
_log = logging.getLogger("bench")
SHOWN = ("nll_nats", "disagreement", "output_sd", "accuracy_single", "accuracy", "trial_cpu_seconds")
COLUMNS = (*TASK, "dataset", "method", "rank", "candidate", "length", "settings", *SHOWN, "run", "examples")
_NOTE = (
    "Settings that bench tune tried, the best first; those of rank 1 were chosen. Fits of a ninth of the "
    "preset's length, then of two thirds for the preset's settings and the best others. Of the longer "
    "fits, those within noise (95 %, paired over validation images) of the lowest NLL of 20 networks "
    "count, and among these the largest disagreement wins. Settings are shown where they differ from the "
    "preset's at that time. Test images and outliers take no part."
)


def tables(material: Material) -> list[Table]:
    """The table `tuning`, without lines where nothing was tuned."""
    frame = trials(material)
    shown = [metric for metric in SHOWN if frame[metric].notna().any()]
    return [
        Table(
            "tuning", "Tuning", _NOTE, frame, (*BLOCK, "task"), ("method", "rank", "settings"), (), show=(
                ("length", lambda item: str(item.length)),
                *((heading(metric), _number(metric)) for metric in shown),
            ),
        )
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """No figure."""
    return iter(())


def trials(material: Material) -> pd.DataFrame:
    """One line for the longest trial of each candidate of every tuning that has ended, by rank."""
    folder = tuning.folder(material.results)
    lines, abouts = [], {}
    for document in tuning.chosen(material.results).values():
        for item in document["ranked"]:
            try:
                found = runs.check(folder, str(item["run"]))
            except BenchError as error:
                _log.warning("Warning: left out: %s", error)
                continue
            lines.append(_trial(found, item))
            abouts[lines[-1]["run"]] = found.about
    frame = told_apart(pd.DataFrame(lines, columns=[*COLUMNS, "train"]), abouts)[list(COLUMNS)]
    frame = frame.astype({"rank": "Int64", "candidate": "Int64", "examples": "Int64"})
    return frame.astype(dict.fromkeys(SHOWN, "float64"))


def _trial(run: Run, item: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a trial. item: what the tuning wrote of it."""
    about, rows = run.about, run.rows
    first = rows.iloc[0]
    line = {column: first[column] for column in (*TASK, "train", "method")}
    scored = rows[rows["metric"] == "nll_nats"]
    line |= (
        {"dataset": scored["dataset"].iloc[0], "examples": scored["examples"].iloc[0]} if len(scored) else {}
    )
    whole = rows[rows["layer"] == ""]
    for metric in SHOWN:
        name = metric.removesuffix("_single")
        found = whole[whole["metric"] == name]
        if name == "accuracy":
            single = (found["members"] == 1).fillna(False)
            found = found[single if metric == "accuracy_single" else ~single]
        line[metric] = float(found["value"].iloc[0]) if len(found) else None
    return line | {
        "run": str(item["run"]),
        "rank": item["rank"],
        "candidate": about.get("candidate"),
        "length": about.get("length", ""),
        "settings": ", ".join(f"{n}={v}" for n, v in (item.get("settings") or {}).items()) or "as the preset",
    }


def _number(metric: str) -> Callable[[Any], str]:
    """Writes a line's value of a metric."""
    return lambda item: MISSING if pd.isna(getattr(item, metric)) else digits(metric, getattr(item, metric))
