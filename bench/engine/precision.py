"""Float32 arithmetic on a GPU: TF32 where a fit asks for it, full precision everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def float32(tf32: bool) -> Iterator[None]:
    """Inside, matrix products and convolutions of float32 on a GPU use TF32 or do not.

    TF32 keeps 10 bits of mantissa. PyTorch allows it for convolutions unless told otherwise, so
    evaluation has to say no. Nothing changes on a CPU; the settings before are put back.
    """
    # Any: these are module stand-ins whose attributes a type checker cannot see.
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = tf32
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
