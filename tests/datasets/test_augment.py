"""Augmentation: training images are one of 162 crops of the original, only if the split requests it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_cifar import make_tree, shrink

from bench import registry
from bench.rng import stream
from bench.task import Split
from bench.training import Minibatches
from bench.training.batches import crops, take

SHIFTS = 9  # of a padding of 4, in each direction
CROPS = 2 * SHIFTS**2


def numbered(count: int, augment: bool = True) -> Split:
    """Images with pairwise different, non-black pixels, labelled by their index."""
    images = torch.arange(1.0, count * 3 * 32 * 32 + 1).view(count, 3, 32, 32)
    return Split("numbered", images, torch.arange(count), augment)


def by_hand(image: torch.Tensor) -> torch.Tensor:
    """All 162 crops [162, C, H, W] of an image, in the order of `crops`."""
    padded = F.pad(image, (4, 4, 4, 4))
    found = []
    for top in range(SHIFTS):
        for left in range(SHIFTS):
            crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
            found += [crop, crop.flip(-1)]
    return torch.stack(found)


@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 8, 8)])
def test_every_crop_is_cut_from_the_padded_image(shape) -> None:
    image = torch.rand(shape, generator=stream(0))
    places = crops(*shape[1:])
    assert places.shape == (CROPS, shape[1] * shape[2])
    assert torch.equal(take(image.expand(CROPS, *shape), places), by_hand(image))


@pytest.mark.parametrize("own", [False, True])
def test_every_image_shown_is_a_crop_of_the_image_its_label_names(own: bool) -> None:
    data = numbered(13)
    for x, y in Minibatches(data, 4, 3 if own else 1).epoch(stream(0), own):
        assert x.shape == ((3, 4, 3, 32, 32) if own else (4, 3, 32, 32))
        for shown, label in zip(x.view(-1, 3, 32, 32), y.flatten().tolist(), strict=True):
            assert (by_hand(data.images[label]) == shown).flatten(1).all(1).any()


def test_all_crops_are_equally_likely() -> None:
    # The middle pixel, never black, says which crop it is.
    count = 100 * CROPS
    image = torch.arange(1.0, 17 * 17 + 1).view(1, 17, 17)
    batches = Minibatches(Split("one", image.expand(count, 1, 17, 17), torch.zeros(count), True), count)
    ((x, _),) = batches.epoch(stream(0), own=False)
    places, times = x[:, 0, 8, 8:10].unique(dim=0, return_counts=True)
    assert len(places) == CROPS
    # Chi-squared of 161 degrees of freedom: mean 161, sd 18.
    assert ((times - 100.0) ** 2 / 100).sum() < 161 + 4 * 18


def test_crops_depend_only_on_the_generator() -> None:
    def shown(seed: int) -> torch.Tensor:
        return torch.cat([x for x, _ in Minibatches(numbered(12), 4).epoch(stream(seed), own=False)])

    assert torch.equal(shown(0), shown(0))
    assert not torch.equal(shown(0).sort(0)[0], shown(1).sort(0)[0])


def test_every_network_s_crops_come_from_its_own_generator() -> None:
    batches = Minibatches(numbered(12), 4)
    both = list(batches.epochs([stream(0), stream(1)]))
    for network in range(2):
        alone = batches.epochs([stream(network)])
        for (x, y), (own_x, own_y) in zip(both, alone, strict=True):
            assert torch.equal(x[network], own_x[0]) and torch.equal(y[network], own_y[0])


def test_own_and_shared_epochs_agree_for_one_network() -> None:
    batches = Minibatches(numbered(12), 4)
    for (x, y), (own_x, own_y) in zip(
        batches.epoch(stream(0), False), batches.epochs([stream(0)]), strict=True
    ):
        assert torch.equal(x, own_x[0]) and torch.equal(y, own_y[0])


def test_augmentation_does_not_change_the_order() -> None:
    plain, cut = (Minibatches(numbered(12, augment), 4) for augment in (False, True))
    for (x, y), (_, same) in zip(plain.epoch(stream(0), False), cut.epoch(stream(0), False), strict=True):
        assert torch.equal(y, same)
        assert torch.equal(x, plain.split.images[y])


def test_the_split_keeps_its_images_and_its_parts_are_augmented_too() -> None:
    data = numbered(12)
    before = data.images.clone()
    list(Minibatches(data, 4).epoch(stream(0), False))
    assert torch.equal(data.images, before)
    for part in (data, data.first(None), data.first(3), data.at(torch.arange(2)), data.to(before.device)):
        assert part.augment
    assert not numbered(3, augment=False).first(2).augment


@pytest.mark.parametrize("name", ["cifar10", "cifar10-5000", "cifar10-shift", "cifar5", "cifar5-open"])
def test_only_training_images_of_cifar_are_augmented(name: str, tmp_path, monkeypatch) -> None:
    shrink(monkeypatch)
    make_tree(tmp_path)
    data = registry.task(name).load(tmp_path)
    assert data.train.augment
    assert not any(part.augment for part in (data.val, data.test, data.outliers) if part)


@pytest.mark.parametrize("name", ["digits", "digits-open", "digits-shift"])
def test_digits_are_not_augmented(name: str) -> None:
    assert not registry.task(name).load(None).train.augment
