"""Which data runs have read: several data sets under one name are told apart by the checksums of their files.

Where runs of a task, or of tasks with one train key, have read files of one name with different checksums,
the names of task and train key are followed by what was read, as in `notmnist [data 8e7f38ae]`. Everything
that groups rows by task (means over seeds, newest runs, comparisons, costs, figures) then keeps them apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from bench.records.runs import ages

Abouts = Mapping[str, Mapping[str, Any]]  # by run, its JSON
NOT_RECORDED = "data not recorded"
MARK = " [data "  # in names; no registered name holds a blank
EXPLANATION = (
    "[data …] tells apart runs that have read different files under one name, by a digest of the files' "
    "checksums; they do not compare."
)
MAX_FILES = 3  # named in a sentence


class _Read(NamedTuple):
    """What a run has read: the base names of its task and train key, and checksums by file."""

    task: str
    train: str
    files: Mapping[str, str]
    failed: bool


def without_data(name: str) -> str:
    """The name of a task or train key without its data."""
    return name.partition(MARK)[0]


def told_apart(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """The rows, with the data after the names of tasks and train keys that hold several data sets.

    abouts: each run's JSON by name, whose `checksums` are compared. A failed run makes no second data set.
    """
    reads = _reads(rows, abouts)
    names: dict[str, dict[str, str]] = {"task": {}, "train": {}}
    for train in sorted({read.train for read in reads.values()}):
        group = {run: read for run, read in reads.items() if read.train == train}
        if not (differing := _differing(group.values())):
            continue
        every = _files_by_task(group.values())
        shared = frozenset.intersection(*(files for files in every.values() if files))
        for run, read in group.items():
            names["task"][run] = read.task + _label(read.files, differing & every[read.task])
            names["train"][run] = read.train + _label(read.files, differing & shared)
    if not names["task"]:
        return rows
    told = {c: rows["run"].map(found).fillna(rows[c]).astype("str") for c, found in names.items()}
    return rows.assign(**told)


def _reads(rows: pd.DataFrame, abouts: Abouts) -> dict[str, _Read]:
    found = {}
    for run, task, train in rows[["run", "task", "train"]].drop_duplicates("run").itertuples(index=False):
        about = abouts.get(run, {})
        sums = about.get("checksums")
        files = {str(k): str(v) for k, v in sums.items()} if isinstance(sums, dict) else {}
        found[run] = _Read(without_data(task), without_data(train), files, bool(about.get("failure")))
    return found


def _files_by_task(group: Iterable[_Read]) -> dict[str, frozenset[str]]:
    """The files that runs of each task have read."""
    found: dict[str, frozenset[str]] = {}
    for read in group:
        found[read.task] = found.get(read.task, frozenset()) | frozenset(read.files)
    return found


def _differing(group: Iterable[_Read]) -> frozenset[str]:
    """Files that differ between runs with one train key, or that only some runs of a task have read."""
    group = [read for read in group if not read.failed]
    sums: dict[str, set[str]] = {}
    for read in group:
        for file, checksum in read.files.items():
            sums.setdefault(file, set()).add(checksum)
    every = _files_by_task(group)
    some = {file for read in group for file in every[read.task] - read.files.keys()}
    return frozenset(some | {file for file, found in sums.items() if len(found) > 1})


def _label(files: Mapping[str, str], differing: frozenset[str]) -> str:
    """What follows a name: empty where nothing differs."""
    if not differing:
        return ""
    if not files:
        return f" [{NOT_RECORDED}]"
    own = {file: files.get(file, "") for file in sorted(differing)}
    return f"{MARK}{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:8]}]"


def notes(rows: pd.DataFrame, abouts: Abouts) -> tuple[str, ...]:
    """A sentence for every train key whose tasks hold several data sets under one name.

    rows: of `told_apart`.
    """
    reads = _reads(rows, abouts)
    used = one_each(rows, ages(abouts), names=False)
    found = []
    for train in sorted({read.train for read in reads.values()}):
        group = {run: read for run, read in reads.items() if read.train == train}
        files = sorted(_differing(group.values()))
        if not files:
            continue
        own = rows[rows["run"].isin(group.keys())]
        tasks = ", ".join(sorted({read.task for read in group.values()}))
        counts = own.groupby("task")["run"].nunique()
        held = "; ".join(f"{task}: {n} run{'s' if n > 1 else ''}" for task, n in counts.items())
        more = f" and {len(files) - MAX_FILES} more" if len(files) > MAX_FILES else ""
        taken = used[used["run"].isin(group.keys())]
        places = {
            " · ".join(map(str, key)): " and ".join(sorted(set(part["task"])))
            for key, part in taken.groupby(["preset", "device"], sort=False)
        }
        chosen = "; ".join(f"{names} ({place})" for place, names in places.items())
        found.append(
            f"One name holds several data sets: between runs of {tasks} the checksums of "
            f"{', '.join(files[:MAX_FILES])}{more} differ. They are shown apart, never averaged or compared "
            f"({held}). The claims and the paper's tables use {chosen}."
        )
    return tuple(found)


def one_each(rows: pd.DataFrame, age: Mapping[str, int], names: bool = True) -> pd.DataFrame:
    """Rows of one data set for every train key and task of a preset and device, under their plain names.

    The data set is the one that most methods have read, then the one with most seeds, then the newest.
    age: of each run (`bench.records.runs.ages`); names: whether to remove the data from the names.
    """
    columns = [c for c in ("train", "task") if rows[c].str.contains(" [", regex=False).any()]
    for column in columns:
        rows = _one_of(rows, column, age)
    return rows.assign(**{c: rows[c].map(without_data) for c in columns}) if names else rows


def _one_of(rows: pd.DataFrame, column: str, age: Mapping[str, int]) -> pd.DataFrame:
    place = ["preset", "device", "base"]
    held = rows.assign(base=rows[column].map(without_data), made=[age.get(run, -1) for run in rows["run"]])
    good = held[held["metric"] != "failed"]
    rank = good.groupby([*place, column], as_index=False).agg(
        methods=("method", "nunique"), seeds=("seed", "nunique"), made=("made", "max")
    )
    rank = rank.sort_values(["methods", "seeds", "made", column], kind="stable")
    best = rank.drop_duplicates(place, keep="last")
    kept = held.set_index([*place, column]).index.isin(best.set_index([*place, column]).index)
    return rows[kept]
