"""The smallest epsilon at which FGSM and PGD fool an ensemble, per image."""

from __future__ import annotations

import itertools

import numpy as np

from bench.attacks import search
from bench.evaluations.subject import Result, Subject
from bench.records.schema import row
from bench.rng import Streams

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SENSES = ("fused", "every")  # `mixture` lies close to `fused`
GRID = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # coarse search; the interval found is then halved four times


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of quantiles over images of the smallest fooling epsilon; arrays per image.

    For the first network alone and for each ensemble up to the preset's size limit for this search; attacks
    are tested on the attacked ensemble (`same`). A misclassified clean image counts as 0, an image that fools
    at no epsilon as infinite; infinite quantiles have no row. success_rate: share that fools at any epsilon.
    """
    result = Result()
    if not subject.scale.attacks:
        return result
    part = subject.scale.attacks[0]
    split = subject.data.test.first(part.images)
    sizes = [n for n in (1, *part.sizes) if n == 1 or n <= min(part.searched, len(subject.drawn))]
    jobs = list(itertools.product(sizes, search.ATTACKS, SENSES))
    for done, (size, attack, sense) in enumerate(jobs, start=1):
        if size == 1 and sense != "fused":
            continue  # for one network both senses coincide
        found = search.smallest_epsilon(
            subject.drawn[:size], split.images, split.labels, attack, GRID, part.steps, sense
        )
        common = {
            "evaluation": "fooling-epsilon", "dataset": split.name, "variant": "same", "attack": attack,
            "success": sense, "members": size, "crafted_members": size, "examples": len(split),
        }  # fmt: skip
        # Not interpolated: one of two neighbouring values may be infinite.
        values = np.quantile(found, QUANTILES, method="inverted_cdf")
        result.rows += [
            row("fooling_epsilon", float(v), quantile=q, **common)
            for q, v in zip(QUANTILES, values, strict=True)
            if np.isfinite(v)
        ]
        fooled = float(np.isfinite(found).mean())
        result.rows.append(row("success_rate", fooled, epsilon=max(GRID), **common))
        name = f"{split.name}/{attack}/smallest-{sense}/{size}/epsilon"
        result.arrays[name] = found.astype("f4")
        subject.progress(f"smallest epsilon on {split.name}", done, len(jobs))
    return result
