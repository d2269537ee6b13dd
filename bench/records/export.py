"""All rows of a results folder as one tidy frame, with the settings of each run as columns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.records.readme import SETTING
from bench.records.runs import Found, ages
from bench.records.schema import KEY

DATA = "data"  # digest of the files that a run has read


def tidy(found: Found) -> pd.DataFrame:
    """The rows of the newest run of each cell, then `data`, then a column `setting_<name>` a setting.

    Where runs of one configuration with other ensemble sizes repeat a number, the newest run's is kept.
    A setting that a method lacks is empty.
    """
    rows = found.newest()
    abouts = {run: found.runs[run].about for run in dict.fromkeys(rows["run"])}
    rows = rows.assign(**{DATA: rows["run"].map({run: _data(about) for run, about in abouts.items()})})
    order = rows["run"].map(ages(abouts))
    rows = rows.iloc[order.argsort(kind="stable")]
    rows = rows.drop_duplicates([*KEY, "config", "device", DATA], keep="last").sort_index()
    configs = {run: about["config"] for run, about in abouts.items()}
    names = sorted({name for config in configs.values() for name in config})
    settings = {SETTING + name: _column(rows["run"], configs, name) for name in names}
    return pd.concat([rows, pd.DataFrame(settings, index=rows.index)], axis=1).reset_index(drop=True)


def _data(about: Mapping[str, Any]) -> str:
    sums = about.get("checksums") or {}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:8] if sums else ""


def _column(runs: pd.Series, configs: Mapping[str, Mapping[str, Any]], name: str) -> pd.Series:
    """A setting by row, of one type: integers, numbers, switches, or text where methods differ in it."""
    values = {run: config[name] for run, config in configs.items() if name in config}
    kinds = {type(value) for value in values.values()}
    kind: Any  # a name of a type
    if kinds == {bool}:
        kind = "boolean"
    elif kinds == {int}:
        kind = "Int64"
    elif kinds <= {int, float}:
        kind = "Float64"
    else:
        kind, values = "str", {run: str(value) for run, value in values.items()}
    return runs.map(values).astype(kind)
