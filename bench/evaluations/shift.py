"""Accuracy and calibration on corrupted test images, by corruption and severity.

Source: Ovadia et al. 2019, "Can you trust your model's uncertainty? Evaluating predictive uncertainty under
dataset shift".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.evaluations import corruptions
from bench.evaluations.corruptions import CORRUPTIONS
from bench.evaluations.subject import SINGLES, Result, Subject
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams
from bench.task import ShiftScale, Split

METRICS = ("accuracy", "nll_nats", "ece", "entropy_nats", "aurc")


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows per ensemble size: of clean images (severity 0, once), and of every corruption and severity.

    Size 1 is the mean over single networks; larger sizes average probabilities over the first n. Images are
    the same for all methods and seeds: nothing is drawn from `rng` (`bench.evaluations.corruptions`). Array
    `shift/<corruption>`: the first image at every severity from 0 on, [S + 1, C, H, W], in 256 levels.
    Raises ValueError if the task's scale has no shift.
    """
    shift = subject.scale.shift
    if shift is None:
        raise ValueError("expected a scale with `shift` for the shift evaluation, found none")
    clean = subject.test.first(shift.images)
    logits = subject.logits(subject.test)[:, : len(clean)]
    result = Result(rows=_rows(subject, clean, logits, severity=0))
    for name in CORRUPTIONS:
        shown = [clean.images[0]]
        for severity, part in corrupted(clean, name, shift):
            result.rows += _rows(subject, clean, subject.predict(part), severity=severity, corruption=name)
            shown.append(part.images[0])
        levels = np.stack([image.numpy() for image in shown]) * 255
        result.arrays[f"shift/{name}"] = levels.round().astype("u1")
    return result


def corrupted(clean: Split, name: str, shift: ShiftScale) -> Iterator[tuple[int, Split]]:
    """Every severity from 1 on with the images so corrupted, named for progress."""
    for severity in range(1, 1 + len(getattr(shift, name))):
        images = corruptions.corrupt(clean.images, name, severity, shift)
        yield severity, Split(f"{clean.name} {name} {severity}", images, clean.labels)


def _rows(subject: Subject, clean: Split, logits: np.ndarray, **where: object) -> list[dict[str, object]]:
    """Rows of all ensemble sizes from logits [M, B, K]."""
    labels = clean.labels.numpy()
    common = {"evaluation": "shift", "dataset": clean.name, "examples": len(clean), **where}
    rows = []
    if 1 in subject.sizes:
        alone = [_measured(predictions.log_probabilities(m), labels) for m in logits[:SINGLES]]
        rows += [row(m, float(np.mean([one[m] for one in alone])), members=1, **common) for m in METRICS]
    for size, log_p, _ in predictions.prefixes(logits, {n for n in subject.sizes if n > 1}):
        found = _measured(log_p, labels)
        rows += [row(metric, found[metric], members=size, **common) for metric in METRICS]
    return rows


def _measured(log_p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics of log-probabilities [B, K]."""
    found = predictions.classification(log_p, labels)
    return found | {"entropy_nats": float(predictions.entropy(log_p).mean())}
