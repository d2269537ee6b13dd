"""The worst over all attacks: by hand, and against the rows of each attack."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from attacked import pick, subject, trained

from bench.attacks import autoattack
from bench.attacks.success import SENSES
from bench.evaluations import adaptive_attacks, attacks, worst_case
from bench.evaluations.views import View
from bench.records import store
from bench.rng import Streams
from bench.task import AdaptiveScale, AttackScale, AutoAttackScale

AUTO = AutoAttackScale(autoattack.ATTACKS, targets=2, epsilons=(0.3,))
TRIES = AdaptiveScale(2, 8, steps=4, restarts=1, draws=2, queries=5, auto=AUTO)
SCALED = AttackScale(8, (2, 3), (0.05, 0.3), steps=2, adaptive=TRIES)


class Threshold:
    """Rejects every entropy above 0.5 nats."""

    def rejects(self, members, entropy):
        return entropy > 0.5


class NoThreshold:
    def rejects(self, members, entropy):
        return None


def view(probabilities, fused, mixture=None):
    """Two classes with this probability of the first; which images fool, by sense."""
    p = np.array(probabilities)
    fooled = {
        "fused": np.array(fused, bool),
        "mixture": np.array(fused if mixture is None else mixture, bool),
    }
    log_p = np.log(np.stack([p, 1 - p], -1))
    share = np.arange(len(p)) / 10
    return View(2, log_p, np.zeros(len(p)), fooled | {"every": np.zeros(len(p), bool)}, share)


# Entropies of 0.5, 0.9, 0.95 and 0.99: 0.693, 0.325, 0.199 and 0.056 nats.
SEEN = [
    view((0.9, 0.5, 0.9, 0.99), (1, 1, 0, 0)),
    view((0.95, 0.99, 0.5, 0.5), (1, 0, 1, 0), mixture=(0, 1, 1, 0)),
    view((0.99, 0.5, 0.99, 0.9), (0, 1, 1, 0)),
]


def test_undetected_fooling_is_worse_than_detected_and_that_than_none():
    # Image 0: both fool, the second with less entropy. 1: two fool, detected. 2: the third is not detected.
    # 3: none fools.
    found = worst_case.worst(SEEN, Threshold(), "fused")
    np.testing.assert_allclose(np.exp(found.log_p[:, 0]), (0.95, 0.5, 0.99, 0.99))
    assert found.fooled["fused"].tolist() == [True, True, True, False]
    assert found.fooled["mixture"].tolist() == [False, True, True, False]  # of the versions chosen
    np.testing.assert_array_equal(found.share, np.arange(4) / 10)
    found = worst_case.worst(SEEN, Threshold(), "mixture")
    np.testing.assert_allclose(np.exp(found.log_p[:, 0]), (0.9, 0.99, 0.99, 0.99))
    # Without a detector, the lowest entropy of those that fool.
    found = worst_case.worst(SEEN, NoThreshold(), "fused")
    np.testing.assert_allclose(np.exp(found.log_p[:, 0]), (0.95, 0.5, 0.99, 0.99))


def test_rows_of_the_worst_by_hand():
    before = view((0.9, 0.9, 0.9, 0.9), (0, 0, 1, 0))  # the third image was wrong before
    rows = worst_case.rows({"variant": "same"}, before, SEEN, Threshold())
    found = {(r["metric"], r["success"]): r["value"] for r in rows}
    assert len(found) == len(rows) and {r["attack"] for r in rows} == {"worst"}
    assert found["success_rate", "fused"] == found["success_rate", "mixture"] == pytest.approx(2 / 3)
    assert found["robust_accuracy", "fused"] == found["robust_accuracy", "mixture"] == pytest.approx(1 / 4)
    assert found["evasion_rate", "fused"] == pytest.approx(1 / 3)
    assert found["detected_share", "fused"] == pytest.approx(1 / 2)
    assert found["detected_share", "mixture"] == 0
    assert found["success_rate", "every"] == 0 and ("robust_accuracy", "every") not in found

    def entropy(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert found["entropy_nats", "fused"] == pytest.approx((entropy(0.95) + entropy(0.5)) / 2)


@pytest.fixture(scope="module")
def drawn():
    return trained(10)


@pytest.fixture(scope="module")
def found(drawn):
    asked, said = subject(drawn, SCALED)
    rows = adaptive_attacks.evaluate(asked, Streams(0, "adaptive"))
    assert said == ["  skipped: apgd-t (needs 4 classes; the task has 3)"]
    return rows


@pytest.fixture(scope="module")
def oblivious(drawn):
    return attacks.evaluate(subject(drawn, SCALED)[0], Streams(0, "attack"))


def test_the_parts_of_autoattack_run_at_their_epsilons(found):
    store.to_csv(found.rows)  # raises if two rows share a key
    auto = {(r["attack"], r["epsilon"]) for r in found.rows if r["attack"] in autoattack.ATTACKS}
    assert auto == {(a, 0.3) for a in autoattack.ATTACKS if a != "apgd-t"}
    worst = {(r["epsilon"], r["variant"]) for r in found.rows if r["attack"] == "worst"}
    assert worst == {(e, v) for e in SCALED.epsilons for v in ("same", "adaptive")}


@pytest.mark.parametrize("variant", ["same", "adaptive"])
@pytest.mark.parametrize("epsilon", SCALED.epsilons)
def test_the_worst_is_at_least_as_strong_as_every_attack(found, oblivious, epsilon, variant):
    own = {"epsilon": epsilon, "members": 2, "crafted_members": 2}
    for metric, sign in (("success_rate", 1), ("evasion_rate", 1), ("robust_accuracy", -1)):
        for sense in SENSES:
            every = pick(found, metric, variant=variant, success=sense, **own)
            worst = [sign * r["value"] for r in every if r["attack"] == "worst"]
            tested = "fresh" if variant == "adaptive" else variant
            others = [r for r in every if r["attack"] != "worst"]
            others += pick(oblivious, metric, variant=tested, success=sense, **own)
            assert len(worst) == (len(others) > 0)
            if others:
                assert {"fgsm", "pgd", "pgd-stop", "eot", "noise"} <= {r["attack"] for r in others}
                assert worst[0] >= max(sign * r["value"] for r in others) - 1e-12


def test_robust_accuracy_is_clean_accuracy_without_the_successes(found, oblivious):
    (clean,) = pick(oblivious, "success_rate", variant="clean", members=2, success="fused")
    for line in pick(found, "robust_accuracy", variant="same", success="fused"):
        where = {name: line[name] for name in ("attack", "epsilon", "variant", "members", "crafted_members")}
        (success,) = pick(found, "success_rate", success="fused", **where)
        assert line["value"] == pytest.approx((1 - clean["value"]) * (1 - success["value"]))
        assert line["examples"] == 8


def test_a_scale_without_autoattack_has_a_worst_of_the_others(drawn):
    plain = dataclasses.replace(SCALED, adaptive=dataclasses.replace(TRIES, auto=None))
    rows = adaptive_attacks.evaluate(subject(drawn, plain)[0], Streams(0, "adaptive")).rows
    assert {r["attack"] for r in rows} == {*adaptive_attacks.ATTACKS, "worst"}
