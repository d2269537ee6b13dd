"""Adaptive attacks: objectives against hand-worked values, closed forms and torchattacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attacked import PART, pick, subject, trained
from ensembles import linear, pixels, random_ensemble, zeros
from small import stripes

from bench.attacks import adaptive, oblivious
from bench.evaluations import DRAWS, worst_case
from bench.evaluations import adaptive_attacks as evaluation
from bench.metrics import predictions
from bench.records import schema, store
from bench.rng import Streams, stream
from bench.task import AdaptiveScale, AttackScale, Scale

TRIES = AdaptiveScale(2, 6, steps=3, restarts=2, draws=2, queries=5)
SCALED = AttackScale(8, (2, 3), (0.05, 0.3), steps=2, adaptive=TRIES)


@pytest.fixture(scope="module")
def drawn():
    return trained(10)


@pytest.fixture(scope="module")
def found(drawn):
    return evaluation.evaluate(subject(drawn, SCALED)[0], Streams(0, "adaptive"))


def attacked(name, ensemble, images, labels, epsilon, **changes):
    how = {"steps": 10, "restarts": 1, "draws": 2, "rng": Streams(0)} | changes
    return adaptive.attack(name, ensemble, ensemble, images, labels, epsilon, **how)


def test_ascent_on_the_cross_entropy_of_the_mean_logits_is_pgd_bit_for_bit():
    ensemble, data = random_ensemble(), stripes(7)
    objective = adaptive.cross_entropy(ensemble, data.labels)
    found = adaptive.ascend(objective, data.images, 0.1, 4, data.images)
    assert torch.equal(found.images, oblivious.pgd(ensemble, data.images, data.labels, 0.1, 4))


@pytest.mark.parametrize("name", adaptive.GRADIENT)
def test_images_stay_in_the_ball_and_the_objective_increases(name):
    ensemble, data = random_ensemble(), stripes(9)
    found = attacked(name, ensemble, data.images, data.labels, 0.1)
    assert (found.images - data.images).abs().max() <= 0.1 + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1
    start = attacked(name, ensemble, data.images, data.labels, 1e-6)
    assert found.score.mean() > start.score.mean()
    assert not torch.equal(found.earlier, found.images)


@pytest.mark.parametrize("name", adaptive.GRADIENT)
def test_more_restarts_are_never_worse_for_any_image(name):
    ensemble, data = random_ensemble(), stripes(9)
    one, three = (attacked(name, ensemble, data.images, data.labels, 0.1, restarts=r) for r in (1, 3))
    assert (three.score >= one.score).all()
    again = attacked(name, ensemble, data.images, data.labels, 0.1, restarts=3)
    assert torch.equal(again.images, three.images)


def test_objectives_by_hand():
    # Two networks, two classes: logits (m, 0) with m = 2 and -1 at x = (1, 0).
    ensemble, x, y = linear((2.0, 0.0), (-1.0, 0.0)), pixels((1.0, 0.0)), torch.tensor([0])
    p = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(1))) / 2
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert adaptive.low_entropy(ensemble, y)(x, 0).item() == pytest.approx(-math.log(p) - entropy, rel=1e-5)
    assert adaptive.targeted(ensemble, x, y)(x, 0).item() == pytest.approx(math.log(1 - p), rel=1e-5)
    # Margins 2 and -1 plus kappa 1: 3 and 0.
    assert adaptive.margin(ensemble, y)(x, 0).item() == pytest.approx(-1.5)
    mean = F.cross_entropy(torch.tensor([[0.5, 0.0]]), y)
    assert adaptive.cross_entropy(ensemble, y)(x, 0).item() == pytest.approx(mean.item(), rel=1e-5)


def test_every_step_of_eot_uses_new_networks():
    pool, data = random_ensemble(6), stripes(5)
    objective = adaptive.expectation(pool, data.labels, 2)
    for step in range(3):
        logits = pool[2 * step : 2 * step + 2](data.images).mean(0)
        expected = F.cross_entropy(logits, data.labels, reduction="none")
        torch.testing.assert_close(objective(data.images, step), expected)
    torch.testing.assert_close(objective(data.images, 3), objective(data.images, 0))
    # A pool that is not a multiple of the draws is used cyclically: networks 4, 0 and 1, 2.
    odd = adaptive.expectation(pool[:5], data.labels, 2)
    logits = torch.cat([pool[4:5](data.images), pool[:1](data.images)]).mean(0)
    torch.testing.assert_close(odd(data.images, 2), F.cross_entropy(logits, data.labels, reduction="none"))


def test_a_margin_beyond_float32_stops_cross_entropy_but_not_the_margin_attack():
    ensemble, x = linear((500.0, 0.0)), pixels((0.5, 0.5))
    still = oblivious.fgsm(ensemble, x, zeros(x), 0.1)
    assert torch.equal(still, x)
    moved = adaptive.ascend(adaptive.margin(ensemble, zeros(x)), x, 0.1, 5, x)
    assert moved.images.flatten()[0] == pytest.approx(0.4)


def test_the_detector_aware_attack_ends_with_lower_entropy(drawn):
    data = stripes(24, 2)
    unaware = oblivious.pgd(drawn, data.images, data.labels, 0.3, 10, stream(0))
    aware = attacked("low-entropy-targeted", drawn, data.images, data.labels, 0.3).images

    def entropy(images):
        ((_, log_p, _),) = predictions.prefixes(drawn(images).numpy(), {len(drawn)})
        return predictions.entropy(log_p).mean()

    assert entropy(aware) < entropy(unaware)


def test_three_quarters_of_the_steps_are_kept():
    ensemble, x = linear((1.0, -2.0)), pixels((0.6, 0.2))
    found = adaptive.ascend(adaptive.cross_entropy(ensemble, zeros(x)), x, 0.8, 10, x)
    # Steps of 0.2 against each weight; seven of ten are taken: 0.6 - 1.4 and 0.2 + 1.4, cut at 0 and 1.
    torch.testing.assert_close(found.earlier, pixels((0.0, 1.0)))
    slow = adaptive.ascend(adaptive.cross_entropy(ensemble, zeros(x)), x, 0.08, 8, x)
    torch.testing.assert_close(slow.earlier, pixels((0.52, 0.28)))  # the border, after four steps of 0.025


def test_the_entropy_term_starts_at_the_given_step():
    ensemble, data = random_ensemble(), stripes(5)
    later = adaptive.low_entropy(ensemble, data.labels, after=3)
    always = adaptive.low_entropy(ensemble, data.labels)
    log_p = torch.log(ensemble(data.images).softmax(-1).mean(0))
    wrong = F.nll_loss(log_p, data.labels, reduction="none")
    torch.testing.assert_close(later(data.images, 2), wrong)
    torch.testing.assert_close(later(data.images, 3), always(data.images, 0))


def test_a_confident_correct_image_becomes_misclassified():
    # p(0) = 0.9975: with the entropy term from the start the image would move away from the boundary.
    ensemble, x = linear((12.0, 0.0)), pixels((0.5, 0.5))
    found = attacked("low-entropy", ensemble, x, zeros(x), 0.9, steps=20)
    assert ensemble(found.images).mean(0).argmax(-1).item() == 0  # 12 x >= 0: the best it can do is x = 0
    assert found.images.flatten()[0] < 0.1
    always = adaptive.ascend(adaptive.low_entropy(ensemble, zeros(x)), x, 0.9, 20, x)
    assert always.images.flatten()[0] > 0.9


def test_square_needs_no_gradient_and_does_not_change_the_global_generator():
    ensemble, data = random_ensemble(), stripes(6)
    state = torch.get_rng_state()
    with torch.inference_mode(False):
        first, again, other = (
            oblivious.square(ensemble, data.images, data.labels, 0.3, 20, stream(seed)) for seed in (0, 0, 1)
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, other)
    moved = (first != data.images).flatten(1).any(1)
    fooled = ensemble(first).mean(0).argmax(-1) != data.labels
    assert (fooled | ~moved).all() and moved.any()  # unsuccessful images are returned unchanged
    assert (first - data.images).abs().max() <= 0.3 + 1e-6


def test_noise_moves_every_pixel_by_epsilon_up_or_down():
    images = torch.full((4, 1, 8, 8), 0.5)
    moved = oblivious.noise(images, 0.1, stream(0))
    torch.testing.assert_close((moved - images).abs(), torch.full_like(images, 0.1))
    assert 0.3 < (moved > images).double().mean() < 0.7
    assert oblivious.noise(images, 1.0, stream(0)).max() == 1


def test_pixels_beyond_the_range_and_unknown_names_are_refused():
    ensemble = linear((1.0, -2.0))
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\]"):
        x = pixels((0.6, 1.2))
        adaptive.ascend(adaptive.margin(ensemble, zeros(x)), x, 0.1, 2, x)
    with pytest.raises(ValueError, match="expected one of eot, low-entropy"):
        attacked("fgsm", ensemble, pixels((0.6, 0.2)), torch.zeros(1).long(), 0.1)


# Evaluation


def test_each_attack_has_rows_on_attacked_and_on_fresh_networks(found):
    store.to_csv(found.rows)  # raises if two rows share a key
    assert {r["metric"] for r in found.rows} <= set(schema.METRICS)
    assert all(-1 <= r["value"] <= 1 for r in pick(found, "late_gain"))
    assert {(r["attack"], r["epsilon"], r["variant"]) for r in found.rows} == {
        (a, e, v)
        for a in (*evaluation.ATTACKS, worst_case.NAME)
        for e in SCALED.epsilons
        for v in ("same", "adaptive")
    }
    assert {(r["members"], r["crafted_members"]) for r in found.rows} == {(2, 2)}
    late = pick(found, "late_gain")
    assert {r["attack"] for r in late} == set(adaptive.GRADIENT) and all(r["examples"] <= 6 for r in late)


def test_metrics_of_noise_by_hand(found, drawn):
    test = subject(drawn, SCALED)[0].data.test.first(6)
    images = oblivious.noise(test.images, 0.3, Streams(0, "adaptive")("noise", repr(0.3)))
    right = drawn[2:4](test.images).mean(0).argmax(-1) == test.labels
    wrong = drawn[2:4](images).mean(0).argmax(-1) != test.labels
    (line,) = pick(found, "success_rate", attack="noise", epsilon=0.3, variant="adaptive", success="fused")
    assert line["value"] == pytest.approx(float(wrong[right].double().mean()))
    assert line["examples"] == int(right.sum())


def test_eot_uses_the_attacked_networks_if_the_method_has_no_others(drawn):
    asked, said = subject(drawn[:4], SCALED)
    rows = evaluation.evaluate(asked, Streams(0, "adaptive")).rows
    assert said == ["  eot draws from the 2 attacked networks: the method holds no others"]
    assert {r["attack"] for r in rows} == {*evaluation.ATTACKS, worst_case.NAME}


def test_too_few_networks_are_skipped_with_a_message(drawn):
    asked, said = subject(drawn[:3], SCALED)
    assert evaluation.evaluate(asked, Streams(0, "adaptive")).rows == []
    assert len(said) == 1 and "adaptive attacks on 2 networks (need 4" in said[0]


def test_a_seed_repeats_bit_for_bit(found, drawn):
    again = evaluation.evaluate(subject(drawn, SCALED)[0], Streams(0, "adaptive"))
    assert store.to_csv(again.rows) == store.to_csv(found.rows)
    assert not np.isnan([r["value"] for r in found.rows]).any()


def test_the_scale_determines_the_number_of_networks_to_draw():
    assert DRAWS["adaptive"](Scale(attacks=(PART,))) == 0
    assert DRAWS["adaptive"](Scale(attacks=(PART, SCALED))) == 10
    asked = Scale((1, 5), attacks=(SCALED,)).asked((1, 4, 9))
    assert asked.attacks[0].adaptive is not None and asked.attacks[0].adaptive.members == 4
    assert Scale((1, 5), attacks=(SCALED,)).asked((1,)).attacks[0].adaptive is None
