"""The attack evaluation: attacked and tested networks, and rows against hand-worked values."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from attacked import PART, pick, stripes_mislabelled, subject, trained
from ensembles import random_ensemble
from small import load_stripes, small_method, small_network

from bench import training
from bench.attacks import oblivious, search
from bench.ensemble import Ensemble
from bench.evaluations import DRAWS, EVALUATIONS, attacks, fooling_epsilon, views
from bench.metrics import predictions
from bench.records import schema, store
from bench.rng import Streams
from bench.running import run
from bench.task import AttackScale, Scale
from bench.training import Method


@pytest.fixture(scope="module")
def drawn():
    return trained(6)


@pytest.fixture(scope="module")
def found(drawn):
    return attacks.evaluate(subject(drawn)[0], Streams(0, "attack"))


def test_rows_have_distinct_keys_and_known_metrics(found, drawn):
    extra = fooling_epsilon.evaluate(subject(drawn)[0], Streams(0, "fooling-epsilon"))
    text = store.to_csv(found.rows + extra.rows)  # raises if two rows share a key
    assert "nan" not in text and "inf" not in text
    assert {r["metric"] for r in found.rows + extra.rows} <= set(schema.METRICS)


def test_the_first_networks_are_attacked_and_the_next_are_fresh(found):
    rows = [r for r in found.rows if r["metric"] != "detection_threshold_nats"]
    crafted = {(r["variant"], r["members"], r.get("crafted_members")) for r in rows}
    fresh = {("fresh", m, n) for n in (1, 2, 3) for m in (1, 2, 3)}  # all that six networks allow
    assert crafted == fresh | {
        ("clean", 2, None), ("clean", 3, None), ("same", 1, 1), ("same", 2, 2), ("same", 3, 3),
        ("one-to-many", 5, 1),
    }  # fmt: skip
    assert {(r["attack"], r["epsilon"]) for r in rows if r.get("variant") != "clean"} == {
        (a, e) for a in oblivious.ATTACKS for e in PART.epsilons
    }


@pytest.mark.parametrize(("variant", "places"), [("same", slice(0, 3)), ("fresh", slice(3, 6))])
def test_metrics_of_fgsm_by_hand(found, drawn, variant, places):
    test = stripes_mislabelled().test.first(8)
    images = oblivious.fgsm(drawn[:3], test.images, test.labels, 0.3)
    labels = test.labels
    before, after, crafted = drawn[places](test.images), drawn[places](images), drawn[:3](images)
    right = before.mean(0).argmax(-1) == labels
    wrong = {
        "fused": after.mean(0).argmax(-1) != labels,
        "mixture": after.softmax(-1).mean(0).argmax(-1) != labels,
        "every": (after.argmax(-1) != labels).all(0),
    }
    where = {"variant": variant, "members": 3, "crafted_members": 3, "attack": "fgsm", "epsilon": 0.3}
    for sense, count in wrong.items():
        (line,) = pick(found, "success_rate", success=sense, **where)
        assert line["value"] == pytest.approx(float(count[right].double().mean()))
        assert line["examples"] == int(right.sum())
    fools = (drawn[:3](test.images).mean(0).argmax(-1) == labels) & (crafted.mean(0).argmax(-1) != labels)
    assert 0 < fools.sum() < 7 and right.sum() == 7

    def entropy(logits):
        p = logits.double().softmax(-1).mean(0)
        return -(p * p.log()).sum(-1)

    for success, chosen in (("all", torch.ones(8, dtype=torch.bool)), ("fused", fools)):
        (line,) = pick(found, "entropy_nats", success=success, **where)
        assert line["value"] == pytest.approx(float(entropy(after)[chosen].mean()), rel=1e-5)
        assert line["examples"] == int(chosen.sum())
        (line,) = pick(found, "auroc", success=success, **where)
        pairs = entropy(after)[chosen][:, None] - entropy(before)[None]
        assert line["value"] == pytest.approx(float(((pairs > 0) + 0.5 * (pairs == 0)).double().mean()))


@pytest.mark.parametrize("size", [1, 3])
def test_pgd_and_pgd_that_stops_come_from_one_ascent(monkeypatch, found, drawn, size):
    test, rng = stripes_mislabelled().test.first(8), Streams(0, "attack")
    asked, ascents = drawn[:size], []

    def counted(ensemble, *args):
        ascents.append(len(ensemble))
        return own(ensemble, *args)

    own = oblivious.pgd_stop
    start = rng("pgd", size, repr(0.3))
    images = own(asked, test.images, test.labels, 0.3, PART.steps, start)
    where = {"epsilon": 0.3, "variant": "fresh", "members": 3, "crafted_members": size, "success": "all"}
    for attack, attacked in zip(("pgd", "pgd-stop"), images, strict=True):
        p = drawn[size : size + 3](attacked).double().softmax(-1).mean(0)
        (line,) = pick(found, "entropy_nats", attack=attack, **where)
        assert line["value"] == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-5)
    monkeypatch.setattr(oblivious, "pgd_stop", counted)
    attacks.evaluate(subject(drawn)[0], rng)
    assert ascents.count(size) == len(PART.epsilons)


def test_attacks_on_one_network_are_tested_on_single_others(found, drawn):
    test = stripes_mislabelled().test.first(8)
    images = oblivious.fgsm(drawn[:1], test.images, test.labels, 0.3)
    wrong = drawn[1:6](images).argmax(-1) != test.labels
    (line,) = pick(found, "fooled_share", success="all", attack="fgsm", epsilon=0.3)
    assert (line["members"], line["crafted_members"], line["variant"]) == (5, 1, "one-to-many")
    assert line["value"] == pytest.approx(float(wrong.double().mean()))
    own = (drawn[:1](images)[0].argmax(-1) != test.labels) & (
        drawn[:1](test.images)[0].argmax(-1) == test.labels
    )
    (line,) = pick(found, "fooled_share", success="fused", attack="fgsm", epsilon=0.3)
    assert line["value"] == pytest.approx(float(wrong.double().mean(0)[own].mean()))
    assert line["examples"] == int(own.sum())


def test_metrics_of_single_fresh_networks_and_other_sizes_by_hand(found, drawn):
    # The resampling matrix: crafted against two networks, tested on one, two and three others.
    test = stripes_mislabelled().test.first(8)
    images = oblivious.fgsm(drawn[:2], test.images, test.labels, 0.3)
    before, after = (drawn(x) for x in (test.images, images))
    had = before.argmax(-1) == test.labels
    wrong = after.argmax(-1) != test.labels
    single = [(wrong[m] & had[m]).sum().item() / had[m].sum().item() for m in range(2, 6)]
    where = {"attack": "fgsm", "epsilon": 0.3, "crafted_members": 2, "variant": "fresh"}
    (line,) = pick(found, "success_rate", members=1, **where)
    assert line["value"] == pytest.approx(np.mean(single))
    (line,) = pick(found, "success_rate", members=3, **where)
    right = before[2:5].mean(0).argmax(-1) == test.labels
    fooled = after[2:5].mean(0).argmax(-1) != test.labels
    assert line["value"] == pytest.approx((fooled & right).sum().item() / right.sum().item())


def test_the_detection_threshold_comes_from_clean_validation_images(found, drawn):
    data = stripes_mislabelled()
    val = drawn[:3](data.val.images).double().softmax(-1).mean(0)
    threshold = float(np.quantile(-(val * val.log()).sum(-1).numpy(), 0.95))
    (line,) = pick(found, "detection_threshold_nats", members=3)
    assert line["value"] == pytest.approx(threshold, rel=1e-4) and line["dataset"] == data.val.name
    test = data.test.first(8)
    images = oblivious.fgsm(drawn[:3], test.images, test.labels, 0.3)
    p = drawn[3:6](images).double().softmax(-1).mean(0)
    rejected = -(p * p.log()).sum(-1) > threshold
    where = {"attack": "fgsm", "epsilon": 0.3, "crafted_members": 3, "variant": "fresh", "members": 3}
    (line,) = pick(found, "detected_share", success="all", **where)
    assert line["value"] == pytest.approx(float(rejected.double().mean()))
    right = drawn[3:6](test.images).mean(0).argmax(-1) == test.labels
    fooled = drawn[3:6](images).mean(0).argmax(-1) != test.labels
    (line,) = pick(found, "evasion_rate", **where)
    assert line["value"] == pytest.approx(float((fooled & ~rejected)[right].double().mean()))


def test_more_than_a_hundred_others_are_tested_singly(monkeypatch, drawn):
    monkeypatch.setattr(attacks, "ONE_TO_MANY", 2)
    rows = attacks.evaluate(subject(drawn)[0], Streams(0, "attack")).rows
    sizes = {(r["metric"], r["members"]) for r in rows if r.get("variant") == "one-to-many"}
    assert {n for m, n in sizes if m == "fooled_share"} == {5}
    assert {n for m, n in sizes if m != "fooled_share"} == {2}


def test_a_seed_repeats_bit_for_bit_and_the_global_generator_is_not_changed(found, drawn):
    state = torch.get_rng_state()
    again = attacks.evaluate(subject(drawn)[0], Streams(0, "attack"))
    assert torch.equal(torch.get_rng_state(), state)
    assert store.to_csv(again.rows) == store.to_csv(found.rows)
    other = attacks.evaluate(subject(drawn)[0], Streams(1, "attack"))
    fgsm = [[r for r in x.rows if r.get("attack") == "fgsm"] for x in (found, other)]
    assert fgsm[0] == fgsm[1] and other.rows != found.rows


def test_sizes_without_fresh_networks_are_skipped_with_a_message(drawn):
    asked, said = subject(drawn[:5])
    rows = attacks.evaluate(asked, Streams(0, "attack")).rows
    assert {r.get("crafted_members") for r in rows} == {None, 1, 2}
    assert {r["members"] for r in rows if r.get("crafted_members") == 2} == {1, 2, 3}
    assert said == ["  skipped: attacks on 3 networks (need 6, half of them fresh; the method holds 5)"]


def test_a_network_drawn_twice_is_not_fresh(drawn):
    weights = {n: torch.cat([w[:3], w[1:4]]) for n, w in drawn.weights.items()}
    twice = Ensemble(small_network(), weights)
    with pytest.raises(ValueError, match="an attacked network again at index 3 of the sample"):
        attacks.evaluate(subject(twice)[0], Streams(0, "attack"))


def test_arrays_are_stored_for_the_first_network_and_the_largest_ensemble(found, drawn):
    second = AttackScale(4, (1000,), (0.2,), steps=2)
    again = attacks.evaluate(subject(drawn, PART, second)[0], Streams(0, "attack"))
    assert again.arrays.keys() == found.arrays.keys()
    quantities = {
        "entropy_nats", "expected_entropy_nats", "prediction", "confidence", "label_probability", "brier",
    }  # fmt: skip
    expected = {
        f"stripes/{a}/{e}/{kind}/{q}"
        for a in oblivious.ATTACKS
        for e in PART.epsilons
        for kind in ("same/1", "same/3", "fresh/3")
        for q in quantities
    }
    assert found.arrays.keys() == expected | {"stripes/attacked/label"}
    assert {len(a) for a in found.arrays.values()} == {8}
    assert all(a.dtype in ("f4", "i2", "u1") for a in found.arrays.values())
    (line,) = pick(
        found, "entropy_nats", variant="fresh", members=3, crafted_members=3, attack="pgd", epsilon=0.3,
        success="all",
    )  # fmt: skip
    mean = found.arrays["stripes/pgd/0.3/fresh/3/entropy_nats"].mean()
    assert line["value"] == pytest.approx(float(mean), rel=1e-5)


def test_results_do_not_depend_on_the_batch_size(monkeypatch, drawn):
    data = load_stripes(None).test
    places = range(len(drawn))

    def look():
        seen, alone = views.views_of(drawn, [places], data.images, data.labels, [places])
        return seen[places], alone[places]

    whole, singles = look()
    monkeypatch.setattr(views, "BATCH", 7)
    parts, in_parts = look()
    assert (singles.wrong == in_parts.wrong).all()
    np.testing.assert_allclose(singles.entropy, in_parts.entropy, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.log_p, whole.log_p, rtol=1e-5, atol=1e-6)
    assert (parts.share == whole.share).all()
    assert predictions.entropy(parts.log_p) == pytest.approx(whole.entropy, rel=1e-5)


def test_quantiles_of_the_smallest_epsilon_are_omitted_if_infinite(drawn):
    result = fooling_epsilon.evaluate(subject(drawn)[0], Streams(0, "fooling-epsilon"))
    assert {(r["members"], r["success"]) for r in result.rows} == {(1, "fused"), (2, "fused"), (2, "every")}
    for attacked in search.ATTACKS:
        values = result.arrays[f"stripes/{attacked}/smallest-fused/2/epsilon"]
        rows = pick(result, "fooling_epsilon", attack=attacked, members=2, success="fused")
        finite = {
            q: np.sort(values)[math.ceil(q * 8) - 1] for q in fooling_epsilon.QUANTILES
        }  # the smallest value that a share of at least q does not exceed
        finite = {q: v for q, v in finite.items() if np.isfinite(v)}
        assert {r["quantile"]: r["value"] for r in rows} == pytest.approx(finite)
        (rate,) = pick(result, "success_rate", attack=attacked, members=2, success="fused")
        assert rate["value"] == np.isfinite(values).mean() and rate["epsilon"] == 1.0
        every = result.arrays[f"stripes/{attacked}/smallest-every/2/epsilon"]
        assert every.shape == (8,)


def test_the_scale_determines_the_number_of_networks_to_draw():
    large = AttackScale(4, (1000,), (0.1,), steps=2)
    assert DRAWS["attack"](Scale()) == 0
    assert attacks.draws(Scale(attacks=(PART,))) == 6
    assert attacks.draws(Scale(attacks=(dataclasses.replace(PART, others=500),))) == 501
    assert attacks.draws(Scale(attacks=(PART, large))) == 2000


def test_other_sizes_requested_by_a_command_are_attacked_too():
    large = AttackScale(4, (1000,), (0.1,), steps=2)
    scale = Scale((1, 5), attacks=(PART, large))
    assert scale.asked((1, 5)) is scale
    asked = scale.asked((1, 4))
    assert asked.sizes == (1, 4) and [a.sizes for a in asked.attacks] == [(4,)]


class Holding(Method):
    """A method that holds a given number of networks."""

    def start(self, train, val, *, loss, rng): ...
    def rounds(self):
        return 1

    def round(self, i):
        return {}

    def draw(self, rngs):
        return random_ensemble(len(rngs)).weights


@pytest.mark.parametrize(("limit", "drawn"), [(None, 6), (10, 6), (5, 5)])
def test_no_more_networks_are_drawn_than_a_finite_method_holds(limit, drawn):
    method = Holding(small_network(), None)
    method.max_members = limit
    assert run._draws(method, (1, 3), ("accuracy", "attack"), Scale(attacks=(PART,))) == drawn
    assert run._draws(method, (1, 3), ("accuracy",), Scale(attacks=(PART,))) == 3


@pytest.mark.parametrize("task", ["digits", "mnist-attack"])
@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_each_preset_attacks_the_specified_sizes(task, preset):
    from bench import registry

    parts = registry.task(task).scale(preset).attacks
    first = parts[0]
    grid = (0.01, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)
    expected = {
        ("digits", "quick"): (32, (5, 10, 100), (0.1,), 10),
        ("mnist-attack", "quick"): (100, (5, 10, 100), (0.01, 0.1, 0.3), 10),
    }.get((task, preset), (None, (5, 10, 100, 1000), grid, 10))
    if preset == "smoke":
        assert (first.images, first.sizes, first.steps) == (16, (5,), 3)
    else:
        assert (first.images, first.sizes, first.epsilons, first.steps) == expected
    if (task, preset) == ("mnist-attack", "quick"):
        assert [(p.images, p.sizes, p.epsilons) for p in parts[1:]] == [(16, (1000,), (0.1,))]
    assert first.adaptive is not None and 2 * first.adaptive.members <= 10  # standard ensembles hold 10
    assert (
        {"attack", "adaptive", "fooling-epsilon"} <= set(registry.task(task).evaluations) <= set(EVALUATIONS)
    )


def test_a_method_with_ten_networks_attacks_five(train, val):
    from bench.training import FitSettings

    method = small_method("standard_ensemble", networks=10, epochs=1)
    training.fit(method, train, val, FitSettings(seed=0))
    part = dataclasses.replace(PART, sizes=(5, 10), others=100)
    networks = method.sample(run._draws(method, (1, 5, 10), ("attack",), Scale(attacks=(part,))), 0)
    asked, said = subject(networks, part, sizes=(1, 5, 10))
    rows = attacks.evaluate(asked, Streams(0, "attack")).rows
    assert len(networks) == 10 and len(said) == 1 and "attacks on 10 networks" in said[0]
    assert {r["members"] for r in rows if r.get("variant") == "one-to-many"} == {9}
    assert {(r["members"], r["crafted_members"]) for r in rows if r.get("variant") == "fresh"} == {
        (5, 5), (1, 5), (5, 1), (1, 1)
    }  # fmt: skip
