"""The README of a results folder: what its files, columns, metrics and arrays mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bench.records.schema import COLUMNS, FLOATS, INTEGERS, KEY, METRICS, SCHEMA, limits

NAME = "README.md"
SETTING = "setting_"  # before the name of a setting, where settings are columns

MEANINGS = {
    "run": "name of the run: its files are `raw/<run>.csv`, `.json` and `.npz`",
    "method": "method or variant; its settings may differ from run to run: `config` tells them apart",
    "task": "data set, network and evaluations",
    "train": "train key: tasks with the same one share a trained method, so their accuracies are one number",
    "preset": "scale of training and evaluation: smoke, quick or paper",
    "seed": "seed of training and draws: the only column to average over",
    "members": "networks of the ensemble; 1: the mean over single networks",
    "evaluation": "what was asked: accuracy, diversity, ood, attack, ..., `cost`, `trace` (in training)",
    "dataset": "the images that were read, `name:part` for a part; of two compared sets the outlying one",
    "variant": "of an attack: clean, same, fresh, one-to-many, adaptive; `canary`, `doubt` of checks",
    "metric": "name of the number; see Metrics",
    "layer": "layer of the network, where a number belongs to one",
    "epoch": "round of training, in traces",
    "quantile": "of a distribution, where the number is one of its quantiles",
    "attack": "attack that made the images",
    "epsilon": "its size: largest change of a pixel, where pixels are in [0, 1]",
    "success": "sense in which an image fools (fused, mixture, every), or the images counted (all)",
    "severity": "of a corruption, 1 to 5; 0: clean images",
    "corruption": "how test images were corrupted",
    "crafted_members": "networks that the attack was crafted against",
    "value": "the number",
    "unit": "its unit; of `failed` the type of the error",
    "examples": "images or inputs that it was measured on",
    "config": "digest of all settings: rows with different ones are different methods",
    "commit": "version of this suite",
    "device": "cpu or cuda",
    "source": "`measured`, or table and cell of a publication",
    "schema": f"version of these columns, now {SCHEMA}",
}


class Array(NamedTuple):
    """Arrays of a run: a pattern of names, their shape, and what they hold."""

    name: str
    shape: str
    meaning: str

    def matches(self, name: str) -> bool:
        """Whether an array's name has this pattern: words in angle brackets stand for any text."""
        parts = re.split(r"(<\w+>)", self.name)
        pattern = "".join("[^/]+" if part.startswith("<") else re.escape(part) for part in parts)
        return re.fullmatch(pattern, name) is not None


_OF_AN_ENSEMBLE = {
    "entropy_nats": "entropy of the mean probability, nats",
    "expected_entropy_nats": "mean entropy of the single networks, nats",
    "prediction": "the most probable class",
    "confidence": "its probability",
    "label_probability": "probability of the label",
    "brier": "Brier score",
}
# B images, K classes, M networks, G inputs of a grid.
ARRAYS = (
    Array("<dataset>/label", "[B]", "labels of the test images, in the order of all arrays of the data set"),
    *(
        Array(f"<dataset>/<members>/{name}", "[B]", f"{text}; of an ensemble")
        for name, text in _OF_AN_ENSEMBLE.items()
    ),
    Array("<dataset>/1/right_share", "[B]", "share of the first 100 single networks that are right"),
    Array("<dataset>/<members>/extreme_image", "[n, C, H, W]", "inliers of most, outliers of least entropy"),
    Array("<dataset>/<members>/extreme_index", "[n]", "their places in the data set"),
    Array("<dataset>/<members>/extreme_label", "[n]", "their labels"),
    Array("<dataset>/attacked/label", "[B]", "labels of the attacked images"),
    *(
        Array(
            f"<dataset>/<attack>/<epsilon>/<variant>/<members>/{name}", "[B]", f"{text}; of attacked images"
        )
        for name, text in _OF_AN_ENSEMBLE.items()
    ),
    Array(
        "<dataset>/<attack>/smallest-<sense>/<members>/epsilon",
        "[B]",
        "smallest epsilon that fools; inf: none",
    ),
    Array(
        "shift/<corruption>", "[1 + severities, C, H, W]", "the first test image at each severity, 0 to 255"
    ),
    Array(
        "filters/<layer>/<index>", "[M, height, width]", "kernels from the first input to an output channel"
    ),
    Array("<dataset>/x", "[G] or [N]", "regression: inputs of the grid, or of training"),
    Array("<dataset>/y", "[N]", "regression: training targets"),
    Array("<dataset>/target", "[G]", "regression: the function without noise"),
    Array("<dataset>/reference_mean", "[G]", "regression: mean of an accurate posterior"),
    Array("<dataset>/reference_sd", "[G]", "regression: its standard deviation"),
    Array("<dataset>/<members>/mean", "[G]", "regression: mean over networks"),
    Array("<dataset>/<members>/sd", "[G]", "regression: standard deviation over networks"),
    Array("nll", "[B]", "trials of `bench tune`: negative log-likelihood on validation images, nats"),
)

