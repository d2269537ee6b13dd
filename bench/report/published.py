"""The paper's published values, the training sets and sizes of its tables, and the names of its method.

`published.csv` in this folder is the original, which is copied to results folders that lack it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.records import store
from bench.system.files import write_atomic

ORIGINAL = Path(__file__).with_name("published.csv")
# The paper's training sets, by train key, in the order of its Table 2.
TRAINS = ("mnist", "mnist-5000", "cifar5", "cifar10", "cifar10-5000")
SIZES = (1, 5, 10, 100)
# The paper's method as published and at this project's best, with the endings of its ablations. The file
# calls it by the shorter name.
AS_PUBLISHED, PROPOSED = "hypergan-published", "hypergan"
JUDGED = (AS_PUBLISHED, PROPOSED)
ENDINGS = ("", "-no-mixer", "-no-discriminator", "-no-both")


def provide(results: Path) -> list[Path]:
    """Copy the published values into a results folder that lacks them; returns the written paths."""
    path = Path(results) / ORIGINAL.name
    if path.exists():
        return []
    write_atomic(path, ORIGINAL.read_bytes())
    return [path]


def read(results: Path) -> pd.DataFrame:
    """The published rows of a results folder. Raises: BenchError if they are not of the schema."""
    return store.read_csv(Path(results) / ORIGINAL.name)


def family(method: str) -> tuple[str, ...]:
    """A method and its ablations."""
    return tuple(method + ending for ending in ENDINGS)


def named(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """The published rows with the paper's method, and its ablations, under the name of `method`."""
    names = dict(zip(family(PROPOSED), family(method), strict=True))
    return rows.assign(method=[names.get(own, own) for own in rows["method"]])
