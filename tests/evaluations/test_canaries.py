"""Canaries fail for planted faults and only then."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from attacked import trained
from small import load_stripes, small_network, stripes, stripes_task

from bench.ensemble import Ensemble
from bench.evaluations import Subject, canaries, ood
from bench.metrics import predictions
from bench.registry import method
from bench.report import flags
from bench.rng import Streams
from bench.running.cell import Cell
from bench.settings import resolve
from bench.task import Scale, Split

SIZES = (1, 3)


@pytest.fixture(scope="module")
def drawn():
    return trained(3)


def subject(ensemble, **changes):
    data = dataclasses.replace(load_stripes(None), **changes)
    return Subject(ensemble, data, Scale(SIZES), SIZES, ensemble)


def check(asked):
    return canaries.check(asked, Streams(0, "ood"))


def test_a_correct_cell_gives_the_known_answers(drawn):
    rows = {r["metric"]: r for r in check(subject(drawn))}
    assert {r["variant"] for r in rows.values()} == {"canary"}
    assert rows["auroc"]["value"] == pytest.approx(0.5, abs=1e-2)
    assert rows["entropy_nats"]["value"] == pytest.approx(math.log(3), abs=1e-12)
    assert rows["accuracy"]["value"] == pytest.approx(1 / 3, abs=0.3)
    found = ood.evaluate(subject(drawn), Streams(0, "ood")).rows
    assert [r for r in found if r.get("variant") == "canary"] == list(rows.values())


class Noisy(Ensemble):
    """Networks that change with every call, as with dropout left on."""

    def forward(self, x):
        return super().forward(x) + torch.randn(3)


def test_networks_that_change_between_calls_are_detected(drawn):
    noisy = Noisy(small_network(), drawn.weights)
    with torch.random.fork_rng(), pytest.raises(canaries.CanaryError, match="changes of up to"):
        check(subject(noisy))


class InBatches(Ensemble):
    """Networks that depend on other images of the batch, as with batch normalisation in training mode."""

    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_networks_that_depend_on_the_batch_are_detected(monkeypatch, drawn):
    monkeypatch.setattr(canaries, "REPEATED_IMAGES", 7)
    with pytest.raises(canaries.CanaryError, match="predicted twice"):
        check(subject(InBatches(small_network(), drawn.weights)))


def test_outputs_that_do_not_depend_on_the_batch_change_by_rounding(drawn):
    row = canaries.batch_dependence(subject(drawn))
    assert row["variant"] == row["evaluation"] == "canary" and 0 <= row["value"] < 1e-5


class Ranked(Ensemble):
    """Networks that depend on the place of an image in its batch, and not on the other images."""

    def forward(self, x):
        return super().forward(x) + torch.arange(len(x))[:, None]


class AmongOthers(Ensemble):
    """Networks that depend on the other images of a batch, and neither on their order nor on their number."""

    def forward(self, x):
        return super().forward(x - x.amax(0) * (len(x) > 1))


@pytest.mark.parametrize("kind", [InBatches, Ranked, AmongOthers])
def test_the_dependence_on_the_batch_is_seen_and_flagged(kind, drawn):
    row = canaries.batch_dependence(subject(kind(small_network(), drawn.weights)))
    assert row["value"] > 100 * flags.BATCH


def test_an_accuracy_that_ignores_the_labels_is_detected(monkeypatch, drawn):
    monkeypatch.setattr(predictions, "classification", lambda log_p, labels: {"accuracy": 0.99})
    with pytest.raises(canaries.CanaryError, match="expected chance accuracy"):
        check(subject(drawn))


def test_labels_of_one_class_are_detected(drawn):
    test = stripes(40, 2)
    with pytest.raises(canaries.CanaryError, match="several classes, found one"):
        check(subject(drawn, test=dataclasses.replace(test, labels=torch.ones_like(test.labels))))


def test_an_entropy_in_bits_is_detected(monkeypatch, drawn):
    in_nats = predictions.entropy
    monkeypatch.setattr(predictions, "entropy", lambda log_p: in_nats(log_p) / np.log(2))
    with pytest.raises(canaries.CanaryError, match="entropy ln 3"):
        check(subject(drawn))


def test_a_failed_canary_of_the_data_fails_the_cell_before_its_fit(tmp_path):
    from bench.running import worker
    from bench.running.plan import Selection
    from bench.system.progress import reporter

    data = load_stripes(None)
    leaking = dataclasses.replace(data, outliers=Split("noise", data.test.images, data.test.labels))
    entry = method("standard_ensemble")
    settings = resolve(entry, entry.load().Config, "smoke", "stripes", {"epochs": "1", "networks": "2"})
    cell = Cell(entry, stripes_task, "smoke", 0, (1, 2), settings, (("stripes", "leak"),), "leak", "leak")
    job = worker.Job("s", Selection([], []), tmp_path, frozenset(), frozenset())
    with reporter() as out:
        worker._run_cell(cell, leaking, job, torch.device("cpu"), out)
    (path,) = (tmp_path / "raw").glob("*.csv")
    assert ",failed," in path.read_text() and "DataCanaryError" in path.read_text()
    assert not list((tmp_path / "checkpoints").glob("**/*.safetensors"))
