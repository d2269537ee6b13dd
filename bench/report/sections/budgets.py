"""Section `budgets`: costs, and results at equal training time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.report.costs import (
    COSTS,
    EFFORTS,
    IMAGES,
    MAIN,
    MEASURED,
    PREFERRED,
    QUALITIES,
    SPENT,
    dominators,
    machines,
    placed,
    points,
)
from bench.report.layout.captions import Drawing
from bench.report.layout.figures import Styles
from bench.report.layout.tables import MISSING, Table, digits, heading
from bench.report.rows import PLACE, TASK, Material, plain, shared_fits, summarise

NAME = "budgets"
FIGURES: dict[str, str] = {}
MAX_NAMES = 3  # dominating methods listed in a cell, the most accurate first
EQUAL = 1.25  # budgets that differ by no larger factor are called equal: a trace seldom falls on T
COLUMNS = (
    *PLACE, "method", "members", "budget_seconds", "epoch", "epochs", "reached_seconds", "traced_members",
    "trace_accuracy", "trace_accuracy_single", "trace_examples", "gap", *SPENT, *QUALITIES,
    "front", "dominated_by", "seeds", "examples",
)  # fmt: skip
MEASURES = {"seconds": " s", "cpu_seconds": " s of CPU time", "gflop": " GFLOP"}  # of `EFFORTS`, with units
MEASURE_COLUMNS = (
    *PLACE, "method", "members", *(f"{word}_{m}" for word in ("budget", "epoch", "accuracy", "gap", "spent")
    for m in MEASURES), "epochs", "seeds", "examples",
)  # fmt: skip
_COUNTED = (
    "CPU time is that of all threads, on a GPU of the host alone; GFLOP are 10⁹ floating-point operations, "
    "counted in layers with weights, with gradients and without optimisers: the same on every machine. Runs "
    "made before they were counted have neither."
)
_MEASURES_NOTE = (
    "Of methods whose runs measured all three. The budget of a measure is the least that a method's whole "
    "fit took of it; shown is the last trace of each method within it, as in the table above: a trace after "
    f"e of E rounds counts as e/E of the fit by every measure. {_COUNTED}"
)
_NOTE = (
    "Means over seeds; equal numbers of networks are compared in the tables of accuracy and "
    "out-of-distribution detection. Equal wall time: T is the shortest fit of the task's methods. Shown is "
    "the last trace that a method had reached within T: validation accuracy of the ensemble drawn there and "
    "the mean of its single networks; one that was first traced later is a gap. A trace after e of E rounds "
    "counts as e/E of the fit: rounds of one fit take about equally long. Those of APD do not, a chain comes "
    "before the generator, so its place in T is rough. The whole fit: the largest ensemble, its test "
    "accuracy, and the time in which all of it predicts 1,000 images. A reused fit counts with its original "
    "time, even if it was trained on another machine. Peak memory is the whole run's, including attacks, but "
    "without training if the fit was reused. "
    "Dominated by: methods whose largest ensemble is at least as accurate, with no more seconds to fit, no "
    "more to predict and no more memory, and better in one of the four; none: on the front. Seconds are of "
    "CPU time between methods that both have it, else of wall time. Any difference decides, even one that "
    "another run might reverse. Tasks that share their fits have one table. Equal wall time need not be an "
    "equal budget: methods use the machine to different degrees and other processes may share it; where runs "
    "measured CPU time and counted operations too, the next table compares by each of the three."
)


def tables(material: Material) -> list[Table]:
    """The tables `cost`, `budgets` and `budgets-measures`."""
    once = replace(material, rows=shared_fits(material.rows))
    return [
        Table(
            "cost", "Cost", f"A fit that was reused counts with its original cost. {_COUNTED}",
            cost(material.rows), TASK, ("method", "members"), ("metric",), ("members",), MEASURED,
        ),
        budget_table(once),
        measure_table(once),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """No figure."""
    return iter(())


def cost(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds, CPU seconds and GFLOP to fit, seconds to sample and predict, and peak memory, by networks.

    A fit has no number of networks: it is listed with the method's largest ensemble. If attacks need
    fresh networks, more are sampled than are used for prediction.
    """
    found = plain(rows, MEASURED)
    evaluated = found["members"].mask(found["metric"] == "sample_seconds")
    largest = evaluated.groupby([found[c] for c in (*TASK, "method")]).transform("max")
    return summarise(found.assign(members=found["members"].fillna(largest), dataset=""))


