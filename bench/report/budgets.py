"""Equal budgets: what methods reach in the same time of training, and what their ensembles cost in all.

A method's costs are of its run: one fit, one prediction of the largest ensemble, one peak of memory. They
compare within a place only: one preset, device, task and data set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report import tables
from bench.report.pictures import Material
from bench.report.sheets import MISSING, Table, digits, heading

PLACE = (*tables.BLOCK, "task", "dataset")
FIRST = {"accuracy": "accuracy", "log_likelihood_nats": "regression"}  # what a task asks first, and where
QUALITIES = {"accuracy": "accuracy", "auroc": "ood", "log_likelihood_nats": "regression"}
COSTS = ("fit_seconds", "predict_seconds_1000", "peak_memory_bytes")
IMAGES = 1000  # of a prediction's time: a round number near the size of the test sets
NAMED = 3  # dominating methods that a cell of the table names, the most accurate first
POINTS = (*PLACE, "method", "members", *QUALITIES, *COSTS, "seeds", "examples")
COLUMNS = (
    *PLACE, "method", "members", "budget_seconds", "epoch", "epochs", "reached_seconds", "traced_members",
    "trace_accuracy", "trace_accuracy_single", "trace_examples", "gap", *COSTS, *QUALITIES, "front",
    "dominated_by", "seeds", "examples",
)  # fmt: skip

_NOTE = (
    "Means over seeds; equal numbers of networks are compared in the tables of accuracy and "
    "out-of-distribution detection. Equal wall time: T is the shortest fit of the task's methods. Shown is "
    "the last trace that a method had reached within T: validation accuracy of the ensemble drawn there and "
    "the mean of its single networks; one that was first traced later is a gap. A trace after e of E rounds "
    "counts as e/E of the fit: rounds of one fit take about equally long. Those of APD do not, a chain comes "
    "before the generator, so its place in T is rough. The whole fit: the largest ensemble, its test "
    "accuracy, and the time in which all of it predicts 1,000 images. A reused fit counts with its original "
    "time, also where another machine than the run's has made it. Peak memory is the whole run's: attacks "
    "count, and training does not where the fit was reused. "
    "Dominated by: methods whose largest ensemble is at least as accurate, with no more seconds to fit, no "
    "more to predict and no more memory, and better in one of the four; none: on the front. Any difference "
    "decides, also one that another run would turn. Equal training FLOPs are not compared: runs do not "
    "count them. Wall time on one machine stands for them only roughly, as methods keep a machine busy to "
    "different degrees and other work on it takes its share."
)


def placed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of runs with a first question, `dataset` that of its answer and `subject` the row's own.

    Costs name no data set, but methods that read different copies of the images do not compare.
    """
    asked = [tables.plain(rows, (metric,), evaluation) for metric, evaluation in FIRST.items()]
    read = pd.concat(asked).groupby("run")["dataset"].min()
    rows = rows[rows["run"].isin(read.index)]
    return rows.assign(subject=rows["dataset"], dataset=rows["run"].map(read))


def machines(runs: pd.DataFrame, abouts: tables.Abouts) -> str:
    """A sentence on where the costs were measured; where on several machines, which methods on which."""
    methods: dict[str, set[str]] = {}
    for run, method in runs.itertuples(index=False):
        about = abouts.get(run, {}).get("environment") or {}
        name, threads = about.get("device_name") or "a machine not named", about.get("threads")
        count = "threads not counted" if not threads else f"{threads} thread{'s' if threads != 1 else ''}"
        methods.setdefault(f"{name}, {count}", set()).add(method)
    if len(methods) < 2:
        return f"All runs: {next(iter(methods), 'none')}."
    told = ". ".join(f"{place}: {'; '.join(sorted(names))}" for place, names in sorted(methods.items()))
    return f"Costs come from different machines or numbers of threads and do not compare. {told}."


def points(rows: pd.DataFrame) -> pd.DataFrame:
    """What each method reaches with each number of networks and what that costs, means over seeds.

    Returns the columns `POINTS`: accuracy (fraction, of 1 network the mean of single ones), AUROC of the
    first outlying set by name, log-likelihood (nats); fit_seconds and peak_memory_bytes of the method's
    run, the same for all its sizes; predict_seconds_1000, the seconds in which that many networks predict
    1,000 images, in proportion to those of the largest ensemble, which alone was measured.
    """
    whole = placed(rows)
    found = pd.concat([tables.plain(whole, (m,), evaluation) for m, evaluation in QUALITIES.items()])
    first = found.groupby([*PLACE, "metric"])["subject"].transform("min")
    found = found[found["subject"] == first]
    keys = [*PLACE, "method", "members"]
    wide = found.pivot_table(index=keys, columns="metric", values="value").reindex(columns=list(QUALITIES))
    asked = found[found["metric"].isin(tuple(FIRST))].groupby(keys)
    counts = asked.agg(seeds=("seed", "nunique"), examples=("examples", "max"))
    wide = wide.join(counts, how="inner").reset_index()
    wide = wide.merge(_costs(whole), on=[*PLACE, "method"], how="left")
    wide["predict_seconds_1000"] *= wide["members"].astype(float)
    return tables.ordered(wide[list(POINTS)], [*PLACE[1:], "method", "members"])


