"""Minibatches of a split in memory, and the crops of augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.engine import Row
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

    A pass comes as images (`epoch`, `epochs`), or as rows that `read` turns into them, so that a step can be
    recorded (`bench.engine.Recorded`).
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
        yield from map(self.read, self.rows(rng, own, self.split.images.device))

    def epochs(self, rngs: Sequence[torch.Generator]) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass of every network by itself, each in its own order: x [M, B, ...], y [M, B]."""
        yield from map(self.read, self.rows_apart(rngs, self.split.images.device))

    def rows(
        self, rng: torch.Generator, own: bool, device: torch.device | str = "cpu"
    ) -> Iterator[dict[str, Tensor]]:
        """What `epoch` shows, as positions for `read`; `order` [K, B] where own, else [B]."""
        size = self.batch * self.networks
        for index in self._order(rng, device).split(size)[: self.steps]:
            yield self._row(index.view(self.networks, -1) if own else index, [rng])

    def rows_apart(
        self, rngs: Sequence[torch.Generator], device: torch.device | str = "cpu"
    ) -> Iterator[dict[str, Tensor]]:
        """What `epochs` shows, as positions for `read`; `order` [M, B]."""
        orders = torch.stack([self._order(rng, device) for rng in rngs])
        for step in range(self.steps):
            yield self._row(orders[:, step * self.batch : (step + 1) * self.batch], rngs)

    def read(self, row: Row) -> tuple[Tensor, Tensor]:
        """Images and labels of a row: x [*order, ...], y [*order]."""
        order = row["order"]
        x, y = self.split.images[order.flatten()], self.split.labels[order.flatten()]
        if self.crops is not None:
            x = take(x, self.crops[row["crops"]])
        return (x, y) if order.dim() == 1 else (x.unflatten(0, order.shape), y.unflatten(0, order.shape))

    def _row(self, order: Tensor, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Positions, and an equal share of the crops for each generator."""
        if self.crops is None:
            return {"order": order}
        share = order.numel() // len(rngs)
        chosen = torch.cat([torch.randint(len(self.crops), (share,), generator=rng) for rng in rngs])
        return {"order": order, "crops": chosen.to(order.device)}

    def _order(self, rng: torch.Generator, device: torch.device | str) -> Tensor:
        return torch.randperm(len(self.split), generator=rng).to(device)
