"""Minibatches of a split in memory, and the crops of augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.task import Split

PADDING = 4  # of augmentation: pixels that a crop may shift by, as the paper's code had it on CIFAR


def crops(height: int, width: int, padding: int = PADDING) -> Tensor:
    """Where each pixel comes from, for every shifted crop of an image and its mirror image.

    Returns [2 (2 padding + 1)^2, height * width] positions in the flattened image, in the order
    vertical shift, horizontal shift, mirrored or not; height * width stands for black outside of it.
    """
    place = torch.arange(height * width).view(height, width)
    place = F.pad(place, (padding,) * 4, value=height * width)
    windows = place.unfold(0, height, 1).unfold(1, width, 1)  # [9, 9, height, width] for padding 4
    return torch.stack([windows, windows.flip(-1)], 2).flatten(0, 2).flatten(1)


def take(images: Tensor, places: Tensor) -> Tensor:
    """Images [B, C, H, W] whose pixels come from these places [B, H W], as `crops` has them."""
    with_black = F.pad(images.flatten(2), (0, 1))
    index = places.unsqueeze(1).expand(-1, images.shape[1], -1)
    return with_black.gather(2, index).view(images.shape)


class Minibatches:
    """Minibatches of a split that lies in memory, on its device, without a loader process.

    batch: images per network. networks: how many share an epoch, each seeing its own slice. A
    remainder that fills no step is left out of this epoch; the next epoch has another order. A split
    smaller than one step gives one smaller step.

    Where the split asks for augmentation, every image that is shown is one of the 162 of `crops`,
    chosen by the generator that gave the order; networks that share images share the choice.
    """

    def __init__(self, split: Split, batch: int, networks: int = 1) -> None:
        self.split, self.networks = split, networks
        self.batch = max(1, min(batch, len(split) // networks))
        self.steps = max(1, len(split) // (self.batch * networks))
        self.crops: Tensor | None = None
        if split.augment:
            self.crops = crops(*split.images.shape[2:]).to(split.images.device)

    def __len__(self) -> int:
        return self.steps

    def epoch(self, rng: torch.Generator, own: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass of all networks together: x [K, B, ...] where own, else [B, ...]."""
        size = self.batch * self.networks
        for index in self._order(rng).split(size)[: self.steps]:
            x, y = self._read(index, [rng])
            if own:
                x, y = (t.unflatten(0, (self.networks, -1)) for t in (x, y))
            yield x, y

    def epochs(self, rngs: Sequence[torch.Generator]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass of every network by itself, each in its own order: x [M, B, ...], y [M, B]."""
        orders = torch.stack([self._order(rng) for rng in rngs])
        for step in range(self.steps):
            index = orders[:, step * self.batch : (step + 1) * self.batch]
            x, y = self._read(index.flatten(), rngs)
            yield x.unflatten(0, index.shape), y.unflatten(0, index.shape)

    def _read(self, index: Tensor, rngs: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Images and labels at these positions; an equal share of the images for each generator."""
        x, y = self.split.images[index], self.split.labels[index]
        if self.crops is None:
            return x, y
        share = len(index) // len(rngs)
        chosen = torch.cat([torch.randint(len(self.crops), (share,), generator=rng) for rng in rngs])
        return take(x, self.crops[chosen.to(x.device)]), y

    def _order(self, rng: torch.Generator) -> Tensor:
        return torch.randperm(len(self.split), generator=rng).to(self.split.images.device)
