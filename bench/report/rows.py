"""Preparing rows for the report and averaging them over seeds, shared by all sections.

`prepare` makes the rows of runs comparable; sections then select, derive and summarise. A line never
mixes presets, devices, tasks, data sets or configurations: only seeds are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.runs import ages
from bench.records.schema import KEY
from bench.report.configurations import Configurations, configurations, named
from bench.report.data_sets import MARK as DATA
from bench.report.data_sets import Abouts, told_apart, without_data
from bench.report.uncertainty import share_interval, t_interval

PRESETS = ("paper", "quick", "smoke")  # the order of blocks: the published scale first
STAND_INS = ("digits", "digits-open", "digits-shift")  # embedded tasks, shown after the paper's
# Grouping columns, each level extending the previous one. Numbers are comparable within a place.
BLOCK = ("preset", "device")
TASK = (*BLOCK, "task")
PLACE = (*TASK, "dataset")
GROUP = (*PLACE, "method", "members", "layer", "metric")
ATTACK = (*GROUP, "variant", "attack", "epsilon", "success", "crafted_members")
# Means over images of values between 0 and a known maximum: with one seed they have an interval over images.
OVER_IMAGES = (
    "accuracy", "accuracy_single", "disagreement", "success_rate", "robust_accuracy", "fooled_share",
    "entropy_nats",
)  # fmt: skip
COLUMNS = (*GROUP, "unit", "mean", "sd", "low", "high", "seeds", "examples")


@dataclass(frozen=True, eq=False)  # without eq its hash is its identity: what is computed of it is kept once
class Material:
    """The input of a report: its folder, prepared rows, the JSON of their runs, published rows.

    alarms: sentences on runs that were left out, and on names that hold several data sets.
    """

    results: Path
    rows: pd.DataFrame
    abouts: Abouts
    published: pd.DataFrame
    alarms: tuple[str, ...] = ()

    @cached_property
    def configurations(self) -> Configurations:
        """What the names of methods stand for."""
        return configurations(self.rows, self.abouts)


def prepare(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Rows in report order: presets ranked, duplicates dropped, configurations distinguished by name.

    rows: the frame of `store.read`; abouts: each run's JSON by name. If runs with other sizes repeat
    a number, the newest run's is kept (`records.runs.ages`). A task whose runs have read different data is
    split into several, `name [data 8e7f38ae]`, and a method with several configurations likewise,
    `name [epochs=140]` (`configurations.named`), so that they are not averaged together.
    """
    rows = told_apart(rows, abouts)
    rows = rows.assign(age=rows["run"].map(ages(abouts))).sort_values(["age", "run"], kind="stable")
    rows = rows.drop_duplicates([*KEY, "config", "device"], keep="last").drop(columns="age")
    rows = named(rows, abouts)
    keys = [*TASK, "method", "seed", "evaluation", "dataset", "members", "metric", "layer", "epoch"]
    return ordered(rows, keys)


