"""Small networks and small data, for fast tests."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from bench import registry
from bench.errors import DataError
from bench.networks import Normalise
from bench.rng import stream
from bench.settings import resolve
from bench.task import Data, Scale, Split, Task
from bench.training import Method

# Settings that make any method small, applied where its Config has them.
SMALL = {
    "epochs": 3,
    "networks": 4,
    "batch": 8,
    "hidden": 16,
    "code": 12,
    "latent": 6,
}


def small_network(classes: int = 3) -> nn.Sequential:
    """A two-layer convolutional network on 1x8x8 images."""
    return nn.Sequential(
        OrderedDict(
            normalise=Normalise((0.5,), (0.5,)),
            conv=nn.Conv2d(1, 4, 3),
            activation=nn.LeakyReLU(0.01),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear=nn.Linear(36, classes),
        )
    )


def small_regression() -> nn.Sequential:
    return nn.Sequential(OrderedDict(hidden=nn.Linear(1, 10), activation=nn.ReLU(), output=nn.Linear(10, 1)))


def stripes(count: int, seed: int = 0) -> Split:
    """Images of three classes, each with different bright rows."""
    rng = stream(seed, "stripes")
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 8, 8, generator=rng) * 0.4
    for k in range(3):
        images[labels == k, :, 3 * k : 3 * k + 2] += 0.6
    return Split("stripes", images.clamp(0, 1), labels)


def line(count: int, seed: int = 0) -> Split:
    rng = stream(seed, "line")
    x = torch.rand(count, 1, generator=rng) * 2 - 1
    return Split("line", x, 2 * x + 0.5)


def small_method(name: str, network: nn.Module | None = None, **changes: object) -> Method:
    """A registered method with small settings."""
    entry = registry.method(name)
    cls = entry.load()
    config = resolve(entry, cls.Config, "smoke", "stripes", {}).method
    fields = {f.name for f in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{k: v for k, v in (SMALL | changes).items() if k in fields})
    return cls(small_network() if network is None else network, config)


def load_stripes(root: Path | None) -> Data:
    """The data of the test task `stripes`; a data folder, if given, must contain `stripes.txt`."""
    if root is not None and not (root / "stripes.txt").exists():
        raise DataError(f"expected {root / 'stripes.txt'}, found nothing; run the task digits instead")
    outside = Split("noise", torch.rand(20, 1, 8, 8, generator=stream(9)), torch.zeros(20, dtype=torch.long))
    return Data(stripes(96), stripes(30, 1), stripes(40, 2), outside, {"stripes": "0"})


stripes_task = Task(
    name="stripes",
    train="stripes",
    load=load_stripes,
    network=small_network,
    evaluations=("accuracy", "diversity", "ood"),
    embedded=True,
    scales={preset: Scale((1, 2, 5)) for preset in ("smoke", "quick", "paper")},
)
