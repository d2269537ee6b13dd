"""Section `tuning`: the trials of `bench tune`, and which one each method's settings come from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
    lines, abouts, kept = [], {}, []
    for document in tuning.chosen(material.results).values():
        for item in document["ranked"]:
            with _warned():
                kept.append((runs.check(folder, str(item["run"]), parse=False), item))
    runs.parse_together([found for found, _ in kept])
    for found, item in kept:
        with _warned():
            lines.append(_trial(found, item))
            abouts[lines[-1]["run"]] = found.about
    frame = told_apart(pd.DataFrame(lines, columns=[*COLUMNS, "train"]), abouts)[list(COLUMNS)]
    frame = frame.astype({"rank": "Int64", "candidate": "Int64", "examples": "Int64"})
    return frame.astype(dict.fromkeys(SHOWN, "float64"))


@contextmanager
def _warned() -> Iterator[None]:
    """Logs a BenchError: the trial is left out."""
    try:
        yield
    except BenchError as error:
        _log.warning("Warning: left out: %s", error)


def _trial(run: Run, item: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a trial. item: what the tuning wrote of it."""
    about, rows = run.about, run.rows
    items = rows.to_dict("records")
    line = {column: items[0][column] for column in (*TASK, "train", "method")}
    scored = next((r for r in items if r["metric"] == "nll_nats"), None)
    line |= {} if scored is None else {"dataset": scored["dataset"], "examples": scored["examples"]}
    for row in reversed(items):  # the first of several counts
        if row["layer"] == "" and row["metric"] in (*SHOWN, "accuracy"):
            single = row["metric"] == "accuracy" and pd.notna(row["members"]) and row["members"] == 1
            line["accuracy_single" if single else row["metric"]] = float(row["value"])
    line |= {metric: line.get(metric) for metric in SHOWN}
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
