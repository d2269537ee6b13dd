"""Regression: error, likelihood, the band of the networks, and its distance to the reference posterior."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.evaluations.subject import SINGLES, Result, Subject
from bench.metrics import predictions
from bench.records.schema import row
from bench.rng import Streams
from bench.task import NOISE_SD, Reference

BAND = 3.0  # standard deviations on either side of the mean; HyperGAN paper, Figure 2


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of error and log-likelihood for each size, of band and distance for sizes above 1; arrays.

    Networks have outputs [M, B, D]: a mean and, if D = 2, a raw variance. Size 1 is the mean over
    single networks, which have no band. Raises ValueError if the task has no reference.
    """
    reference = subject.reference
    test = subject.test
    labels = test.labels.numpy()[:, 0]
    outputs, curves = subject.logits(test), subject.logits(reference.grid)[..., 0].astype(np.float64)
    likelihoods = predictions.gaussian_log_likelihoods(outputs, labels, NOISE_SD)
    result = Result(arrays=_training_points(subject) | _reference_arrays(reference))
    if 1 in subject.sizes:
        singles = [
            _fit(reference, curve, each[None], 1)
            for curve, each in zip(curves[:SINGLES], likelihoods[:SINGLES], strict=True)
        ]
        for same in zip(*singles, strict=True):
            result.rows.append(same[0] | {"value": float(np.mean([r["value"] for r in same]))})
    for size in (n for n in subject.sizes if n > 1):
        mean = curves[:size].mean(0)
        # ddof = 1, so that the band of a small ensemble is not biased to be narrow.
        sd = curves[:size].std(0, ddof=1)
        result.rows += _fit(reference, mean, likelihoods[:size], size)
        result.rows += _band(reference, mean, sd, size)
        prefix = f"{reference.grid.name}/{size}"
        result.arrays |= {f"{prefix}/mean": mean.astype("f4"), f"{prefix}/sd": sd.astype("f4")}
    return result


def _fit(reference: Reference, mean: np.ndarray, likelihoods: np.ndarray, size: int) -> list[dict[str, Any]]:
    """Error of a mean curve [G] inside the data interval, and log-likelihood of the members' mixture."""
    inside, name = _parts(reference)[0]
    common = {"evaluation": "regression", "members": size}
    rmse = np.sqrt(np.square(mean - reference.grid.labels.numpy()[:, 0])[inside].mean())
    value = predictions.mixture_log_likelihood(likelihoods)
    return [
        row("rmse", float(rmse), dataset=name, examples=int(inside.sum()), **common),
        row(
            "log_likelihood_nats", value, dataset=name.partition(":")[0], examples=likelihoods.shape[1],
            **common,
        ),
    ]  # fmt: skip


def _band(reference: Reference, mean: np.ndarray, sd: np.ndarray, size: int) -> list[dict[str, Any]]:
    """Coverage and width of mean +- 3 sd, and distance to the reference, inside and outside the data."""
    target = reference.grid.labels.numpy()[:, 0].astype(np.float64)
    held = predictions.covered(target, mean, sd, BAND)
    far = predictions.gaussian_wasserstein2(mean, sd, reference.mean.numpy(), reference.sd.numpy())
    rows = []
    for part, name in _parts(reference):
        found = {
            "band_coverage": held[part].mean(),
            "band_width": (2 * BAND * sd)[part].mean(),
            "wasserstein2_to_reference": far[part].mean(),
        }
        common = {"evaluation": "regression", "dataset": name, "members": size, "examples": int(part.sum())}
        rows += [row(metric, float(value), **common) for metric, value in found.items()]
    return rows


def _parts(reference: Reference) -> tuple[tuple[np.ndarray, str], tuple[np.ndarray, str]]:
    """Masks [G] of the grid points inside and outside the data interval, and their names."""
    x, name = reference.grid.images.numpy()[:, 0], reference.grid.name.partition(":")[0]
    low, high = reference.inside
    inside = (low <= x) & (x <= high)
    return (inside, f"{name}:inside"), (~inside, f"{name}:outside")


def _training_points(subject: Subject) -> dict[str, np.ndarray]:
    """The training points, for the figure."""
    train = subject.data.train
    return {f"{train.name}/x": train.images.numpy()[:, 0], f"{train.name}/y": train.labels.numpy()[:, 0]}


def _reference_arrays(reference: Reference) -> dict[str, np.ndarray]:
    """Arrays that do not depend on the method: the grid, the target and the reference."""
    name = reference.grid.name
    return {
        f"{name}/x": reference.grid.images.numpy()[:, 0],
        f"{name}/target": reference.grid.labels.numpy()[:, 0],
        f"{name}/reference_mean": reference.mean.numpy(),
        f"{name}/reference_sd": reference.sd.numpy(),
    }
