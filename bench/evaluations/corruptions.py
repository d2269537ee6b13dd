"""Corruptions of images, the same for every method and seed: functions of images, a strength and draws.

Images [B, C, H, W] in [0, 1] stay in that range. Strengths are those of `bench.task.ShiftScale`. What is
random (the noise, the place of the square) comes from a constant stream, image by image: it depends neither
on a run's seed, nor on the severity, nor on how many images follow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from bench.rng import stream
from bench.task import ShiftScale

STREAM = (0, "shift")  # of `bench.rng.stream`, followed by the corruption's name
CORRUPTIONS = ("rotation", "translation", "noise", "blur", "contrast", "occlusion")
OCCLUDED = 0.5  # brightness of the square: Zeiler and Fergus 2014 take grey
TRUNCATE = 4  # radius of the blur's kernel in standard deviations: as scikit-image, which the sources use


def corrupt(images: Tensor, name: str, severity: int, shift: ShiftScale) -> Tensor:
    """The images [B, C, H, W] with corruption `name` at a severity from 1 on.

    Rotation is bilinear about the centre, with black corners. A translation is cyclic, so that no pixel is
    lost. Noise is added and the sum clipped; where `shift.grain` is set it is drawn at that size and
    interpolated as the images were. Contrast scales the differences from an image's mean brightness (the
    source takes the mean of each channel). Sources: see `bench.task.ShiftScale`.
    """
    strength = getattr(shift, name)[severity - 1]
    match name:
        case "rotation" | "blur" | "contrast":
            return _filtered(images, name, strength)
        case "translation":
            return images.roll(round(strength * images.shape[-1]), -1)
        case "noise":
            return (images + strength * _noise(images, shift.grain)).clamp(0, 1)
        case _:
            return _occluded(images, round(strength * images.shape[-1]))


def _filtered(images: Tensor, name: str, strength: float) -> Tensor:
    """Rotation, blur or contrast, by torchvision."""
    # Here, since its import takes a second that no other evaluation needs.
    from torchvision.transforms.v2 import InterpolationMode, functional

    if name == "rotation":
        return functional.rotate(images, strength, InterpolationMode.BILINEAR).clamp(0, 1)
    if name == "contrast":
        return functional.adjust_contrast(images, strength)
    radius = min(math.ceil(TRUNCATE * strength), min(images.shape[-2:]) - 1)  # the border is mirrored
    return functional.gaussian_blur(images, [2 * radius + 1] * 2, [strength] * 2).clamp(0, 1)


def _noise(images: Tensor, grain: int | None) -> Tensor:
    """Standard normal noise [B, C, H, W]; with a grain of that size, then interpolated."""
    rng = stream(*STREAM, "noise")
    channels, *size = images.shape[1:]
    drawn = [channels, *(size if grain is None else (grain, grain))]
    noise = torch.stack([torch.randn(drawn, generator=rng) for _ in images])
    if grain is None:
        return noise
    return interpolate(noise, size=size, mode="bilinear", align_corners=False)


def _occluded(images: Tensor, side: int) -> Tensor:
    """Images with a grey square inside, at a uniformly drawn place."""
    rng = stream(*STREAM, "occlusion")
    height, width = images.shape[-2:]
    found = images.clone()
    for image in found:
        down, right = torch.rand(2, generator=rng).tolist()
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        image[:, top : top + side, left : left + side] = OCCLUDED
    return found
