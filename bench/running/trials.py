"""Trials of `bench tune`: what is scored, on validation data alone, and which of two is better.

The rule: the lower mean negative log-likelihood, in nats, of the ensemble's mean probability on validation
images wins. Candidates that the best one does not beat beyond noise (the 95 % interval of the difference,
paired over images, reaches 0) rank first, the larger disagreement of their networks before the smaller; all
others follow by their likelihood, failed ones last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import logsumexp

from bench.evaluations import Result
from bench.metrics import diversity, predictions
from bench.records.schema import row
from bench.running import versions
from bench.running.cell import Cell
from bench.task import NOISE_SD, Split
from bench.training import Method

MEMBERS = 20  # networks of a scored ensemble, or as many as the method holds
NORMAL_95 = 1.96  # standard errors of a 95 % interval


@dataclass(frozen=True)
class Trial(Cell):
    """A cell whose fit is scored on validation data and not evaluated on test data."""

    def definitions(self) -> dict[str, str]:
        """Hashes, by name, of the definitions that fit and score it."""
        return versions.trial_definitions(self.entry, self.task)

    def roots(self) -> tuple[str, ...]:
        return versions.trial_roots(self.entry, self.task)


@dataclass(frozen=True)
class Score:
    """What decides on a trial.

    nll: of the ensemble by validation example, nats [B]; None of a failed trial. diversity: disagreement of
    single networks, of a regression the standard deviation of their outputs.
    """

    nll: np.ndarray | None
    diversity: float = 0.0

    @property
    def mean(self) -> float:
        """Mean negative log-likelihood in nats; infinite for a failed trial."""
        return math.inf if self.nll is None else float(self.nll.mean())


def members(method: Method) -> int:
    """Networks of a scored ensemble."""
    return MEMBERS if method.max_members is None else min(MEMBERS, method.max_members)


def scored(method: Method, val: Split, seed: int) -> Result:
    """Rows of a trained method on validation data, and the array `nll` of its ensemble.

    Networks are drawn from a stream of their own.
    """
    count = members(method)
    ensemble = method.sample(count, seed, "tune")
    outputs, labels = ensemble.logits(val.images).numpy(), val.labels.cpu().numpy()
    common = {"evaluation": "tune", "dataset": val.name, "examples": len(val)}
    result = Result()
    if labels.dtype.kind == "f":
        likelihoods = predictions.gaussian_log_likelihoods(outputs, labels[:, 0], NOISE_SD)
        nll = math.log(count) - logsumexp(likelihoods, axis=0)
        spread = float(outputs[..., 0].astype(np.float64).std(0).mean())
        result.rows.append(row("output_sd", spread, members=count, **common))
    else:
        single = outputs.argmax(-1)
        ((_, log_p, _),) = predictions.prefixes(outputs, {count})
        nll = -log_p[np.arange(len(labels)), labels]
        fused = float((log_p.argmax(-1) == labels).mean())
        result.rows.append(row("accuracy", float((single == labels).mean()), members=1, **common))
        if count > 1:
            result.rows.append(row("accuracy", fused, members=count, **common))
            result.rows.append(row("disagreement", diversity.disagreement(single), members=count, **common))
    result.rows.append(row("nll_nats", float(nll.mean()), members=count, **common))
    for layer, found in diversity.weight_statistics(ensemble.weights).items():
        own = {"evaluation": "tune", "members": count, "layer": layer}
        result.rows += [row(metric, value, **own) for metric, value in found.items()]
    result.arrays["nll"] = nll.astype("f8")
    return result


def score(rows: list[dict[str, Any]], arrays: Mapping[str, np.ndarray]) -> Score:
    """The score of a trial from its rows and arrays."""
    if "nll" not in arrays:
        return Score(None)
    found = [r["value"] for r in rows if r["metric"] in ("disagreement", "output_sd")]
    return Score(arrays["nll"], float(found[0]) if found else 0.0)


def ranked(scores: Mapping[str, Score]) -> list[str]:
    """Names of trials, the best first, by the rule of this module."""
    best = min(scores.values(), key=lambda s: s.mean)
    tied = {name for name, s in scores.items() if not _beaten(s, best)}
    first = sorted(tied, key=lambda name: (-scores[name].diversity, scores[name].mean))
    return [*first, *sorted(set(scores) - tied, key=lambda name: (scores[name].mean, name))]


def _beaten(other: Score, best: Score) -> bool:
    """Whether the best score is better than another beyond noise."""
    if other.nll is None or best.nll is None:
        return other.nll is None
    difference = other.nll - best.nll
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() > NORMAL_95 * error)