def _costs(placed: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of each method's costs at its largest size; prediction by 1,000 images and network."""
    cost = tables.plain(placed, tables.COST, "cost")
    largest = cost.groupby([*PLACE, "method", "metric"])["members"].transform("max")
    cost = cost[cost["members"].isna() | (cost["members"] == largest)]
    per = IMAGES / (cost["examples"].astype(float) * cost["members"].astype(float))
    predicting = cost["metric"] == "predict_seconds"
    cost = cost.assign(
        value=cost["value"].where(~predicting, cost["value"] * per),
        metric=cost["metric"].mask(predicting, "predict_seconds_1000"),
    )
    wide = cost.pivot_table(index=[*PLACE, "method"], columns="metric", values="value")
    return wide.reindex(columns=list(COSTS)).reset_index()


def dominators(quality: NDArray[np.float64], costs: NDArray[np.float64]) -> list[list[int] | None]:
    """Of each line, the others that are at least as good at no higher cost, and better in something.

    quality: [N], higher is better; costs: [N, C], lower is better. A line with a gap dominates none and
    is not judged: None. An empty list: the line is on the Pareto front.
    """
    merits = np.column_stack([quality, -costs])
    known = [bool(np.isfinite(line).all()) for line in merits]
    return [
        [i for i, other in enumerate(merits) if known[i] and (other >= own).all() and (other > own).any()]
        if judged
        else None
        for own, judged in zip(merits, known, strict=True)
    ]


def _traced(placed: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy by round: of the ensemble drawn, of single networks, means over seeds.

    Returns by place and method: epoch, epochs (the last one), traced_members, trace_examples, trace_accuracy
    (missing where single networks alone were drawn) and trace_accuracy_single. Rounds that some seed lacks
    are left out.
    """
    trace = placed[(placed["evaluation"] == "trace") & (placed["metric"] == "accuracy")]
    trace = trace[trace["epoch"].notna() & trace["value"].notna()]
    own = [*PLACE, "method"]
    single = trace["members"] == 1
    largest = trace[~single].groupby(own)["members"].transform("max").reindex(trace.index)
    trace = trace[single | (trace["members"] == largest)]
    name = np.where(trace["members"] == 1, "trace_accuracy_single", "trace_accuracy")
    trace = trace.assign(name=name)
    seeds = trace.groupby([*own, "name", "epoch"])["seed"].transform("nunique")
    trace = trace[seeds == trace.groupby([*own, "name"])["seed"].transform("nunique")]
    wide = trace.pivot_table(index=[*own, "epoch"], columns="name", values="value")
    wide = wide.reindex(columns=["trace_accuracy", "trace_accuracy_single"]).reset_index()
    most = trace.groupby(own)[["epoch", "members", "examples"]].max()
    names = {"epoch": "epochs", "members": "traced_members", "examples": "trace_examples"}
    return wide.merge(most.rename(columns=names).reset_index(), on=own)


def _reached(trace: pd.DataFrame, fit: float, budget: float) -> dict[str, Any]:
    """The last line of a method's trace within the budget, or `gap`: why there is none. Seconds."""
    if not np.isfinite(fit):
        return {"gap": "no fit time"}
    if not len(trace):
        return {"gap": "no accuracy traced"}
    # In this order: the last round of the shortest fit takes exactly the budget.
    seconds = trace["epoch"].to_numpy(float) / trace["epochs"].to_numpy(float) * fit
    within = np.flatnonzero(seconds <= budget)
    if not len(within):
        return {"gap": f"first traced after {digits('fit_seconds', float(seconds.min()))} s"}
    last = within[np.argmax(seconds[within])]
    line = trace.iloc[last].drop([*PLACE, "method"]).to_dict()
    return {str(k): v for k, v in line.items()} | {"reached_seconds": float(seconds[last]), "gap": ""}


def budgets(rows: pd.DataFrame) -> pd.DataFrame:
    """A line a method and place: what it reaches within the shortest fit, and its largest ensemble.

    Returns the columns `COLUMNS`; `front` is yes, no or, where a number is missing, empty.
    """
    every, traces = points(rows), _traced(placed(rows))
    largest = every[every["members"] == every.groupby([*PLACE, "method"])["members"].transform("max")]
    lines: list[dict[str, Any]] = []
    for key, own in largest.groupby(list(PLACE), sort=False):
        at = (traces[list(PLACE)] == list(key)).all(axis=1)
        budget = float(own["fit_seconds"].min())
        ask = next(metric for metric in FIRST if own[metric].notna().any())
        quality = own[ask].to_numpy(float)
        over = dominators(quality, own[list(COSTS)].to_numpy(float))
        names = own["method"].tolist()
        for item, found in zip(own.to_dict("records"), over, strict=True):
            trace = traces[at & (traces["method"] == item["method"])]
            by = sorted(found or (), key=lambda i: (-quality[i], names[i]))
            lines.append(
                {str(k): v for k, v in item.items()}
                | {"budget_seconds": budget}
                | _reached(trace, item["fit_seconds"], budget)
                | {"front": "" if found is None else "no" if found else "yes"}
                | {"dominated_by": "; ".join(names[i] for i in by)}
            )
    words = (*PLACE, "method", "gap", "front", "dominated_by")
    whole = ("members", "epoch", "epochs", "traced_members", "trace_examples", "seeds", "examples")
    real = [c for c in COLUMNS if c not in words + whole]
    frame = pd.DataFrame(lines, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(real, "float64"))


def budget_table(material: Material) -> Table:
    """The table `budgets`; without a line where no run has a first question's answer."""
    frame = budgets(material.rows)
    return Table(
        "budgets", "Equal budgets", _NOTE, frame, PLACE, ("method", "members"), (), show=(
            ("within T: round", _round),
            ("within T: networks", lambda item: _text("", item.traced_members)),
            ("within T: validation accuracy [%]\u00a0↑", lambda item: _text("accuracy", item.trace_accuracy)),
            ("within T: one network [%]\u00a0↑", lambda item: _text("accuracy", item.trace_accuracy_single)),
            (heading("fit_seconds"), lambda item: _text("fit_seconds", item.fit_seconds)),
            (f"predict {IMAGES:,} images [s]\u00a0↓",
             lambda item: _text("predict_seconds", item.predict_seconds_1000)),
            (heading("peak_memory_bytes"), lambda item: _text("peak_memory_bytes", item.peak_memory_bytes)),
            (f"{heading('accuracy')}, of a regression {heading('log_likelihood_nats')}", _first),
            (heading("auroc"), lambda item: _text("auroc", item.auroc)),
            ("dominated by", _dominated),
            ("seeds", lambda item: str(item.seeds)),
        ), remarks=_remarks(frame, material),
    )  # fmt: skip


def _text(metric: str, value: Any) -> str:
    if pd.isna(value):
        return MISSING
    return digits(metric, float(value)) if metric else f"{int(value):,}"


def _round(item: Any) -> str:
    return item.gap or f"{int(item.epoch):,} of {int(item.epochs):,}"


def _first(item: Any) -> str:
    asked = [metric for metric in FIRST if pd.notna(getattr(item, metric))]
    return _text(asked[0], getattr(item, asked[0])) if asked else MISSING


def _dominated(item: Any) -> str:
    """The first dominating methods, and how many more there are; the CSV file names them all."""
    if not item.dominated_by:
        return "none" if item.front else MISSING
    names = item.dominated_by.split("; ")
    more = len(names) - NAMED
    return "; ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _remarks(frame: pd.DataFrame, material: Material) -> tuple[tuple[tuple[str, ...], str], ...]:
    """By place: T, whose fit it is, the validation images, and the machines that the costs come from."""
    found = []
    whole = placed(material.rows)
    for key, own in frame.groupby(list(PLACE), sort=False):
        at = whole[(whole[list(PLACE)] == list(key)).all(axis=1)]
        where = machines(at[["run", "method"]].drop_duplicates(), material.abouts)
        names = own.loc[own["fit_seconds"] == own["budget_seconds"], "method"]
        told = []
        if len(names):
            budget = digits("fit_seconds", own["budget_seconds"].iloc[0])
            told.append(f"T = {budget} s, the fit of {'; '.join(names)}.")
        if own["trace_examples"].notna().any():
            told.append(f"Validation accuracy is of {int(own['trace_examples'].max()):,} images.")
        found.append((tuple(map(str, key)), " ".join([*told, where])))
    return tuple(found)
