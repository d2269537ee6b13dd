"""Canaries of the data fire on planted faults, name what is wrong, and let true sets pass."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import line, load_stripes, stripes

from bench import registry
from bench.evaluations import data_canaries
from bench.rng import stream
from bench.task import Data, Split

ROOT = os.environ.get("BENCH_DATA")
real_data = pytest.mark.skipif(not ROOT, reason="BENCH_DATA is not set: no folder with MNIST and CIFAR-10")
DIGITS = registry.task("digits").load(None)
BARE = replace(DIGITS, known={})  # as of a plug-in, without records


def findings(data: Data, metric: str) -> list[data_canaries.Finding]:
    return [f for f in data_canaries.findings(data) if f.metric == metric]


def raised(data: Data) -> dict[str, data_canaries.Finding]:
    return {f.metric: f for f in data_canaries.findings(data) if f.text}


def wrong(data: Data) -> set[str]:
    return {name for name, found in raised(data).items() if found.wrong}


def with_labels(split: Split, change) -> Split:
    labels = split.labels.numpy().copy()
    change(labels)
    return replace(split, labels=torch.from_numpy(labels))


def exchange(labels: np.ndarray) -> None:
    """Folders 3 and 5 swapped."""
    three, five = labels == 3, labels == 5
    labels[three], labels[five] = 5, 3


def shuffle_tenth(labels: np.ndarray) -> None:
    random = np.random.default_rng(0)
    chosen = random.permutation(len(labels))[: len(labels) // 10]
    labels[chosen] = labels[random.permutation(chosen)]


def shuffle(labels: np.ndarray) -> None:
    np.random.default_rng(0).shuffle(labels)


# True sets


@pytest.mark.parametrize("name", ["digits", "digits-open", "toy"])
def test_embedded_sets_raise_nothing_and_every_check_is_a_row(name: str) -> None:
    said: list[str] = []
    rows = data_canaries.check(registry.task(name).load(None), said.append)
    assert (
        not said
        and {r["variant"] for r in rows} == {"canary"}
        and {r["evaluation"] for r in rows} == {"data"}
    )
    keys = [(r["metric"], r["dataset"]) for r in rows]
    assert len(set(keys)) == len(keys)
    expected = {"invalid_images"} if name == "toy" else {
        "invalid_images", "constant_images", "near_duplicates", "shared_images", "class_share_gap",
        "pixel_mean_gap", "label_agreement", "label_agreement_gap", "swapped_classes", "record_share_gap",
        "record_distance", "record_agreement_gap",
    }  # fmt: skip
    assert {metric for metric, _ in keys} == expected


@real_data
@pytest.mark.parametrize("name", ["notmnist", "mnist-val", "mnist-5000", "cifar10", "cifar5-open"])
def test_downloaded_sets_raise_nothing(name: str) -> None:
    assert not raised(registry.task(name).load(Path(str(ROOT))))


def test_a_set_without_records_has_the_other_checks() -> None:
    for data in (BARE, load_stripes(None)):
        found = data_canaries.findings(data)
        assert not [f for f in found if f.text or f.metric.startswith("record")]
        assert {"near_duplicates", "label_agreement", "swapped_classes"} <= {f.metric for f in found}


# Planted faults


def test_a_test_image_in_training_is_a_doubt_that_names_both() -> None:
    images = DIGITS.train.images.clone()
    images[700] = (DIGITS.test.images[33] * 255).round() / 255
    found = raised(replace(BARE, train=replace(DIGITS.train, images=images)))
    assert set(found) == {"near_duplicates"} and not found["near_duplicates"].wrong
    assert (
        "digits (test)" in found["near_duplicates"].text
        and "33 is train 700" in found["near_duplicates"].text
    )


def test_a_validation_set_from_training_is_wrong() -> None:
    copied = DIGITS.train.at(torch.arange(100))
    assert "near_duplicates" in wrong(replace(BARE, val=replace(copied, name="digits-val")))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_outliers_that_are_images_of_the_set_are_wrong(part: str) -> None:
    images = DIGITS.outliers.images.clone()
    images[3] = getattr(DIGITS, part).images[5]
    found = raised(replace(BARE, outliers=replace(DIGITS.outliers, images=images)))
    assert found["shared_images"].wrong and f"found 1: 3 is {part} 5" in found["shared_images"].text


def test_outliers_that_are_the_set_itself_are_wrong_even_if_stored_with_loss() -> None:
    noise = torch.randn(DIGITS.test.images.shape, generator=stream(0, "loss")) * 0.005
    lossy = replace(DIGITS.test, name="letters", images=(DIGITS.test.images + noise).clamp(0, 1))
    assert wrong(replace(BARE, outliers=lossy)) == {"near_duplicates"}
    known = wrong(replace(DIGITS, outliers=replace(DIGITS.test, name="letters")))
    assert known >= {"near_duplicates", "shared_images", "record_distance"}


def test_outliers_of_a_known_set_that_are_new_images_of_another_are_wrong() -> None:
    kept, other = torch.arange(0, 1257, 2), torch.arange(1, 1257, 2)
    data = replace(
        DIGITS, train=DIGITS.train.at(kept), outliers=replace(DIGITS.train.at(other), name="letters")
    )
    assert "record_distance" in wrong(data)


def test_two_classes_swapped_in_training_alone_are_named() -> None:
    found = raised(replace(BARE, train=with_labels(DIGITS.train, exchange)))
    assert found["swapped_classes"].wrong and found["swapped_classes"].text.endswith(
        "found swapped: 3 with 5"
    )


def test_two_classes_swapped_everywhere_are_named_for_a_known_set() -> None:
    parts = {name: with_labels(getattr(DIGITS, name), exchange) for name in ("train", "val", "test")}
    assert not raised(replace(BARE, **parts))
    found = raised(replace(DIGITS, **parts))
    assert found["record_distance"].wrong and "3 as 5" in found["record_distance"].text


def test_a_tenth_of_labels_shuffled_is_wrong_in_a_known_set() -> None:
    train = with_labels(DIGITS.train, shuffle_tenth)
    found = raised(replace(DIGITS, train=train))["record_agreement_gap"]
    moved = torch.nonzero(train.labels != DIGITS.train.labels)[:, 0].tolist()
    named = found.text.partition("least agree train ")[2].split(", ")
    assert found.wrong and {int(index) for index in named if index != ".."} <= set(moved)


def test_a_tenth_of_training_labels_shuffled_is_a_doubt_without_a_record() -> None:
    data = replace(load_stripes(None), train=with_labels(stripes(3000), shuffle_tenth), test=stripes(1000, 2))
    found = raised(data)
    assert set(found) == {"label_agreement_gap"} and not found["label_agreement_gap"].wrong


def test_labels_that_are_all_shuffled_are_a_doubt_without_a_record() -> None:
    parts = {name: with_labels(getattr(DIGITS, name), shuffle) for name in ("train", "val", "test")}
    assert "label_agreement" in raised(replace(BARE, **parts))


def test_class_counts_off_the_record_are_wrong() -> None:
    lacking = DIGITS.outliers.at(torch.nonzero(DIGITS.outliers.labels < 6)[:, 0])
    found = raised(replace(DIGITS, outliers=lacking))
    assert found["record_share_gap"].wrong and "letters (outliers)" in found["record_share_gap"].text


def test_a_class_that_training_lacks_is_wrong_and_a_rare_one_a_doubt() -> None:
    none = DIGITS.train.at(torch.nonzero(DIGITS.train.labels != 9)[:, 0])
    assert "class_share_gap" in wrong(replace(BARE, train=none))
    ones = torch.nonzero(DIGITS.test.labels == 1)[:, 0]
    test = DIGITS.test.at(torch.cat([torch.arange(20), ones, ones]))
    found = raised(replace(BARE, test=test))["class_share_gap"]
    assert not found.wrong and "of images of class 1" in found.text


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -0.1, 255.0])
def test_pixels_out_of_range_are_wrong(value: float) -> None:
    images = DIGITS.test.images.clone()
    images[7, 0, 3, 3] = value
    found = raised(replace(BARE, test=replace(DIGITS.test, images=images)))
    assert set(found) == {"invalid_images"} and found["invalid_images"].wrong
    assert found["invalid_images"].text.endswith("in 1 images: 7")


def test_inputs_of_a_regression_are_finite() -> None:
    parts = {"train": line(20), "val": line(5, 1), "test": line(5, 2)}
    assert not raised(Data(**parts))
    parts["test"].images[2] = torch.nan
    assert wrong(Data(**parts)) == {"invalid_images"}


def test_blank_images_and_inverted_ones_are_a_doubt_without_a_record_and_wrong_with_one() -> None:
    images = DIGITS.test.images.clone()
    images[::10] = 1
    assert "constant_images" in raised(replace(BARE, test=replace(DIGITS.test, images=images)))
    inverted = replace(DIGITS.test, images=1 - DIGITS.test.images)
    assert "pixel_mean_gap" in raised(replace(BARE, test=inverted))
    assert "record_distance" in wrong(replace(DIGITS, test=inverted))


def test_a_doubt_is_said_and_is_a_row_that_says_so() -> None:
    images = DIGITS.train.images.clone()
    images[700] = DIGITS.test.images[33]
    said: list[str] = []
    rows = data_canaries.check(replace(BARE, train=replace(DIGITS.train, images=images)), said.append)
    (doubt,) = [r for r in rows if r["variant"] == "doubt"]
    assert (doubt["metric"], doubt["value"], doubt["dataset"]) == ("near_duplicates", 1, "digits")
    assert len(said) == 1 and "33 is train 700" in said[0]


def test_what_is_wrong_ends_the_cell_with_all_of_it_named() -> None:
    data = replace(BARE, train=with_labels(DIGITS.train, exchange), outliers=DIGITS.test)
    with pytest.raises(data_canaries.DataCanaryError, match=r"digits \(outliers\).*swapped: 3 with 5"):
        data_canaries.check(data, lambda text: None)
