"""Every number of the report as tidy frames: pure functions of rows, one line a mean over seeds.

`prepare` makes the rows comparable; each table function then selects, derives and summarises. A line
never mixes presets, devices, tasks, data sets or configurations: only seeds are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bench.records.schema import KEY
from bench.statistics import t_interval

PRESETS = ("paper", "quick", "smoke")  # the order of blocks: the published scale first
STAND_INS = ("digits", "digits-open")  # embedded tasks: they stand behind those of the paper
BLOCK = ("preset", "device")
GROUP = (*BLOCK, "task", "dataset", "method", "members", "layer", "metric")
NAMED = 3  # settings that a method's name shows where they tell its configurations apart
COLUMNS = (*GROUP, "unit", "mean", "sd", "low", "high", "seeds", "examples")

CALIBRATION = ("nll_nats", "brier", "ece", "adaptive_ece", "aurc")
OOD = (
    "auroc", "aupr_out", "aupr_in", "fpr95_id_positive", "fpr95_ood_positive", "auroc_mutual_information",
    "auroc_max_softmax", "entropy_in_nats", "entropy_out_nats",
)  # fmt: skip
NORMS = ("weight_norm_mean", "weight_norm_sd", "weight_norm_ratio")
DIVERSITY = (
    "disagreement", "pairwise_kl_nats", "double_fault", "weight_distance", "weight_distance_aligned",
    "weight_spread", "weight_cosine",
)  # fmt: skip
COST = ("fit_seconds", "sample_seconds", "predict_seconds", "peak_memory_bytes")
SUMMARY = ("accuracy_single", "accuracy", "nll_nats", "auroc", "disagreement")
TRACE = ("accuracy_single", "accuracy", "disagreement", "weight_norm_ratio", "weight_spread")

Abouts = Mapping[str, Mapping[str, Any]]


def prepare(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Rows in report order: presets ranked, repeats dropped, configurations told apart by name.

    rows: the frame of `records.read`; abouts: each run's JSON by name. Where runs of other sizes repeat
    a number, the newest run's is kept. A method with several configurations in one preset, device and
    task becomes one method each, `name [epochs=140]`: their numbers must not meet in one mean.
    """
    created = rows["run"].map(lambda run: str(abouts.get(run, {}).get("created", "")))
    rows = rows.assign(created=created).sort_values(["created", "run"], kind="stable")
    rows = rows.drop_duplicates([*KEY, "config", "device"], keep="last").drop(columns="created")
    # A failed run may not know its configuration: that is no other one.
    known = rows["config"].where(rows["config"] != "")
    place = [*BLOCK, "task", "method"]
    several = known.groupby([rows[c] for c in place]).transform("nunique") > 1
    told = _differences(rows[several], abouts)
    apart = [f"{method} [{told.get(run)}]" for method, run in zip(rows["method"], rows["run"], strict=True)]
    rows = rows.assign(method=rows["method"].where(~several, apart))
    keys = [*BLOCK, "task", "method", "seed", "evaluation", "dataset", "members", "metric", "layer", "epoch"]
    return ordered(rows, keys)


def _differences(rows: pd.DataFrame, abouts: Abouts) -> dict[str, str]:
    """By run, the settings that tell its configuration from others of the method in the same place.

    Where the JSON of a run knows no settings, or too many differ to be named: the configuration's digest.
    """
    found: dict[str, str] = {}
    for _, group in rows.groupby([*BLOCK, "task", "method"], sort=False):
        runs = group[["run", "config"]].drop_duplicates()
        documents = {run: abouts.get(run, {}).get("config") or {} for run in runs["run"]}
        names = sorted(set().union(*documents.values()) - {"trace_every"})
        names = [n for n in names if len({repr(d.get(n)) for d in documents.values()}) > 1]
        told = 0 < len(names) <= NAMED and all(documents.values())
        for run, config in runs.itertuples(index=False):
            settings = ", ".join(f"{name}={documents[run].get(name)}" for name in names)
            found[run] = settings if told else config[:8]
    return found


