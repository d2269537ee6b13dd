"""The table of results in the README: what the rows say about each method, in one line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

from bench.report.layout.tables import MISSING, digits, heading
from bench.report.rows import plain, summarise

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
BLOCK = re.compile(f"{BEGIN}.*{END}", re.DOTALL)


def overview(rows: pd.DataFrame, columns: Sequence[tuple[str, str, int]], preset: str, device: str) -> str:
    """A Markdown table between its marks, a line a method that has a number, the first column best first.

    rows: of `prepare`. columns: task, metric and number of networks of each column. The mean over seeds with
    its standard deviation, where there are several.
    """
    rows = rows[(rows["preset"] == preset) & (rows["device"] == device)]
    found: dict[str, dict[int, tuple[float, str]]] = {}
    for i, (task, metric, members) in enumerate(columns):
        own = plain(rows, (metric,), "accuracy" if metric == "accuracy" else "ood")
        own = own[(own["task"] == task) & (own["members"] == members)]
        means = summarise(own) if len(own) else own.assign(mean=[], sd=[])
        for method, mean, sd in zip(means["method"], means["mean"], means["sd"], strict=True):
            spread = "" if math.isnan(sd) else f" ± {digits(metric, sd)}"
            found.setdefault(method, {})[i] = mean, digits(metric, mean) + spread
    order = sorted(found, key=lambda method: (-found[method].get(0, (-1.0, ""))[0], method))
    names = [
        f"{task}: {heading(metric)}, {members} network{'s' if members > 1 else ''}"
        for task, metric, members in columns
    ]
    lines = [["method", *names], ["---", *["---:"] * len(columns)]]
    lines += [
        [f"`{method}`", *(found[method].get(i, (0.0, MISSING))[1] for i in range(len(columns)))]
        for method in order
    ]
    return "\n".join((BEGIN, *(f"| {' | '.join(line)} |" for line in lines), END))


def replaced(text: str, table: str) -> str:
    """A document with the table instead of the one between its marks. Raises ValueError if it has none."""
    if not BLOCK.search(text):
        raise ValueError(f"expected {BEGIN} and {END}, found neither")
    return BLOCK.sub(lambda _: table, text)
