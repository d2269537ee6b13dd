"""The shift evaluation: what its rows hold, and that its images are the same for every seed."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from attacked import trained
from small import load_stripes

from bench import registry
from bench.evaluations import EVALUATIONS, Subject, shift
from bench.evaluations.corruptions import CORRUPTIONS, corrupt
from bench.metrics import predictions
from bench.rng import Streams
from bench.running.versions import fit_definitions
from bench.task import SHIFT_GREY, Scale

SIZES = (1, 3)
IMAGES = 12


@pytest.fixture(scope="module")
def subject():
    drawn = trained(3)
    scale = Scale(SIZES, shift=dataclasses.replace(SHIFT_GREY, images=IMAGES))
    return Subject(drawn, load_stripes(None), scale, SIZES, drawn)


@pytest.fixture(scope="module")
def result(subject):
    return EVALUATIONS["shift"](subject, Streams(0, "shift"))


def values(rows, **where):
    return {r["metric"]: r["value"] for r in rows if all(r.get(k) == v for k, v in where.items())}


def test_there_are_rows_of_clean_images_once_and_of_every_corruption_and_severity(result):
    counts = Counter((r.get("corruption"), r["severity"]) for r in result.rows)
    of_one = len(SIZES) * len(shift.METRICS)
    expected = {(name, s): of_one for name in CORRUPTIONS for s in range(1, 6)}
    assert counts == expected | {(None, 0): of_one}
    assert {(r["evaluation"], r["dataset"], r["examples"]) for r in result.rows} == {
        ("shift", "stripes", IMAGES)
    }


def test_rows_are_the_metrics_of_predictions_on_the_corrupted_images(subject, result):
    part = subject.test.first(IMAGES)
    images = corrupt(part.images, "noise", 4, subject.scale.shift)
    logits, labels = subject.ensemble.logits(images).numpy(), part.labels.numpy()
    p = np.exp(predictions.log_probabilities(logits)).mean(0)
    found = values(result.rows, corruption="noise", severity=4, members=3)
    assert found["accuracy"] == pytest.approx((p.argmax(-1) == labels).mean())
    assert found["nll_nats"] == pytest.approx(-np.log(p[np.arange(IMAGES), labels]).mean())
    assert found["entropy_nats"] == pytest.approx(-(p * np.log(p)).sum(-1).mean())
    correct, confidence = p.argmax(-1) == labels, p.max(-1)
    assert found["ece"] == pytest.approx(predictions.ece(confidence, correct))
    assert found["aurc"] == pytest.approx(predictions.aurc(confidence, correct))
    alone = values(result.rows, corruption="noise", severity=4, members=1)
    assert alone["accuracy"] == pytest.approx((logits.argmax(-1) == labels).mean())
    assert alone["nll_nats"] >= found["nll_nats"] and alone["entropy_nats"] <= found["entropy_nats"]


def test_clean_rows_of_all_images_are_those_of_the_accuracy_evaluation(subject):
    scale = dataclasses.replace(subject.scale, shift=SHIFT_GREY)
    whole = dataclasses.replace(subject, scale=scale)
    clean = shift.evaluate(whole, Streams(0, "shift")).rows
    for members in SIZES:
        expected = values(EVALUATIONS["accuracy"](whole, Streams(0, "accuracy")).rows, members=members)
        found = values(clean, severity=0, members=members)
        assert {m: expected[m] for m in ("accuracy", "nll_nats", "ece", "aurc")}.items() <= found.items()


def test_seeds_see_the_same_images(subject, result):
    assert shift.evaluate(subject, Streams(1, "shift")).rows == result.rows


def test_the_first_image_is_kept_at_every_severity(subject, result):
    assert set(result.arrays) == {f"shift/{name}" for name in CORRUPTIONS}
    clean = (subject.test.images[0].numpy() * 255).round()
    for kept in result.arrays.values():
        assert kept.shape == (6, 1, 8, 8) and kept.dtype == np.uint8
        assert np.array_equal(kept[0], clean) and (kept[5] != kept[0]).any()


def test_a_task_without_strengths_is_refused(subject):
    bare = dataclasses.replace(subject, scale=Scale(SIZES))
    with pytest.raises(ValueError, match="expected a scale with `shift`"):
        shift.evaluate(bare, Streams(0, "shift"))


@pytest.mark.parametrize("base", ("digits", "mnist", "cifar10"))
def test_shift_tasks_share_the_fit_of_their_data(base):
    plain, shifted = registry.task(base), registry.task(f"{base}-shift")
    assert (shifted.train, shifted.load, shifted.loss) == (plain.train, plain.load, plain.loss)
    entry = registry.method("mc_dropout")
    assert fit_definitions(entry, shifted) == fit_definitions(entry, plain)
    for preset in registry.PRESETS:
        assert shifted.scale(preset).sizes == plain.scale(preset).sizes
        assert "shift" in shifted.evaluations and shifted.scale(preset).shift is not None
    assert shifted.scale("paper").shift.images is None