def ordered(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Sorted by the keys, presets by rank and unknown ones last, empty numbers first."""
    rank = {name: i for i, name in enumerate(PRESETS)}
    place = frame["preset"].map(lambda name: rank.get(name, len(rank)))
    frame = frame.assign(rank=place).sort_values(["rank", *keys], kind="stable", na_position="first")
    return frame.drop(columns="rank").reset_index(drop=True)


def paper_first(tasks: Iterable[str]) -> list[str]:
    """Tasks by name, each once, those that stand in for the paper's data behind all others."""
    return sorted(set(tasks), key=lambda task: (task in STAND_INS, task))


def plain(rows: pd.DataFrame, metrics: Sequence[str], evaluation: str | None = None) -> pd.DataFrame:
    """The rows of these metrics on untouched images at the end of training: no attack, trace or quantile."""
    keep = rows["metric"].isin(metrics) & rows["epoch"].isna() & rows["quantile"].isna()
    keep &= (rows["variant"] == "") & (rows["attack"] == "")
    if evaluation:
        keep &= rows["evaluation"] == evaluation
    return rows[keep & rows["value"].notna()]


def summarise(rows: pd.DataFrame, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """Mean, sd (ddof=1) and 95 % t-interval over seeds of each group of rows.

    rows: at least the columns `by`, value, unit and examples; one row a seed and group. Returns the
    columns `by`, unit, mean, sd, low, high, seeds (their number) and examples.
    """
    # By positions: a frame for every group would cost more than all else.
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


def with_unreachable(
    table: pd.DataFrame, rows: pd.DataFrame, abouts: Abouts, more: Sequence[str] = ()
) -> pd.DataFrame:
    """The table with a line of zero seeds and no mean for every size asked for that a method cannot reach.

    A size counts as out of reach where a run that did not fail asked for it (`sizes` of its JSON) and
    the method's largest measured size is smaller. A size nobody asked for gets no line: it is a gap.
    more: columns beyond those of every table that tell its lines apart.
    """
    asked: dict[tuple[Any, ...], set[int]] = {}
    place = [*BLOCK, "task", "method"]
    for *key, run in rows[[*place, "run"]].drop_duplicates().itertuples(index=False):
        about = abouts.get(str(run), {})
        if not about.get("failure"):
            asked.setdefault(tuple(key), set()).update(int(n) for n in about.get("sizes") or ())
    blank = {"mean": np.nan, "sd": np.nan, "low": np.nan, "high": np.nan, "seeds": 0, "examples": pd.NA}
    extra = []
    for names, group in table.groupby([*place, "dataset", "layer", "metric", *more], sort=False):
        sizes = asked.get(tuple(names[:4]), set())
        for size in sorted(n for n in sizes if n > group["members"].max()):
            extra.append(dict(group.iloc[0]) | blank | {"members": size})
    if not extra:
        return table
    lines = pd.DataFrame(extra, columns=table.columns).astype(table.dtypes.to_dict())
    return ordered(pd.concat([table, lines], ignore_index=True), [*GROUP[1:], *more])


def accuracy(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Accuracy (fraction) by method and number of networks; members=1 is the mean of single networks."""
    return with_unreachable(summarise(plain(rows, ("accuracy",), "accuracy")), rows, abouts)


def calibration(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Negative log-likelihood (nats), Brier score and calibration error by number of networks."""
    return with_unreachable(summarise(plain(rows, CALIBRATION, "accuracy")), rows, abouts)


def outlying_sets(rows: pd.DataFrame) -> dict[str, tuple[str, list[str]]]:
    """Each task's in-distribution set and its outlying sets, from its `ood` rows.

    The rows that compare two sets carry the outlying one; the set with entropies that no such row names
    is the in-distribution one. Tasks without both are left out.
    """
    ood = plain(rows, ("auroc", "entropy_nats"), "ood")
    found = {}
    for task, group in ood.groupby("task"):
        outside = sorted(set(group.loc[group["metric"] == "auroc", "dataset"]))
        inside = sorted(set(group["dataset"]) - set(outside))
        if outside and inside:
            found[str(task)] = (inside[0], outside)
    return found


def out_of_distribution(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Detection of an outlying set (`dataset`) and the mean entropy (nats) inside and outside, by size."""
    entropies = plain(rows, ("entropy_nats",), "ood")
    parts = [plain(rows, OOD, "ood")]
    for task, (inside, outside) in outlying_sets(rows).items():
        here = entropies[entropies["task"] == task]
        for name in outside:
            parts.append(here[here["dataset"] == inside].assign(dataset=name, metric="entropy_in_nats"))
            parts.append(here[here["dataset"] == name].assign(metric="entropy_out_nats"))
    return with_unreachable(summarise(pd.concat(parts, ignore_index=True)), rows, abouts)


def norm_ratio(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of sd/mean of the weight norm over networks, made seed by seed from the two metrics."""
    keys = [c for c in rows.columns if c not in ("metric", "value", "unit", "examples")]
    mean = rows[rows["metric"] == "weight_norm_mean"]
    sd = rows[rows["metric"] == "weight_norm_sd"]
    both = mean.merge(sd[[*keys, "value"]], on=keys, suffixes=("", "_sd"))
    both = both[both["value"] > 0]
    ratio = both["value_sd"] / both["value"]
    return both.assign(metric="weight_norm_ratio", unit="1", value=ratio)[rows.columns]


def weight_norms(rows: pd.DataFrame) -> pd.DataFrame:
    """Each layer's weight 2-norm: mean and sd over networks, and sd/mean, averaged over seeds."""
    norms = plain(rows, NORMS[:2], "diversity")
    return summarise(pd.concat([norms, norm_ratio(norms)], ignore_index=True))


def diversity(rows: pd.DataFrame) -> pd.DataFrame:
    """What two networks differ in, and spread and cosine of each layer's weights, by number of networks."""
    return summarise(plain(rows, DIVERSITY, "diversity"))


def effective_networks(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """How many wholly different networks are as diverse, by number of networks."""
    return with_unreachable(summarise(plain(rows, ("effective_networks",), "diversity")), rows, abouts)


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds to fit, sample and predict, and peak memory in bytes, by number of networks.

    A fit has no number of networks: it stands with the method's largest. Where attacks need fresh
    networks more are sampled than predict.
    """
    found = plain(rows, COST)
    evaluated = found["members"].mask(found["metric"] == "sample_seconds")
    largest = evaluated.groupby([found[c] for c in (*BLOCK, "task", "method")]).transform("max")
    return summarise(found.assign(members=found["members"].fillna(largest), dataset=""))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Each method at its largest size: accuracy (also of single networks), NLL, AUROC and disagreement.

    One data set a task and metric, the first by name.
    """
    found = pd.concat(
        [
            plain(rows, ("accuracy", "nll_nats"), "accuracy"),
            plain(rows, ("auroc",), "ood"),
            plain(rows, ("disagreement",), "diversity"),
        ]
    )
    first = found.groupby([*BLOCK, "task", "metric"])["dataset"].transform("min")
    found = found[found["dataset"] == first]
    single = found[(found["metric"] == "accuracy") & (found["members"] == 1)]
    place = [*BLOCK, "task", "method"]
    largest = found.groupby([*place, "metric"])["members"].transform("max")
    found = pd.concat([found[found["members"] == largest], single.assign(metric="accuracy_single")])
    # One line a method: the size is that of its largest ensemble, whatever the metric was measured with.
    found["members"] = found.groupby(place)["members"].transform("max")
    return summarise(found, GROUP)


def traces(rows: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy, disagreement, sd/mean of the weight norms and spread by round of training.

    Accuracy of one network (`accuracy_single`) stands apart from that of the ensemble drawn; where a
    method was traced with several numbers of networks, the largest counts.
    """
    trace = rows[(rows["evaluation"] == "trace") & rows["epoch"].notna() & rows["value"].notna()]
    trace = pd.concat([trace, norm_ratio(trace)], ignore_index=True)
    single = (trace["metric"] == "accuracy") & (trace["members"] == 1)
    trace = trace.assign(metric=trace["metric"].mask(single, "accuracy_single"))
    trace = trace[trace["metric"].isin(TRACE)]
    largest = trace.groupby([*BLOCK, "task", "method", "metric"])["members"].transform("max")
    return summarise(trace[trace["members"] == largest], (*GROUP, "epoch"))


def command(methods: Sequence[str], tasks: Sequence[str], preset: str, device: str) -> str:
    """The command that runs these cells; those that are done are skipped."""
    where = f"bench run --method {','.join(methods)} --task {','.join(tasks)} --preset {preset}"
    return where if device in ("", "cpu") else f"{where} --device {device}"


def copies(rows: pd.DataFrame) -> tuple[dict[str, str], ...]:
    """Where lossy copies of images were read: preset, device, task and train key, and the data sets.

    A data set names what was really read: one whose files were JPEG says so, in weights trained on it too.
    """
    lossy = rows[rows["dataset"].str.contains("-jpeg", regex=False)]
    return tuple(
        {**dict(zip((*BLOCK, "task", "train"), map(str, key), strict=True)), "read": ", ".join(sorted(names))}
        for key, part in lossy.groupby([*BLOCK, "task", "train"], sort=False)
        if (names := {name.split(":")[0].removesuffix("-val") for name in part["dataset"]})
    )


def remark(found: Sequence[Mapping[str, str]], block: Mapping[str, str]) -> str:
    """A sentence on the lossy copies behind a block of a table or a figure; empty where there is none."""
    own = [c for c in found if all(block.get(k, c[k]) == c[k] for k in (*BLOCK, "task", "train"))]
    if not own or "-jpeg" not in (block.get("dataset") or "-jpeg"):
        return ""
    read = ", ".join(sorted({c["read"] for c in own}))
    tasks = ", ".join(sorted({c["task"] for c in own}))
    return f"{tasks}: trained and tested on a JPEG copy ({read}), not on the original images."


def failures(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """One line a failed run: where it stands, its error's type and message."""
    failed = rows[rows["metric"] == "failed"]

    def message(run: str) -> str:
        return str((abouts.get(run, {}).get("failure") or {}).get("message", ""))

    frame = failed[[*BLOCK, "task", "method", "seed", "unit", "run"]].rename(columns={"unit": "error"})
    return frame.assign(message=failed["run"].map(message)).reset_index(drop=True)
