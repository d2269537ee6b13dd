"""What is on record of the suite's sets: class shares, mean images of each class, agreement of labels."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from bench.task import Known

RECORDS = Path(__file__).with_name("known.toml")
PARTS = ("train", "val", "test")


@cache
def known(name: str) -> Known:
    """The record of a set: measured on its training images or, of a set of outliers, on all of them."""
    with RECORDS.open("rb") as file:
        found = tomllib.load(file)[name]
    agreements = {
        (int(classes), int(images)): share
        for classes, counts in found.get("agreement", {}).items()
        for images, share in counts.items()
    }
    means = tuple(map(tuple, found["means"]))
    return Known(found["side"], means, tuple(found["shares"]), MappingProxyType(agreements))


def parts(record: Known) -> Mapping[str, Known]:
    """The same record for training, validation and test images."""
    return dict.fromkeys(PARTS, record)
