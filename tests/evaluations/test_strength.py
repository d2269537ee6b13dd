"""APGD and the worst over all attacks against PGD on the same networks, images and number of steps."""

from __future__ import annotations

import pandas as pd
import pytest
from attacked import trained_on_digits

from bench.attacks import autoattack
from bench.evaluations import EVALUATIONS, Subject
from bench.records import schema
from bench.report import flags
from bench.rng import Streams
from bench.task import AdaptiveScale, AttackScale, AutoAttackScale, Scale

EPSILONS = (0.05, 0.1)
AUTO = AutoAttackScale((*autoattack.MIXTURE, *autoattack.OBJECTIVES), targets=3)
TRIES = AdaptiveScale(5, 60, steps=10, restarts=1, draws=5, queries=20, auto=AUTO)
SCALE = Scale((1, 5), attacks=(AttackScale(60, (5,), EPSILONS, steps=10, adaptive=TRIES),))


def evaluated(seed=0):
    """Images that fool the attacked networks by attack, epsilon and sense; rows as the report reads them."""
    drawn, data = trained_on_digits()
    subject = Subject(drawn[:5], data, SCALE, SCALE.sizes, drawn)
    rows = [
        r for name in ("attack", "adaptive") for r in EVALUATIONS[name](subject, Streams(seed, name)).rows
    ]
    place = {"run": "m", "method": "m", "task": "t", "train": "t", "preset": "quick", "seed": seed}
    frame = pd.DataFrame([dict.fromkeys(schema.COLUMNS, "") | r | place for r in rows])
    numbers = [*schema.INTEGERS, *schema.FLOATS]
    frame = frame.assign(**{c: pd.to_numeric(frame[c], errors="coerce") for c in numbers})
    own = frame[(frame["metric"] == "success_rate") & (frame["variant"] == "same")]
    own = own[own["crafted_members"] == 5]
    assert own["examples"].nunique() == 1  # all on the same images
    keys = zip(own["attack"], own["epsilon"], own["success"], strict=True)
    counts = (own["value"] * own["examples"]).round().astype(int)
    return dict(zip(keys, counts, strict=True)), frame


def below_pgd(frame):
    found = flags.find(frame)
    return {(r.attack, r.epsilon) for r in found[found["flag"] == "below-pgd"].itertuples()}


def sense_of(name):
    return "mixture" if name in autoattack.MIXTURE else "fused"


@pytest.mark.parametrize("seed", [0, 1])
def test_apgd_is_not_weaker_than_pgd_or_is_flagged_and_the_worst_never_is(seed):
    success, frame = evaluated(seed)
    flagged = below_pgd(frame)
    for epsilon in EPSILONS:
        for sense in ("fused", "mixture"):
            pgd = success["pgd", epsilon, sense]
            assert 6 < pgd < 54
            assert success["worst", epsilon, sense] >= pgd
        for name in flags.APGD:
            own, pgd = (success[n, epsilon, sense_of(name)] for n in (name, "pgd"))
            # A difference of one image raises no flag: both start at random.
            assert (own < pgd - 1) == ((name, epsilon) in flagged), name
        for name in ("apgd-ce", "apgd-t"):
            assert (name, epsilon) not in flagged


def test_a_broken_apgd_is_flagged_and_does_not_weaken_the_worst(monkeypatch):
    monkeypatch.setattr(autoattack, "attack", lambda name, attacked, pool, images, *rest: images)
    success, frame = evaluated()
    assert below_pgd(frame) == {(name, epsilon) for name in flags.APGD for epsilon in EPSILONS}
    for epsilon in EPSILONS:
        for sense in ("fused", "mixture"):
            assert success["worst", epsilon, sense] >= success["pgd", epsilon, sense] > 0
