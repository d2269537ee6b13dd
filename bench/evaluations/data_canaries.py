"""Canaries of the data, before training: what wrong images or labels show, and true sets do not.

Thresholds rest on training and validation images of MNIST, CIFAR-10 and scikit-learn's digits, and on
notMNIST; what these show stands beside each. A finding that leaves no doubt (`wrong`) fails the cell before
its fit; any other is a doubt, a row of variant `doubt` that the report flags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from bench.errors import BenchError
from bench.metrics import images
from bench.records.schema import row
from bench.task import Data, Known, Split

SIDE = 8  # blocks of pixels per side, from which labels are predicted
COARSE = 4  # and from which near-duplicates are sought
# Root mean square difference of pixels; true sets: 0.033 (MNIST), 0.050 (digits), 0.063 (CIFAR-10) at least.
NEAR = 0.015
COPIED = 0.1  # share of near-duplicates in a set that is certainly a copy; true sets: none
BLANK = 0.05  # share of images of one colour; true sets: none, but 0.014 of notMNIST
SHARE_GAP = 0.05  # difference of a class's share between two parts; true sets: 0.003
MEAN_GAP = 0.05  # difference of mean pixels between two parts; true sets: 0.005
SIGMAS = 5.0  # of a gap that is not chance; true sets: 1.8
AGREEMENT_GAP = 0.02  # of labels, between two parts; where it is larger by chance, it is not `SIGMAS`
SWAPPED = 10.0  # nats in favour of an exchange of classes; true sets: -32 at most, 32 at least where swapped
RECORD_SHARE = 0.01  # difference of a class's share from the record; true sets: 0.003
RECORD = 0.02  # distance of class means from the record, above twice their noise; true sets: 0.012
RECORD_GAP = 0.01  # difference of agreement from the record; 10 % of shuffled labels: 0.033 or more
SHOWN = 5  # images or classes named in a message


class DataCanaryError(BenchError):
    """The data are certainly not what they are said to be: the cell is not trained."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. text: what is in doubt, or wrong; empty if nothing is."""

    metric: str
    value: float
    dataset: str
    examples: int
    text: str = ""
    wrong: bool = False


