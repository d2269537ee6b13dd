"""Quality and cost of ensembles: accuracy, AUROC or likelihood, with time and memory.

A method's costs are those of its run: one fit, one prediction of the largest ensemble, one peak of memory.
They are comparable only within a place: one preset, device, task and data set.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report.rows import PLACE, Abouts, ordered, plain

EFFORTS = ("fit_seconds", "fit_cpu_seconds", "fit_gflop")  # three measures of one fit
MEASURED = (*EFFORTS, "sample_seconds", "predict_seconds", "predict_cpu_seconds", "peak_memory_bytes")
MAIN = {"accuracy": "accuracy", "log_likelihood_nats": "regression"}  # main metrics of tasks, with evaluation
QUALITIES = {"accuracy": "accuracy", "auroc": "ood", "log_likelihood_nats": "regression"}
COSTS = ("fit_seconds", "predict_seconds_1000", "peak_memory_bytes")  # that decide who dominates whom
# Instead of these, between two methods that both have it: what other processes do not lengthen.
PREFERRED = {"fit_seconds": "fit_cpu_seconds", "predict_seconds_1000": "predict_cpu_seconds_1000"}
SCALED = {name: f"{name}_1000" for name in ("predict_seconds", "predict_cpu_seconds")}
IMAGES = 1000  # prediction times are for this many images, near the size of the test sets
SPENT = (*COSTS, *EFFORTS[1:], SCALED["predict_cpu_seconds"])
POINTS = (*PLACE, "method", "members", *QUALITIES, *SPENT, "seeds", "examples")


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs that have a main metric; `dataset` becomes that of this metric, `subject` the row's own.

    Cost rows have no data set, but methods that read different copies of the images are not comparable.
    """
    asked = [plain(rows, (metric,), evaluation) for metric, evaluation in MAIN.items()]
    read = pd.concat(asked).groupby("run")["dataset"].min()
    rows = rows[rows["run"].isin(read.index)]
    return rows.assign(subject=rows["dataset"], dataset=rows["run"].map(read))


def machines(runs: pd.DataFrame, abouts: Abouts) -> str:
    """A sentence on the machines where costs were measured and, if several, on the methods of each."""
    methods = _by_machine(runs, abouts)
    if len(methods) < 2:
        return f"All runs: {next(iter(methods), 'none')}."
    told = ". ".join(f"{place}: {'; '.join(sorted(names))}" for place, names in sorted(methods.items()))
    return f"Costs come from different machines or numbers of threads and do not compare. {told}."


def on_one_machine(runs: pd.DataFrame, abouts: Abouts) -> tuple[list[str], str]:
    """The runs on the machine, with a number of threads, that measured most methods; a sentence on it.

    runs: columns `run` and `method`. The sentence names methods that only other machines measured.
    """
    methods = _by_machine(runs, abouts)
    if not methods:
        return [], ""
    most = min(methods, key=lambda place: (-len(methods[place]), place))
    kept = [run for run in runs["run"] if _machine(abouts, run) == most]
    others = sorted(set(runs["method"]) - methods[most])
    told = f"All costs: {most}."
    return kept, told + (f" Left out, measured on another: {'; '.join(others)}." if others else "")


def _by_machine(runs: pd.DataFrame, abouts: Abouts) -> dict[str, set[str]]:
    """The methods that were measured on each machine, with its threads."""
    methods: dict[str, set[str]] = {}
    for run, method in runs[["run", "method"]].itertuples(index=False):
        methods.setdefault(_machine(abouts, run), set()).add(method)
    return methods


def _machine(abouts: Abouts, run: str) -> str:
    about = abouts.get(run, {}).get("environment") or {}
    name, threads = about.get("device_name") or "a machine not named", about.get("threads")
    count = "threads not counted" if not threads else f"{threads} thread{'s' if threads != 1 else ''}"
    return f"{name}, {count}"


def points(rows: pd.DataFrame) -> pd.DataFrame:
    """Quality and cost of each method at each ensemble size, means over seeds.

    Returns the columns `POINTS`: accuracy (fraction; for 1 network the mean of single ones), AUROC of the
    first outlying set by name, log-likelihood (nats); `EFFORTS` and peak_memory_bytes of the method's run,
    the same for all its sizes; predict_seconds_1000 and predict_cpu_seconds_1000, the seconds in which this
    many networks predict 1,000 images, scaled from those of the largest ensemble, the only one measured.
    """
    whole = placed(rows)
    found = pd.concat([plain(whole, (m,), evaluation) for m, evaluation in QUALITIES.items()])
    first = found.groupby([*PLACE, "metric"])["subject"].transform("min")
    found = found[found["subject"] == first]
    keys = [*PLACE, "method", "members"]
    wide = found.pivot_table(index=keys, columns="metric", values="value").reindex(columns=list(QUALITIES))
    asked = found[found["metric"].isin(tuple(MAIN))].groupby(keys)
    counts = asked.agg(seeds=("seed", "nunique"), examples=("examples", "max"))
    wide = wide.join(counts, how="inner").reset_index()
    wide = wide.merge(_costs(whole), on=[*PLACE, "method"], how="left")
    for column in SCALED.values():
        wide[column] *= wide["members"].astype(float)
    return ordered(wide[list(POINTS)], [*PLACE[1:], "method", "members"])


def _costs(placed: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of each method's costs at its largest size; prediction: one network, 1,000 images."""
    cost = plain(placed, MEASURED, "cost")
    largest = cost.groupby([*PLACE, "method", "metric"])["members"].transform("max")
    cost = cost[cost["members"].isna() | (cost["members"] == largest)]
    per = IMAGES / (cost["examples"].astype(float) * cost["members"].astype(float))
    predicting = cost["metric"].isin(tuple(SCALED))
    cost = cost.assign(
        value=cost["value"].where(~predicting, cost["value"] * per), metric=cost["metric"].replace(SCALED)
    )
    wide = cost.pivot_table(index=[*PLACE, "method"], columns="metric", values="value")
    return wide.reindex(columns=list(SPENT)).reset_index()


def dominators(
    quality: NDArray[np.float64], costs: NDArray[np.float64], preferred: NDArray[np.float64] | None = None
) -> list[list[int] | None]:
    """For each line, the lines that dominate it: at least as good in quality and all costs, better in one.

    quality: [N], higher is better; costs: [N, C], lower is better; preferred: [N, C], other measures of these
    costs, which decide between two lines that both have them. A line with a missing value of quality or costs
    dominates none and gets None. An empty list: the line is on the Pareto front.
    """
    known = np.isfinite(quality) & np.asarray(np.isfinite(costs).all(axis=1))
    found: list[list[int] | None] = []
    for i, judged in enumerate(known.tolist()):
        other, own = costs, np.broadcast_to(costs[i], costs.shape)
        if preferred is not None:
            both = np.isfinite(preferred) & np.isfinite(preferred[i])
            other, own = np.where(both, preferred, other), np.where(both, preferred[i], own)
        least = (quality >= quality[i]) & (other <= own).all(axis=1)
        better = (quality > quality[i]) | (other < own).any(axis=1)
        found.append(np.flatnonzero(known & least & better).tolist() if judged else None)
    return found