def ordered(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Sorted by the keys, presets by rank and unknown ones last, empty numbers first."""
    rank = {name: i for i, name in enumerate(PRESETS)}
    place = frame["preset"].map(lambda name: rank.get(name, len(rank)))
    frame = frame.assign(rank=place).sort_values(["rank", *keys], kind="stable", na_position="first")
    return frame.drop(columns="rank").reset_index(drop=True)


def paper_first(tasks: Iterable[str]) -> list[str]:
    """Tasks by name, without duplicates, the embedded stand-ins for the paper's data last."""
    return sorted(set(tasks), key=lambda task: (without_data(task) in STAND_INS, task))


def without_configuration(methods: pd.Series) -> pd.Series:
    """Names of methods without the configuration that `prepare` may have added."""
    return methods.str.replace(r" \[.*\]$", "", regex=True)


def one_configuration(rows: pd.DataFrame, age: Mapping[str, int]) -> pd.DataFrame:
    """Rows of one configuration per method and task, under the method's own name: that of claims and figures.

    The one that the plain name stands for or, if none has that name, the one with most seeds, then the one on
    most tasks, then the newest. rows: prepared, of one preset and
    device, without failures. age: of each run (`bench.records.runs.ages`). Adds the column `configured`, the
    name with the configuration.
    """
    rows = rows.assign(
        configured=rows["method"],
        base=without_configuration(rows["method"]),
        age=[age.get(run, -1) for run in rows["run"].tolist()],
    )
    tasks = rows.groupby(["base", "config"])["task"].transform("nunique")
    rank = (
        rows.assign(tasks=tasks)
        .groupby(["task", "base", "method"], as_index=False)
        .agg(seeds=("seed", "nunique"), tasks=("tasks", "max"), age=("age", "max"))
    )
    rank["plain"] = rank["method"] == rank["base"]
    rank = rank.sort_values(["plain", "seeds", "tasks", "age"], kind="stable")
    best = rank.drop_duplicates(["task", "base"], keep="last")[["task", "method"]]
    rows = rows.merge(best, on=["task", "method"])
    return rows.assign(method=rows["base"]).drop(columns=["base", "age"])


def plain(rows: pd.DataFrame, metrics: Sequence[str], evaluation: str | None = None) -> pd.DataFrame:
    """The rows of these metrics on clean images after training.

    No attack, shift, trace, variant or quantile.
    """
    keep = rows["metric"].isin(metrics) & rows["epoch"].isna() & rows["quantile"].isna()
    keep &= rows["severity"].isna()
    keep &= (rows["variant"] == "") & (rows["attack"] == "")
    if evaluation:
        keep &= rows["evaluation"] == evaluation
    return rows[keep & rows["value"].notna()]


def summarise(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Mean, sd (ddof=1) and 95 % t-interval over seeds of each group of rows.

    rows: at least the columns `by`, value, unit and examples; one row per seed and group. Returns the
    columns `by`, unit, mean, sd, low, high, seeds (their number) and examples. Raises ValueError if a seed
    has several rows in a group: they are no repetitions.
    """
    if "seed" in rows and len(twice := rows[rows.duplicated([*by, "seed"], keep=False)]):
        same = twice[[*by, "seed"]].astype(str)
        first = twice[(same == same.iloc[0]).all(axis=1)]
        differing = [c for c in KEY if c not in (*by, "seed") and first[c].astype(str).nunique() > 1]
        raise ValueError(
            f"expected one row per seed and group, found {len(first)} that differ in "
            f"{', '.join(differing) or 'nothing but their value'}; name these columns in `by`"
        )
    # By index arrays: building a frame for every group would be slow.
    groups = rows.groupby(list(by), dropna=False, sort=False).ngroup().to_numpy()
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    parts = np.split(rows["value"].to_numpy()[order], starts[1:]) if len(starts) else []
    frame = rows.iloc[order[starts]][[*by, "unit"]].reset_index(drop=True)
    over = pd.DataFrame([t_interval(part) for part in parts], columns=["mean", "sd", "low", "high", "seeds"])
    frame = pd.concat([frame, over], axis=1)
    frame["examples"] = rows["examples"].groupby(groups).max().array
    columns = [*by, "unit", "mean", "sd", "low", "high", "seeds", "examples"]
    whole = [c for c in ("members", "epoch", "seeds", "examples") if c in columns]
    frame = frame.astype(dict.fromkeys(whole, "Int64"))
    frame = frame.astype(dict.fromkeys(("mean", "sd", "low", "high"), "float64"))
    return ordered(frame, [c for c in by if c != "preset"])


def with_intervals(
    frame: pd.DataFrame, factor: float = 1.0, top: float = 1.0
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Means of the lines of a summary, and ends of their 95 % intervals: over seeds or, of one, over images.

    frame: lines of `summarise`. factor: of all values. top: the maximum of the metric, for an interval over
    images (`OVER_IMAGES`). Ends are NaN where there is one seed and no number of images, and for metrics that
    are no means over images.
    """
    mean, low, high = (frame[c].to_numpy(float, copy=True) for c in ("mean", "low", "high"))
    alone = frame["metric"].isin(OVER_IMAGES) & (frame["seeds"] == 1) & (frame["examples"] > 0)
    counts = frame["examples"].to_numpy(float, na_value=0)
    for place in np.flatnonzero(alone.fillna(False).to_numpy(bool) & np.isfinite(mean)):
        share = min(max(mean[place] / top, 0.0), 1.0)  # rounding may exceed the maximum
        ends = share_interval(share, int(counts[place]))
        low[place], high[place] = ends[0] * top, ends[1] * top
    return mean * factor, (low * factor, high * factor)


def with_unreachable(
    table: pd.DataFrame, rows: pd.DataFrame, abouts: Abouts, more: Sequence[str] = ()
) -> pd.DataFrame:
    """The table with a line of zero seeds and no mean for every requested size that a method cannot reach.

    Its column `gap` has the reason; it is empty in all other lines.

    A size is out of reach if a successful run requested it (`sizes` of its JSON) and the method's largest
    measured size is smaller. A size that was not requested gets no line: it is a gap. more: columns that
    distinguish lines, in addition to those of every table.
    """
    asked: dict[tuple[Any, ...], set[int]] = {}
    place = [*TASK, "method"]
    for *key, run in rows[[*place, "run"]].drop_duplicates().itertuples(index=False):
        about = abouts.get(str(run), {})
        if not about.get("failure"):
            asked.setdefault(tuple(key), set()).update(int(n) for n in about.get("sizes") or ())
    blank = {"mean": np.nan, "sd": np.nan, "low": np.nan, "high": np.nan, "seeds": 0, "examples": pd.NA}
    extra = []
    table = table.assign(gap=pd.Series("", index=table.index, dtype="str"))
    keys = [*place, "dataset", "layer", "metric", *more]
    largest = table.groupby(keys, sort=False)["members"].transform("max")
    top = table[table["members"] == largest].drop_duplicates(keys)
    for item in top.to_dict("records"):
        most = item["members"]
        sizes = asked.get(tuple(item[c] for c in place), set())
        for size in sorted(n for n in sizes if n > most):
            reason = f"out of reach: {item['method']} was measured with {most:,} networks at most"
            extra.append(item | blank | {"members": size, "gap": reason})
    if not extra:
        return table
    lines = pd.DataFrame(extra, columns=table.columns).astype(table.dtypes.to_dict())
    return ordered(pd.concat([table, lines], ignore_index=True), [*GROUP[1:], *more])


def outlying_sets(rows: pd.DataFrame) -> dict[str, tuple[str, list[str]]]:
    """Each task's in-distribution set and its outlying sets, from its `ood` rows.

    Rows that compare two sets carry the outlying one; a set with entropies but without such rows is the
    in-distribution one. Tasks without both are omitted.
    """
    ood = plain(rows, ("auroc", "entropy_nats"), "ood")
    found = {}
    for task, group in ood.groupby("task"):
        outside = sorted(set(group.loc[group["metric"] == "auroc", "dataset"]))
        inside = sorted(set(group["dataset"]) - set(outside))
        if outside and inside:
            found[str(task)] = (inside[0], outside)
    return found


def norm_ratio(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of sd/mean of the weight norm over networks, computed per seed from the two metrics."""
    keys = [c for c in rows.columns if c not in ("metric", "value", "unit", "examples")]
    mean = rows[rows["metric"] == "weight_norm_mean"]
    sd = rows[rows["metric"] == "weight_norm_sd"]
    both = mean.merge(sd[[*keys, "value"]], on=keys, suffixes=("", "_sd"))
    both = both[both["value"] > 0]
    ratio = both["value_sd"] / both["value"]
    return both.assign(metric="weight_norm_ratio", unit="1", value=ratio)[rows.columns]


def accuracy_by_size(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Accuracy (fraction) by method and number of networks; members=1 is the mean of single networks.

    Tasks that share a fit have one block (`shared_fits`).
    """
    rows = shared_fits(rows[rows["evaluation"] == "accuracy"])
    return with_unreachable(summarise(plain(rows, ("accuracy",), "accuracy")), rows, abouts)


def trained(frame: pd.DataFrame, rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each train key with the lines of one of its tasks, since tasks with the same key share networks.

    The task with most methods is taken, then the one named like the key.
    """
    keys = rows[["task", "train"]].drop_duplicates().set_index("task")["train"].to_dict()
    counts = frame.groupby("task")["method"].nunique()
    chosen: dict[str, str] = {}
    for task in sorted(counts.index, key=lambda t: (-counts[t], without_data(t) != without_data(keys[t]), t)):
        chosen.setdefault(keys[task], task)
    for train, task in sorted(chosen.items()):
        yield train, task, frame[frame["task"] == task]


def shared_fits(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows under one task for every fit: what several tasks with one train key repeat is there once.

    Within a preset and device that is the task with most methods, then the one named like the key; where a
    number differs between tasks, as runs were made by different code, its own counts.
    """
    own = rows[rows["metric"] != "failed"]
    # Tasks that are told apart by what they have read are kept apart.
    apart = own["task"].where(own["task"].str.contains(DATA, regex=False), "")
    own = own.assign(apart=apart)
    fit = [*BLOCK, "train", "apart"]
    counts = own.groupby([*fit, "task"])["method"].nunique()
    order = sorted(
        counts.index, key=lambda k: (k[:4], -counts[k], without_data(k[4]) != without_data(k[2]), k[4])
    )
    first: dict[tuple[str, ...], str] = {}
    for *place, task in order:
        first.setdefault(tuple(place), task)
    if len(first) < len(order):
        keys = pd.MultiIndex.from_frame(own[[*fit, "task"]])
        rank = pd.Series({key: i for i, key in enumerate(order)}).reindex(keys).to_numpy()
        task = pd.Series({key: first[key[:4]] for key in order}).reindex(keys).to_numpy()
        own = own.assign(rank=rank, task=task).sort_values("rank", kind="stable")
        own = own.drop_duplicates([*KEY, "device", "config"]).sort_index().drop(columns="rank")
        own = own.astype({"task": "str"})
    return own.drop(columns="apart")


def notes_on_fits(rows: pd.DataFrame, blocks: pd.DataFrame) -> tuple[tuple[tuple[str, ...], str], ...]:
    """By block of a table (`PLACE`), a sentence on the other tasks that share its fits.

    rows: all of them; blocks: the frame of the table, whose rows are those of `shared_fits`.
    """
    fits = rows.loc[rows["metric"] != "failed", [*TASK, "train"]].drop_duplicates()
    found = []
    for preset, device, task, dataset in blocks[list(PLACE)].drop_duplicates().itertuples(index=False):
        here = fits[(fits["preset"] == preset) & (fits["device"] == device)]
        trains = set(here.loc[here["task"] == task, "train"])
        others = {t for t in set(here.loc[here["train"].isin(trains), "task"]) if DATA not in t} - {task}
        if others and DATA not in task:
            text = f"Also of {', '.join(sorted(others))}, which share the fits of {task}."
            found.append(((str(preset), str(device), str(task), str(dataset)), text))
    return tuple(found)


def command(methods: Sequence[str], tasks: Sequence[str], preset: str, device: str) -> str:
    """The command that runs these cells, skipping finished ones."""
    names = ",".join(dict.fromkeys(map(without_data, tasks)))
    where = f"bench run --method {','.join(methods)} --task {names} --preset {preset}"
    return where if device in ("", "cpu") else f"{where} --device {device}"


def copies(rows: pd.DataFrame) -> tuple[dict[str, str], ...]:
    """The lossy copies of images that were read: preset, device, task and train key, and the data sets.

    The name of a data set says if its files were JPEG; weights trained on it are affected too.
    """
    lossy = rows[rows["dataset"].str.contains("-jpeg", regex=False)]
    return tuple(
        {**dict(zip((*TASK, "train"), map(str, key), strict=True)), "read": ", ".join(sorted(names))}
        for key, part in lossy.groupby([*TASK, "train"], sort=False)
        if (names := {name.split(":")[0].removesuffix("-val") for name in part["dataset"]})
    )


def note_on_copies(found: Sequence[Mapping[str, str]], block: Mapping[str, str]) -> str:
    """A sentence on the lossy copies used in a block of a table or a figure; empty if there are none."""
    own = [c for c in found if all(block.get(k, c[k]) == c[k] for k in (*TASK, "train"))]
    if not own or "-jpeg" not in (block.get("dataset") or "-jpeg"):
        return ""
    read = ", ".join(sorted({c["read"] for c in own}))
    tasks = ", ".join(sorted({c["task"] for c in own}))
    return f"{tasks}: trained and tested on a JPEG copy ({read}), not on the original images."


def failures(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """One line per failed run: its cell, the type and message of its error."""
    failed = rows[rows["metric"] == "failed"]

    def message(run: str) -> str:
        return str((abouts.get(run, {}).get("failure") or {}).get("message", ""))

    frame = failed[[*TASK, "method", "seed", "unit", "run"]].rename(columns={"unit": "error"})
    return frame.assign(message=failed["run"].map(message)).reset_index(drop=True)