def _traced(placed: pd.DataFrame) -> pd.DataFrame:
    """Validation accuracy by round, of the traced ensemble and of single networks, means over seeds.

    Returns by place and method: epoch, epochs (the last one), traced_members, trace_examples, trace_accuracy
    (missing if only single networks were drawn) and trace_accuracy_single. Rounds missing for some seed
    are dropped.
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


def _reached(trace: pd.DataFrame, fit: float, budget: float, unit: str = " s") -> dict[str, Any]:
    """The last line of a method's trace within the budget in seconds, or the reason in `gap`.

    unit: of fit and budget, where they are measured otherwise.
    """
    if not np.isfinite(fit):
        return {"gap": "no fit time"}
    if not len(trace):
        return {"gap": "no accuracy traced"}
    # In this order of operations the last round of the shortest fit takes exactly the budget.
    seconds = trace["epoch"].to_numpy(float) / trace["epochs"].to_numpy(float) * fit
    within = np.flatnonzero(seconds <= budget)
    if not len(within):
        return {"gap": f"first traced after {digits('fit_seconds', float(seconds.min()))}{unit}"}
    last = within[np.argmax(seconds[within])]
    line = trace.iloc[last].drop([*PLACE, "method"]).to_dict()
    return {str(k): v for k, v in line.items()} | {"reached_seconds": float(seconds[last]), "gap": ""}


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    """The points of each method's largest ensemble."""
    every = points(rows)
    return every[every["members"] == every.groupby([*PLACE, "method"])["members"].transform("max")]


