"""Synthetic arrays for the figures of images and filters."""

import math

import numpy as np


def shown(rng, inside, outside, classes, members, images=3000, channels=1, kept=8):
    """Entropies, predictions, extreme images and filters of one run, as evaluations store them."""
    arrays = {}
    for dataset, a, b, last in ((inside, 0.5, 6, True), (outside, 1.5, 1.5, False)):
        prefix = f"{dataset}/{members}"
        entropies = (math.log(classes) * rng.beta(a, b, images)).astype("f4")
        order = np.argsort(-entropies if last else entropies)[:kept]
        arrays |= {
            f"{prefix}/entropy_nats": entropies,
            f"{prefix}/prediction": rng.integers(0, classes, images).astype("i2"),
            f"{prefix}/extreme_index": order.astype("i4"),
            f"{prefix}/extreme_image": rng.random((kept, channels, 12, 12)).astype("f4"),
            f"{prefix}/extreme_label": rng.integers(0, classes, kept).astype("i2"),
        }
    for layer in ("conv1", "conv2"):
        for i in range(2):
            arrays[f"filters/{layer}/{i}"] = rng.normal(size=(min(members, 25), 5, 5)).astype("f4")
    return arrays
