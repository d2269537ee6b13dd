"""The detector's thresholds: from clean validation images and from nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from attacked import trained
from small import load_stripes

from bench.evaluations import EVALUATIONS, Subject, detector
from bench.evaluations.detector import Detector
from bench.rng import Streams
from bench.task import SHIFT_GREY, AdaptiveScale, AttackScale, AutoAttackScale, Scale

SIZES = (1, 3)


@pytest.fixture(scope="module")
def drawn():
    return trained(6)


def subject(drawn, data, **scale):
    return Subject(drawn[:3], data, Scale(SIZES, **scale), SIZES, drawn)


def without_images(split):
    return dataclasses.replace(split, images=torch.full_like(split.images, torch.nan))


def test_images_that_are_nan_outside_validation_change_no_threshold(drawn):
    data = load_stripes(None)
    blind = dataclasses.replace(
        data, **{name: without_images(getattr(data, name)) for name in ("train", "test", "outliers")}
    )
    found = [Detector(subject(drawn, each)) for each in (data, blind)]
    assert found[0].thresholds == found[1].thresholds
    assert all(np.isfinite(t) for t in found[1].thresholds.values())
    moved = dataclasses.replace(data, val=dataclasses.replace(data.val, images=data.val.images.flip(0) * 0.5))
    assert Detector(subject(drawn, moved)).thresholds != found[0].thresholds


def test_labels_choose_no_threshold(drawn):
    data = load_stripes(None)
    val = dataclasses.replace(data.val, labels=(data.val.labels + 1) % 3)
    found = [Detector(subject(drawn, each)) for each in (data, dataclasses.replace(data, val=val))]
    assert found[0].thresholds == found[1].thresholds


def test_thresholds_are_the_same_before_and_after_every_other_evaluation(drawn):
    auto = AutoAttackScale(("apgd-ce", "square-mixture"), targets=1, epsilons=(0.1,))
    tries = AdaptiveScale(2, 8, steps=2, restarts=1, draws=2, queries=3, auto=auto)
    part = AttackScale(8, (2,), (0.1,), steps=2, searched=2, adaptive=tries)
    asked = subject(
        drawn, load_stripes(None), attacks=(part,), shift=dataclasses.replace(SHIFT_GREY, images=8)
    )
    before = Detector(asked).thresholds
    for name in ("accuracy", "ood", "shift", "attack", "adaptive", "fooling-epsilon"):
        EVALUATIONS[name](asked, Streams(0, name))
    assert Detector(asked).thresholds == before


def test_a_threshold_is_set_by_as_many_images_as_its_row_says(drawn, monkeypatch):
    # Where the validation images are also those of the test, all of them were predicted before.
    monkeypatch.setattr(detector, "THRESHOLD_IMAGES", 10)
    data = load_stripes(None)
    asked = subject(drawn, dataclasses.replace(data, test=data.val))
    alone = Detector(asked)
    again = subject(drawn, asked.data)
    again.logits(again.test)
    after = Detector(again)
    assert after.thresholds == alone.thresholds and after.images == alone.images == 10


def test_predictions_of_splits_of_one_name_are_kept_apart(drawn):
    data = load_stripes(None)
    assert data.train.name == data.test.name
    asked = subject(drawn, data)
    for split in (data.train, data.test, data.test.first(5), data.train):
        found = asked.logits(split)
        np.testing.assert_array_equal(found, drawn[:3].logits(split.images).numpy())
    assert asked.predicted == len(data.train) + len(data.test) + 5  # the last was known