def budgets(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per method and place: results within the time of the shortest fit, and the largest ensemble.

    Returns the columns `COLUMNS`; `front` is yes, no or, if a number is missing, empty.
    """
    largest, traces = _largest(rows), _traced(placed(rows))
    lines: list[dict[str, Any]] = []
    for key, own in largest.groupby(list(PLACE), sort=False):
        at = (traces[list(PLACE)] == list(key)).all(axis=1)
        budget = float(own["fit_seconds"].min())
        ask = next(metric for metric in MAIN if own[metric].notna().any())
        quality = own[ask].to_numpy(float)
        cpu = [own[PREFERRED[c]] if c in PREFERRED else np.full(len(own), np.nan) for c in COSTS]
        over = dominators(quality, own[list(COSTS)].to_numpy(float), np.column_stack(cpu).astype(float))
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
    """The table `budgets`; empty if no run has a main metric."""
    frame = budgets(material.rows)
    return Table(
        "budgets", "Equal budgets", _NOTE, frame, PLACE, ("method", "members"), (), show=(
            ("within T: round", _round),
            ("within T: networks", lambda item: _text("", item.traced_members)),
            ("within T: validation accuracy [%]\u00a0↑", lambda item: _text("accuracy", item.trace_accuracy)),
            ("within T: one network [%]\u00a0↑", lambda item: _text("accuracy", item.trace_accuracy_single)),
            (heading("fit_seconds"), lambda item: _text("fit_seconds", item.fit_seconds)),
            (heading("fit_cpu_seconds"), lambda item: _text("fit_cpu_seconds", item.fit_cpu_seconds)),
            (heading("fit_gflop"), lambda item: _text("fit_gflop", item.fit_gflop)),
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
    asked = [metric for metric in MAIN if pd.notna(getattr(item, metric))]
    return _text(asked[0], getattr(item, asked[0])) if asked else MISSING


def _dominated(item: Any) -> str:
    """The first dominating methods, and how many more there are; the CSV file lists all."""
    if not item.dominated_by:
        return "none" if item.front else MISSING
    names = item.dominated_by.split("; ")
    more = len(names) - MAX_NAMES
    return "; ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _remarks(frame: pd.DataFrame, material: Material) -> tuple[tuple[tuple[str, ...], str], ...]:
    """By place: T and its method, the number of validation images, and the machines of the costs."""
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


def measures(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per method and place: the last trace within the least fit, by each measure of a fit.

    Of places with several methods whose runs have all three measures, and with traces of accuracy.
    Returns the columns `MEASURE_COLUMNS`;
    spent_*: what the method had spent at its trace within the budget of wall time.
    """
    largest, traces = _largest(rows).dropna(subset=list(EFFORTS)), _traced(placed(rows))
    lines: list[dict[str, Any]] = []
    for key, own in largest.groupby(list(PLACE), sort=False):
        at = (traces[list(PLACE)] == list(key)).all(axis=1)
        for item in own.to_dict("records") if len(own) > 1 and at.any() else ():
            trace = traces[at & (traces["method"] == item["method"])]
            line: dict[str, Any] = {c: item[c] for c in (*PLACE, "method", "members", "seeds", "examples")}
            for measure, unit in MEASURES.items():
                budget = float(own[f"fit_{measure}"].min())
                found = _reached(trace, item[f"fit_{measure}"], budget, unit)
                words = {"budget": budget, "gap": found["gap"]}
                words |= {"epoch": found.get("epoch"), "accuracy": found.get("trace_accuracy")}
                line |= {f"{word}_{measure}": value for word, value in words.items()}
            if len(trace):
                line["epochs"] = trace["epochs"].iloc[0]
                share = (line["epoch_seconds"] or np.nan) / line["epochs"]
                line |= {f"spent_{measure}": share * item[f"fit_{measure}"] for measure in MEASURES}
            lines.append(line)
    frame = pd.DataFrame(lines, columns=list(MEASURE_COLUMNS))
    counts = ("members", "epochs", "seeds", "examples", *(f"epoch_{measure}" for measure in MEASURES))
    real = [f"{word}_{measure}" for word in ("budget", "accuracy", "spent") for measure in MEASURES]
    return frame.astype(dict.fromkeys(counts, "Int64") | dict.fromkeys(real, "float64"))


def measure_table(material: Material) -> Table:
    """The table `budgets-measures`; empty if no two methods of a place have all three measures."""
    frame = measures(material.rows)
    show: list[tuple[str, Callable[[Any], str]]] = []
    for measure, title in zip(MEASURES, ("wall time", "CPU time", "GFLOP"), strict=True):
        show.append((f"equal {title}: round", partial(_round_of, measure)))
        accuracy = partial(_accuracy_of, measure)
        show.append((f"equal {title}: validation accuracy [%]\u00a0↑", accuracy))
    show.append(("seeds", lambda item: str(item.seeds)))
    remarks = tuple(
        (tuple(map(str, key)), _compared(own)) for key, own in frame.groupby(list(PLACE), sort=False)
    )
    return Table(
        "budgets-measures", "Equal budgets by three measures", _MEASURES_NOTE, frame, PLACE,
        ("method", "members"), (), show=tuple(show), remarks=remarks,
    )  # fmt: skip


def _round_of(measure: str, item: Any) -> str:
    gap, epoch = (getattr(item, f"{word}_{measure}") for word in ("gap", "epoch"))
    return gap or f"{int(epoch):,} of {int(item.epochs):,}"


def _accuracy_of(measure: str, item: Any) -> str:
    return _text("accuracy", getattr(item, f"accuracy_{measure}"))


def _compared(own: pd.DataFrame) -> str:
    """The budgets of a place, and by which measures methods with a trace within T had spent equally much."""
    limits = [
        f"{digits('fit_seconds', float(own[f'budget_{measure}'].iloc[0]))}{unit}"
        for measure, unit in MEASURES.items()
    ]
    told = f"Budgets: {', '.join(limits)}."
    spent = own[[f"spent_{measure}" for measure in MEASURES]].dropna()
    if len(spent) < 2:
        return told
    ranges, equal = [], []
    for name, (measure, unit) in zip(("wall time", "CPU time", "GFLOP"), MEASURES.items(), strict=True):
        least, most = (float(value) for value in spent[f"spent_{measure}"].agg(["min", "max"]))
        ranges.append(f"{digits('fit_seconds', least)} to {digits('fit_seconds', most)}{unit}")
        equal += [name] * (most <= EQUAL * least)
    return (
        f"{told} At equal wall time {len(spent)} methods had spent {', '.join(ranges)}: within a factor of "
        f"{EQUAL} that is equal by {' and '.join(equal) or 'none of the three'}."
    )
