"""What a cell costs where nothing comparable has run: a guess from its rounds, its images and a probe."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from bench.running.cell import Cell
from bench.running.plan import Expected
from bench.task import Data, Split

IMAGES = 64  # of the probe's batch
PROBES = 3  # the fastest counts, after one that warms up


class Guess:
    """Guesses the cost of cells; the speed of each task's network is measured once."""

    def __init__(self) -> None:
        self._speeds: dict[str, tuple[float, float]] = {}

    def __call__(self, cell: Cell, data: Data) -> Expected:
        """Seconds of training: rounds x images x networks that each see all x those of one training pass.

        Prediction adds a forward pass of the largest ensemble on the images of the preset. What a method
        computes beside its networks (generators, critics, penalties) is not known before it trains: expect
        the right order of magnitude, no more.
        """
        if cell.task.name not in self._speeds:
            self._speeds[cell.task.name] = _speeds(cell.task.network(), data.train, cell.device)
        train, predict = self._speeds[cell.task.name]
        method = cell.entry.load()(cell.task.network(), cell.settings.method)
        networks = _networks(cell.settings.method, method.max_members)
        fit = method.rounds() * len(data.train) * networks * train
        shown = len(data.test.first(cell.task.scale(cell.preset).images))
        return Expected(fit + max(cell.sizes) * shown * predict, fit)


def _networks(config: Any, held: int | None) -> int:
    """How many networks train on every image: all, where a method holds exactly those of its setting."""
    asked = getattr(config, "networks", 1)
    return asked if asked == held else 1


def _speeds(network: nn.Module, split: Split, device: str) -> tuple[float, float]:
    """Seconds an image of a pass forward and back, and of one forward, at a small batch."""
    network, images = network.to(device).train(), split.images[:IMAGES].to(device)

    def seconds(back: bool) -> float:
        begun = time.perf_counter()
        with torch.set_grad_enabled(back):
            out = network(images).square().mean()
        if back:
            out.backward()
        out.item()  # waits for a GPU
        return time.perf_counter() - begun

    for back in (True, False):
        seconds(back)
    found = [min(seconds(back) for _ in range(PROBES)) / len(images) for back in (True, False)]
    return found[0], found[1]