_HEAD = f"""# Results

Written by `bench report` and `bench export` from the schema of this version; do not edit.

| file | what it holds |
|---|---|
| `raw/<run>.csv` | the rows of a run: one number each |
| `raw/<run>.json` | its settings, versions, machine, checksums of data, failure |
| `raw/<run>.npz` | its arrays by image |
| `published.csv` | published values in the same columns |
| `tables/`, `figures/`, `report.html` | made from the rows by `bench report` |
| `export/` | made by `bench export`: `rows.csv` or `rows.parquet`, all rows in one file; `<table>.tex` |
| `code/` | definitions that each version of the code stands for |
| `tuning/` | trials of `bench tune`, a results folder of its own |
| `checkpoints/`, `locks/`, `logs/` | trained methods, and what running cells need; not evidence |

A cell may have several runs; `export/rows.*` has the newest of each, and its settings as columns
`{SETTING}<name>` (empty where a method has no such setting), and `data`, a digest of the files that were
read. Its rows are read and averaged over seeds like this:

```python
import pandas as pd

rows = pd.read_csv("export/rows.csv", keep_default_na=False, na_values={{"value": [""]}}, low_memory=False)
same = [c for c in rows.columns if c not in ("run", "seed", "value", "commit")]
means = rows.groupby(same)["value"].agg(["mean", "std", "count"]).reset_index()
```

Grouping by `method` alone averages different settings, ensemble sizes and data sets.
"""


def text() -> str:
    """The README as Markdown, the same for every results folder of this version."""
    return "\n".join((_HEAD, *_columns(), *_metrics(), *_arrays()))


def _columns() -> Iterator[str]:
    key = ", ".join(f"`{name}`" for name in KEY)
    yield f"## Columns\n\nOf a run no two rows share all of {key}.\n"
    yield "| column | type | meaning |\n|---|---|---|"
    for name in COLUMNS:
        kind = "integer" if name in INTEGERS else "number" if name in FLOATS else "text"
        yield f"| `{name}` | {kind} | {MEANINGS[name]} |"
    yield "\nWhat does not apply is empty.\n"


def _metrics() -> Iterator[str]:
    yield "## Metrics\n\nCosts contain `seconds`, `bytes` or `per_s`; all others repeat bit for bit.\n"
    yield "| metric | unit | better | least | greatest | in tables |\n|---|---|---|---|---|---|"
    for name, metric in METRICS.items():
        ends = " | ".join(f"{end:g}" for end in limits(name))
        yield f"| `{name}` | {metric.unit} | {metric.direction} | {ends} | {metric.heading} |"
    yield "| `failed` | | | | | a run that failed; `unit` is the type of the error |\n"


def _arrays() -> Iterator[str]:
    yield "## Arrays\n\nB images, M networks, G inputs of a grid, N training examples.\n"
    yield "| array | shape | what it holds |\n|---|---|---|"
    yield from (f"| `{array.name}` | {array.shape} | {array.meaning} |" for array in ARRAYS)
    yield ""
