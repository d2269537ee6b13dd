"""How far an image has to be moved: the smallest epsilon that fools an ensemble, by FGSM and PGD."""

from __future__ import annotations

import itertools

import numpy as np

from bench.attacks import oblivious, search
from bench.evaluations.subject import Result, Subject
from bench.records.schema import row
from bench.rng import Streams

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SENSES = ("fused", "every")  # `mixture` lies close to `fused`
GRID = (0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # where the search begins: every step is then halved four times


def evaluate(subject: Subject, rng: Streams) -> Result:
    """Rows of quantiles over images of the smallest fooling epsilon; arrays per image.

    Of the first network alone and of each ensemble up to the size that the preset searches, which tests
    itself (`same`). An image that is wrong as it is counts as 0, one that no epsilon fools as infinite; a
    quantile that is infinite has no row. success_rate: share fooled at the largest epsilon or below.
    """
    result = Result()
    if not subject.scale.attacks:
        return result
    part = subject.scale.attacks[0]
    split = subject.data.test.first(part.images)
    sizes = [n for n in (1, *part.sizes) if n == 1 or n <= min(part.searched, len(subject.drawn))]
    jobs = list(itertools.product(sizes, oblivious.ATTACKS, SENSES))
    for done, (size, attack, sense) in enumerate(jobs, start=1):
        if size == 1 and sense != "fused":
            continue  # of one network both are the same
        found = search.smallest_epsilon(
            subject.drawn[:size], split.images, split.labels, attack, GRID, part.steps, sense
        )
        common = {
            "evaluation": "fooling-epsilon", "dataset": split.name, "variant": "same", "attack": attack,
            "success": sense, "members": size, "crafted_members": size, "examples": len(split),
        }  # fmt: skip
        # Sorted, not interpolated: between two images one may be infinite.
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