class _Part:
    """One part of the data with what the checks need of it, computed once."""

    def __init__(self, name: str, split: Split) -> None:
        self.name, self.split = name, split
        self.labels = split.labels.numpy()

    def __len__(self) -> int:
        return len(self.split)

    @cached_property
    def extremes(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of each channel, [B, C] each; NaN where one of its pixels is."""
        given = self.split.images
        pixels = (given if given.dim() > 2 else given[:, None]).flatten(2)
        return pixels.amin(2), pixels.amax(2)

    @cached_property
    def coarse(self) -> np.ndarray:
        return images.blocks(self.split.images, COARSE)

    @cached_property
    def grey(self) -> np.ndarray:
        """Means of `coarse` over channels."""
        return self.coarse.reshape(len(self), -1, COARSE**2).mean(1)

    @cached_property
    def features(self) -> np.ndarray:
        return images.blocks(self.split.images, SIDE)

    def shares(self, classes: int) -> np.ndarray:
        return np.bincount(self.labels, minlength=classes) / len(self)


def findings(data: Data) -> list[Finding]:
    """The result of every check of the data, in order; those of labels and images only for images.

    - invalid_images: with pixels that are not finite or not in [0, 1] (for regression: not finite).
    - constant_images: of one colour, as images become that are decoded wrongly.
    - near_duplicates: validation and test images in the training images, test images in those of validation,
      outliers in any of them. shared_images: outliers that are identical to one.
    - class_share_gap, pixel_mean_gap: difference of a class's share, and of mean pixels, from training.
    - label_agreement: share of training labels that agree with the nearest centroid
      (`bench.metrics.images`). label_agreement_gap: how much larger it is in a part. swapped_classes: pairs
      of classes whose names are exchanged between training images and a part.
    - record_share_gap, record_distance, record_agreement_gap: difference of a class's share, of a class's
      mean image, and of label_agreement, from those on record.
    """
    splits = {"train": data.train, "val": data.val, "test": data.test, "outliers": data.outliers}
    if data.test is data.val:  # a task that asks of validation images
        del splits["test"]
    parts = {name: _Part(name, split) for name, split in splits.items() if split is not None}
    found = [_invalid(part, data.train.labels.is_floating_point()) for part in parts.values()]
    if data.train.labels.is_floating_point() or data.train.images.dim() != 4 or any(f.wrong for f in found):
        return _one_by_set(found)
    found += [_blank(part) for part in parts.values()]
    found += _duplicates(parts)
    found += _labels(parts, data.known.get("train"))
    for name, record in data.known.items():
        if name in parts:
            found += _against(record, parts[name])
    return _one_by_set(found)


def check(data: Data, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The rows of `findings`, of variant `doubt` where one is in doubt, which is said; else `canary`.

    Raises DataCanaryError, naming all that is wrong.
    """
    found = findings(data)
    if wrong := [f.text for f in found if f.wrong]:
        raise DataCanaryError("; ".join(wrong) + "; correct the data, see `bench data verify`")
    for finding in found:
        if finding.text:
            say(f"  doubt: {finding.text}")
    return [
        row(
            f.metric, f.value, evaluation="data", variant="doubt" if f.text else "canary", dataset=f.dataset,
            examples=f.examples,
        )
        for f in found
    ]  # fmt: skip


def _one_by_set(found: list[Finding]) -> list[Finding]:
    """One finding of a metric and a set's name, which training and test images may share: the worst."""
    worst: dict[tuple[str, str], Finding] = {}
    for finding in found:
        key = finding.metric, finding.dataset
        if key not in worst or _gravity(finding) > _gravity(worst[key]):
            worst[key] = finding
    return list(worst.values())


def _gravity(finding: Finding) -> tuple[bool, bool, float]:
    return finding.wrong, bool(finding.text), abs(finding.value)


def _some(numbers: np.ndarray) -> str:
    """The first of some indices, as text."""
    return ", ".join(map(str, numbers[:SHOWN])) + (", .." if len(numbers) > SHOWN else "")


def _where(part: _Part) -> str:
    return f"{part.split.name} ({part.name})"


def _invalid(part: _Part, regression: bool) -> Finding:
    low, high = part.extremes
    good = low.isfinite() & high.isfinite() if regression else (low >= 0) & (high <= 1)
    bad = (~good).any(1).nonzero()[:, 0].numpy()
    wanted = "finite inputs" if regression else "pixels in [0, 1]"
    text = f"{_where(part)}: expected {wanted}, found others in {len(bad)} images: {_some(bad)}"
    return Finding(
        "invalid_images", len(bad), part.split.name, len(part), text if len(bad) else "", len(bad) > 0
    )


def _blank(part: _Part) -> Finding:
    low, high = part.extremes
    bad = (low == high).all(1).nonzero()[:, 0].numpy()
    text = (
        f"{_where(part)}: expected images that show something, found {len(bad)} of {len(part)} of one "
        f"colour: {_some(bad)}"
    )
    doubtful = len(bad) > BLANK * len(part)
    return Finding("constant_images", len(bad), part.split.name, len(part), text if doubtful else "")


def _duplicates(parts: dict[str, _Part]) -> Iterator[Finding]:
    """Near-duplicates of each part in those before it."""
    names = list(parts)
    for i, name in enumerate(names[1:], start=1):
        asked = parts[name]
        found: dict[int, tuple[float, str]] = {}
        for known in (parts[n] for n in names[:i]):
            near = images.near(known.split.images, known.grey, asked.split.images, asked.grey, NEAR)
            for index, other, distance in zip(*(each.tolist() for each in near), strict=True):
                closest = (distance, f"{index} is {known.name} {other}")
                found[index] = min(found.get(index, closest), closest)
        same = [text for distance, text in found.values() if distance == 0]
        where = _where(asked)
        if name == "outliers":
            text = (
                f"{where}: expected no outlier among the other images, found {len(same)}: "
                f"{'; '.join(same[:SHOWN])}"
            )
            yield Finding(
                "shared_images", len(same), asked.split.name, len(asked), text if same else "", bool(same)
            )
        text = (
            f"{where}: expected no near-duplicates of {', '.join(names[:i])} images, found {len(found)}: "
            f"{'; '.join(text for _, text in list(found.values())[:SHOWN])}"
        )
        yield Finding(
            "near_duplicates", len(found), asked.split.name, len(asked), text if found else "",
            len(found) > COPIED * len(asked),
        )  # fmt: skip


def _labels(parts: dict[str, _Part], record: Known | None) -> Iterator[Finding]:
    """What labels say: shares of classes, agreement with images, and classes that are swapped."""
    train, others = parts["train"], [parts[n] for n in ("val", "test") if n in parts]
    classes = 1 + max(int(part.labels.max()) for part in (train, *others))
    yield from _shares(train, others, classes)
    scores = images.centroid_scores((train.features, train.labels), classes, [p.features for p in others])
    own, *asked = (images.confusion(s, p.labels) for s, p in zip(scores, (train, *others), strict=True))
    yield _agreement(train, own, scores[0])
    if record and (expected := record.agreements.get((len(np.unique(train.labels)), len(train)))):
        gap = np.trace(own) / own.sum() - expected
        text = (
            f"{_where(train)}: expected {expected:.1%} of labels to agree with the nearest centroid, as is "
            f"on record, found {expected + gap:.1%}; least agree {_least(train, scores[0])}"
        )
        wrong = bool(abs(gap) > RECORD_GAP)
        yield Finding("record_agreement_gap", gap, train.split.name, len(train), text if wrong else "", wrong)
    for part, counts, score in zip(others, asked, scores[1:], strict=True):
        yield _gap(train, own, scores[0], part, counts, score)
        pairs = [pair for pair, nats in images.swapped(own, counts).items() if nats > SWAPPED]
        named = " and ".join(f"{a} with {b}" for a, b in pairs[:SHOWN])
        text = f"{_where(part)}: expected the same classes as in training, found swapped: {named}"
        yield Finding(
            "swapped_classes", len(pairs), part.split.name, len(part), text if pairs else "", bool(pairs)
        )


def _shares(train: _Part, others: list[_Part], classes: int) -> Iterator[Finding]:
    """Shares of classes and mean pixels of each part against those of training."""
    expected, mean = train.shares(classes), float(train.coarse.mean())
    for part in others:
        gaps = part.shares(classes) - expected
        worst = int(np.abs(gaps).argmax())
        unseen = np.flatnonzero((expected == 0) & (gaps > 0))
        chance = SIGMAS * np.sqrt(expected[worst] * (1 - expected[worst]) / len(part))
        text = (
            f"{_where(part)}: expected {expected[worst]:.1%} of images of class {worst}, as in training, "
            f"found {expected[worst] + gaps[worst]:.1%}"
        )
        if len(unseen):
            text = f"{_where(part)}: expected classes of the training images, found also {_some(unseen)}"
        doubtful = len(unseen) or abs(gaps[worst]) > max(SHARE_GAP, chance)
        value = float(np.abs(gaps).max())
        yield Finding(
            "class_share_gap", value, part.split.name, len(part), text if doubtful else "", len(unseen) > 0
        )
        gap = float(part.coarse.mean()) - mean
        chance = SIGMAS * float(part.coarse.mean(1).std()) / np.sqrt(len(part))
        text = f"{_where(part)}: expected mean pixels near {mean:.3f}, as in training, found {mean + gap:.3f}"
        doubtful = abs(gap) > max(MEAN_GAP, chance)
        yield Finding("pixel_mean_gap", gap, part.split.name, len(part), text if doubtful else "")


def _gap(
    train: _Part, own: np.ndarray, own_scores: np.ndarray, part: _Part, counts: np.ndarray, scores: np.ndarray
) -> Finding:
    """Agreement of labels in a part against training; of the set with less, the images that agree least."""
    gap, sigmas = images.agreement_gap(own, counts)
    poor, poor_scores = (train, own_scores) if gap > 0 else (part, scores)
    text = (
        f"{_where(part)}: expected labels to agree with the nearest centroid as often as in training, found "
        f"{gap:+.1%}; are labels wrong? Least agree {_least(poor, poor_scores)}"
    )
    doubtful = abs(sigmas) > SIGMAS and abs(gap) > AGREEMENT_GAP
    return Finding("label_agreement_gap", gap, part.split.name, len(part), text if doubtful else "")


def _agreement(train: _Part, own: np.ndarray, scores: np.ndarray) -> Finding:
    """Agreement of training labels, which exceeds chance by `SIGMAS` where labels match images."""
    share = float(np.trace(own) / own.sum())
    chance = float(own.sum(0) @ own.sum(1)) / own.sum() ** 2
    beyond = SIGMAS * np.sqrt(chance * (1 - chance) / own.sum())
    text = (
        f"{_where(train)}: expected labels that match images, found that {share:.1%} agree with the nearest "
        f"centroid, {chance:.1%} by chance; least agree {_least(train, scores)}"
    )
    doubt = text if share < chance + beyond else ""
    return Finding("label_agreement", share, train.split.name, len(train), doubt)


def _least(part: _Part, scores: np.ndarray) -> str:
    """The images whose labels have the lowest score against the best class, as text."""
    behind = scores[np.arange(len(part)), part.labels] - scores.max(1)
    return f"{part.name} {_some(np.argsort(behind, kind='stable')[: SHOWN + 1])}"


def _against(record: Known, part: _Part) -> Iterator[Finding]:
    """Class counts and mean images of a part against the record of its set."""
    classes = np.array(record.classes or range(len(record.shares)))
    counts = np.bincount(part.labels, minlength=int(classes.max()) + 1)
    shares = np.array(record.shares)[classes] / np.array(record.shares)[classes].sum()
    gaps = counts[classes] / len(part) - shares
    worst = int(np.abs(gaps).argmax())
    text = (
        f"{_where(part)}: expected {shares[worst]:.1%} of images of class {classes[worst]}, as is on record, "
        f"found {shares[worst] + gaps[worst]:.1%}"
    )
    wrong = abs(gaps[worst]) > RECORD_SHARE + 1 / len(part)
    yield Finding(
        "record_share_gap", float(gaps[worst]), part.split.name, len(part), text if wrong else "", bool(wrong)
    )
    present = classes[counts[classes] > 0]
    features = part.coarse if record.side == COARSE else images.blocks(part.split.images, record.side)
    own = images.class_means(features, part.labels, len(counts))[present]
    known = np.array(record.means)[present]
    known = np.tile(known, own.shape[1] // known.shape[1])  # grey levels in every channel
    far = np.sqrt(np.square(own[:, None] - known[None]).mean(2))  # [K, K]: own class, class on record
    noise = [features[part.labels == k].var(0).mean() / counts[k] for k in present]
    excess = far.diagonal() - 2 * np.sqrt(noise)
    nearest = far.argmin(1)
    swaps = [(a, b) for a, b in enumerate(nearest.tolist()) if a != b and (b > a or nearest[b] != a)]
    worst = int(excess.argmax())
    text = (
        f"{_where(part)}: expected mean images of classes as on record, found that of class {present[worst]} "
        f"{far[worst, worst]:.3f} away"
    )
    if swaps:
        named = ", ".join(f"{present[a]} as {present[b]}" for a, b in swaps[:SHOWN])
        text = f"{_where(part)}: expected mean images of classes as on record, found class {named}"
    wrong = bool(swaps or excess[worst] > RECORD)
    value = float(far.diagonal().max())
    yield Finding("record_distance", value, part.split.name, len(part), text if wrong else "", wrong)
