"""What attacks are given: images and labels, checked, in batches on the device of the networks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.ensemble import Ensemble
from bench.metrics.predictions import check_labels

BATCH = 1000  # images attacked at once


def check_images(images: Tensor) -> None:
    """Raises ValueError unless these are images [B, ...], at least one, with pixels in [0, 1]."""
    if not images.numel():
        raise ValueError(f"expected images [B, ...] of at least one image, found {list(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):  # also of NaN
        raise ValueError(f"expected pixels in [0, 1], found {images.min():.3g} to {images.max():.3g}")


def check_inputs(ensemble: Ensemble, images: Tensor, labels: Tensor) -> None:
    """Raises ValueError unless images have pixels in [0, 1], labels are classes and outputs are finite.

    images: [B, ...]; labels: [B]. The outputs are those on the first image.
    """
    check_images(images)
    if labels.shape != images.shape[:1]:
        raise ValueError(f"expected a label for each of {len(images)} images, found {list(labels.shape)}")
    with torch.no_grad():
        outputs = ensemble(images[:1].to(next(ensemble.parameters()).device))
    if not outputs.isfinite().all():
        raise ValueError("expected finite outputs of networks, found NaN or infinity; has the fit diverged?")
    check_labels(labels.cpu().numpy(), outputs.shape[-1])


def batches(ensemble: Ensemble, images: Tensor, labels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Batches with the index of their first image, on the device of the ensemble; first `check_inputs`."""
    check_inputs(ensemble, images, labels)
    device = next(ensemble.parameters()).device
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        yield start, images[part].to(device), labels[part].to(device)


def along(values: Tensor, images: Tensor) -> Tensor:
    """One value per image, [B] -> [B, 1, ...], to be combined with the pixels of images [B, ...]."""
    return values.view(-1, *[1] * (images.dim() - 1))


def where(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """For each image that of `one` where the mask [B] holds, else that of `other`; both [B, ...]."""
    return torch.where(along(mask, one), one, other)
