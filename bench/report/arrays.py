"""Per-image arrays of runs: correct or not, the entropies of two sets, and arrays for figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records import store
from bench.records.runs import ages
from bench.report.published import AS_PUBLISHED, PROPOSED
from bench.report.rows import Material, one_configuration, without_configuration

# Preferred when the arrays of one method are shown: the paper's, at its best before as published.
PREFERRED = (PROPOSED, AS_PUBLISHED)
KEPT = (
    "label",
    "prediction",
    "entropy_nats",
    "right_share",
    "label_probability",
)  # the arrays of a run that `Images` keeps
Arrays = Mapping[str, np.ndarray]


class Entropies(NamedTuple):
    """Predictive entropy [nats] of in-distribution images [n] and of outliers [m]."""

    inside: NDArray[np.float64]
    outside: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of images (n, m)."""
        return len(self.inside), len(self.outside)


class Images:
    """Per-image arrays of the runs of one task; every file is read once, on demand."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._runs: dict[str, dict[str, NDArray[Any]]] = {}

    def array(self, run: str, name: str) -> NDArray[Any] | None:
        """An array of a run; None if it was not stored."""
        if run not in self._runs:
            found = store.read_arrays(self._results, run)
            self._runs[run] = {k: v for k, v in found.items() if k.rsplit("/", 1)[-1] in KEPT}
        return self._runs[run].get(name)

    def right(self, run: str, dataset: str, members: int) -> NDArray[np.bool_] | None:
        """Whether the ensemble's prediction is right, [B]; None if labels or predictions were not stored."""
        labels = self.array(run, f"{dataset}/label")
        predictions = self.array(run, f"{dataset}/{members}/prediction")
        if labels is None or predictions is None or not len(labels) or len(labels) != len(predictions):
            return None
        return np.asarray(labels == predictions)

    def entropies(self, run: str, inside: str, outside: str, members: int) -> Entropies | None:
        """Entropies of both sets; None if one was not stored, is empty or contains NaN."""
        found = [self.array(run, f"{dataset}/{members}/entropy_nats") for dataset in (inside, outside)]
        kept = [a.astype(np.float64) for a in found if a is not None and len(a) and not np.isnan(a).any()]
        return Entropies(*kept) if len(kept) == 2 else None

    def same(self, runs: tuple[str, str], dataset: str) -> bool:
        """Whether two runs were tested on the same labels in the same order; True if either stored none."""
        first, second = (self.array(run, f"{dataset}/label") for run in runs)
        return first is None or second is None or np.array_equal(first, second)


def first_kept(
    part: Material, own: pd.DataFrame, name: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The first run with matching arrays, and these arrays.

    Preferred methods first, of each the configuration that claims use (`one_configuration`), then by name
    and seed. name: a substring of the arrays' names, with columns of a row in braces.
    """
    rank = {method: i for i, method in enumerate(PREFERRED)}
    later = without_configuration(own["method"]).map(lambda method: rank.get(method, len(rank)))
    rows = part.rows[(part.rows["metric"] != "failed") & part.rows["value"].notna()]
    used = one_configuration(rows, ages(part.abouts))
    used_names = set(zip(used["task"], used["configured"], strict=True))
    other = [place not in used_names for place in zip(own["task"], own["method"], strict=True)]
    order = own.assign(later=later, other=other)
    for found in order.sort_values(["later", "other", "method", "seed"], kind="stable").to_dict("records"):
        line = {str(column): value for column, value in found.items()}
        arrays = store.read_arrays(part.results, line["run"], name.format(**line))
        if arrays:
            return line, arrays
    return None
