"""The input of evaluations: an ensemble, data, and cached predictions; and their result."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.ensemble import Ensemble
from bench.task import Data, Reference, Scale, Split

# Size 1 is the mean over at most this many single networks, the first ones.
SINGLES = 100
BATCH = 1000  # images predicted between two progress reports


@dataclass
class Result:
    """Rows, and arrays by `<dataset>/<members>/<quantity>`; `filters/<layer>/<index>` has no data set."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Subject:
    """An ensemble with the data it is evaluated on; predictions are computed once for the same images.

    sizes: ensemble sizes to evaluate, ascending. drawn: all sampled networks; `ensemble` holds the first
    ones, as many as the largest size. progress: called with a split's name, images done and images in
    total. say: prints a message. seconds, cpu_seconds: spent on predictions, wall time and CPU time of all
    threads; predicted: images so far.
    """

    ensemble: Ensemble
    data: Data
    scale: Scale
    sizes: tuple[int, ...]
    drawn: Ensemble
    progress: Callable[[str, int, int], None] = lambda name, done, total: None
    say: Callable[[str], None] = lambda text: None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    predicted: int = 0
    # With the split, so that no other images are ever at its address.
    _logits: dict[tuple[int, int], tuple[Split, np.ndarray]] = field(default_factory=dict)

    @property
    def test(self) -> Split:
        """The test images that the preset evaluates."""
        return self.data.test.first(self.scale.images)

    @property
    def outliers(self) -> Split:
        """The outliers that the preset evaluates. Raises ValueError if the task has none."""
        if self.data.outliers is None:
            raise ValueError("expected a task with outliers for the ood evaluation, found none")
        return self.data.outliers.first(self.scale.images)

    @property
    def reference(self) -> Reference:
        """The reference posterior of a regression. Raises ValueError if the task has none."""
        if self.data.reference is None:
            raise ValueError("expected a task with a reference for the regression evaluation, found none")
        return self.data.reference

    @property
    def classes(self) -> int:
        """Outputs of a network, K."""
        return self.logits(self.test).shape[-1]

    def logits(self, split: Split) -> np.ndarray:
        """Logits [M, B, K] of all members on a split, float32 on the host; of the same images once."""
        # Not by name: training and test images share one, and so do parts of a split of different lengths.
        key = split.images.data_ptr(), len(split)
        if key not in self._logits:
            started, cpu = time.perf_counter(), time.process_time()
            self._logits[key] = split, self.predict(split)
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu
            self.predicted += len(split)
        return self._logits[key][1]

    def predict(self, split: Split) -> np.ndarray:
        """Logits [M, B, K] of all members on any split, not cached."""
        parts = []
        for start in range(0, len(split), BATCH):
            parts.append(self.ensemble.logits(split.images[start : start + BATCH], BATCH).numpy())
            self.progress(split.name, min(start + BATCH, len(split)), len(split))
        return np.concatenate(parts, axis=1)
