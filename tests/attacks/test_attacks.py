"""Attacks: linear models in closed form, bounds, random streams, and senses of success."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattacks
from ensembles import linear, pixels, random_ensemble, zeros
from small import stripes
from torch.nn.functional import cross_entropy

from bench.attacks import oblivious, search, success
from bench.engine import Engine
from bench.ensemble import Ensemble, MeanLogits
from bench.rng import stream


def test_fgsm_on_a_linear_model_is_one_step_against_each_weight():
    ensemble, images = linear((1.0, -2.0)), pixels((0.6, 0.2), (0.05, 0.95))
    moved = oblivious.fgsm(ensemble, images, zeros(images), 0.1)
    torch.testing.assert_close(moved, pixels((0.5, 0.3), (0.0, 1.0)))
    each = oblivious.fgsm(ensemble, images, zeros(images), torch.tensor([0.2, 0.01]))
    torch.testing.assert_close(each, pixels((0.4, 0.4), (0.04, 0.96)))


def test_pgd_without_a_random_start_is_fgsm_on_a_linear_model_at_any_number_of_steps():
    # The gradient's sign is constant: all steps go in one direction, to the boundary of the ball.
    ensemble, images = linear((1.0, -2.0), (2.0, 1.0)), pixels((0.6, 0.2), (0.3, 0.7))
    expected = oblivious.fgsm(ensemble, images, zeros(images), 0.15)
    for steps in (1, 3, 10):
        torch.testing.assert_close(oblivious.pgd(ensemble, images, zeros(images), 0.15, steps), expected)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5])
def test_attacked_images_stay_in_the_ball_and_among_images_and_raise_the_loss(epsilon):
    ensemble, data = random_ensemble(), stripes(12)
    model = MeanLogits(ensemble)
    before = cross_entropy(model(data.images), data.labels)
    found = {
        "fgsm": oblivious.fgsm(ensemble, data.images, data.labels, epsilon),
        "pgd": oblivious.pgd(ensemble, data.images, data.labels, epsilon, 10, stream(1)),
    }
    for images in found.values():
        assert (images - data.images).abs().max() <= epsilon + 1e-6
        assert images.min() >= 0 and images.max() <= 1
        assert cross_entropy(model(images), data.labels) > before
    assert cross_entropy(model(found["pgd"]), data.labels) > cross_entropy(model(found["fgsm"]), data.labels)


def test_a_step_of_pgd_is_two_and_a_half_epsilon_over_the_number_of_steps(monkeypatch):
    seen = []

    class Recorded(torchattacks.PGD):
        def __init__(self, model, **settings):
            seen.append(settings)
            super().__init__(model, **settings)

    monkeypatch.setattr(torchattacks, "PGD", Recorded)
    ensemble, images = linear((1.0, 0.0)), pixels((0.5, 0.5))
    (moved,) = oblivious.pgd(ensemble, images, zeros(images), 0.1, 10, stream(0)).flatten(1)
    assert seen == [{"eps": 0.1, "alpha": pytest.approx(0.025), "steps": 10, "random_start": True}]
    # The second pixel has no gradient and keeps its random start.
    assert moved[0] == pytest.approx(0.4) and 0 < abs(moved[1] - 0.5) <= 0.1


def test_results_depend_on_the_seed_and_the_global_generator_is_not_changed():
    ensemble, data = random_ensemble(), stripes(6)
    state = torch.get_rng_state()
    first, again, other = (
        oblivious.pgd(ensemble, data.images, data.labels, 0.1, 2, stream(seed)) for seed in (0, 0, 1)
    )
    torch.manual_seed(5)
    third = oblivious.pgd(ensemble, data.images, data.labels, 0.1, 2, stream(0))
    torch.set_rng_state(state)
    oblivious.fgsm(ensemble, data.images, data.labels, 0.1)
    oblivious.pgd(ensemble, data.images, data.labels, 0.1, 2, stream(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and torch.equal(first, third)
    assert not torch.equal(first, other)


def attacked_twice(attack, rng):
    """Images that the attack finds with one generator, twice in a row."""
    ensemble, data = random_ensemble(), stripes(6)
    how = {
        "pgd": lambda: oblivious.pgd(ensemble, data.images, data.labels, 0.1, 2, rng),
        "square": lambda: oblivious.square(ensemble, data.images, data.labels, 0.01, 5, rng),
        "noise": lambda: oblivious.noise(data.images, 0.1, rng),
    }
    return how[attack](), how[attack]()


@pytest.mark.parametrize("attack", ["pgd", "noise"])
def test_two_starts_from_one_generator_differ(attack):
    first, second = attacked_twice(attack, stream(5))
    assert not torch.equal(first, second)
    again, further = attacked_twice(attack, stream(5))
    assert torch.equal(first, again) and torch.equal(second, further)


def test_a_random_start_goes_on_where_the_generator_stands():
    ensemble, images = linear((1.0, 0.0)), pixels((0.5, 0.5))
    rng, same = stream(3), stream(3)
    for _ in range(2):
        start = torch.empty_like(images).uniform_(-0.1, 0.1, generator=same)
        (moved,) = oblivious.pgd(ensemble, images, zeros(images), 0.1, 1, rng).flatten(1)
        # The second pixel has no gradient and keeps its random start.
        assert moved[1] == (images + start).flatten(1)[0, 1]
    assert torch.equal(rng.get_state(), same.get_state())


def test_square_is_seeded_by_a_new_generator_and_by_a_draw_from_a_used_one(monkeypatch):
    seeds = []

    class Recorded(torchattacks.Square):
        def __init__(self, model, **settings):
            seeds.append(settings["seed"])
            super().__init__(model, **settings)

    monkeypatch.setattr(torchattacks, "Square", Recorded)
    attacked_twice("square", stream(5))
    attacked_twice("square", stream(5))
    assert seeds[0] == stream(5).initial_seed() and seeds[0] != seeds[1] and seeds[:2] == seeds[2:]


BROKEN = torch.nan  # what a fit that has diverged leaves


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "pgd_stop", "square"])
def test_what_no_attack_can_answer_is_refused(attack):
    ensemble, data = random_ensemble(), stripes(6)
    more = {"fgsm": (), "pgd": (2,), "pgd_stop": (2,), "square": (5, stream(0))}[attack]

    def ask(ensemble=ensemble, images=data.images, labels=data.labels):
        return getattr(oblivious, attack)(ensemble, images, labels, 0.1, *more)

    with pytest.raises(ValueError, match="expected pixels in"):
        ask(images=data.images * BROKEN)
    with pytest.raises(ValueError, match="at least one image"):
        ask(images=data.images[:0], labels=data.labels[:0])
    for wrong in (-100, -1, 3):
        with pytest.raises(ValueError, match="expected labels from 0 to 2"):
            ask(labels=torch.full_like(data.labels, wrong))
    with pytest.raises(ValueError, match="a label for each"):
        ask(labels=data.labels[:2])
    nan = Ensemble(ensemble.engine.network, {n: w * BROKEN for n, w in ensemble.weights.items()})
    with pytest.raises(ValueError, match="found NaN or infinity; has the fit diverged"):
        ask(ensemble=nan)


def test_networks_that_are_nan_never_look_robust():
    images = pixels((0.6, 0.2))
    labels = zeros(images)
    broken = linear((BROKEN, 1.0))
    for attack in search.ATTACKS:
        with pytest.raises(ValueError, match="NaN"):
            search.smallest_epsilon(broken, images, labels, attack, (0.1,))
    logits = np.zeros((2, 4, 3))
    for wrong in (logits * BROKEN, logits[:0], logits[:, :0], logits[0]):
        with pytest.raises(ValueError):
            success.fooled(wrong, np.zeros(4, int))
    for labels in (np.full(4, -1), np.full(4, 3), np.zeros(3, int), np.zeros(4)):
        with pytest.raises(ValueError, match="label"):
            success.fooled(logits, labels)
    with pytest.raises(ValueError, match="NaN"):
        success.unmoved(images, images * BROKEN)


def test_an_attack_changes_neither_images_nor_weights_nor_mode():
    ensemble, data = random_ensemble(), stripes(6)
    images, vectors = data.images.clone(), ensemble.vectors().clone()
    ensemble.train()
    oblivious.pgd(ensemble, data.images, data.labels, 0.3, 2, stream(0))
    assert torch.equal(images, data.images) and torch.equal(vectors, ensemble.vectors())
    assert not data.images.requires_grad and all(p.grad is None for p in ensemble.parameters())


@pytest.mark.parametrize("graph_bytes", [0, 2**30])
def test_the_gradient_in_bounded_memory_equals_that_of_one_graph(graph_bytes):
    ensemble, data = random_ensemble(), stripes(7)
    x = data.images.clone().requires_grad_()
    loss = cross_entropy(MeanLogits(ensemble)(x), data.labels)
    (whole,) = torch.autograd.grad(loss, x)
    streamed = Ensemble(
        ensemble.engine.network, ensemble.weights, Engine(ensemble.engine.network, graph_bytes=graph_bytes)
    )
    # By hand, one network after the other: dL/dx = sum_m (dL/d mean) (d mean / d l_m) (d l_m / dx).
    mean = MeanLogits(ensemble)(data.images).requires_grad_()
    (upstream,) = torch.autograd.grad(cross_entropy(mean, data.labels), mean)
    total = torch.zeros_like(x)
    for m in range(len(ensemble)):
        part = {n: w[m] for n, w in ensemble.weights.items()}
        y = data.images.clone().requires_grad_()
        logits = torch.func.functional_call(ensemble.engine.network, part, (y,))
        total += torch.autograd.grad(logits, y, upstream / len(ensemble))[0]
    z = data.images.clone().requires_grad_()
    (parts,) = torch.autograd.grad(cross_entropy(MeanLogits(streamed)(z), data.labels), z)
    torch.testing.assert_close(whole, total, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(parts, total, rtol=1e-4, atol=1e-7)


def test_senses_of_success_by_hand():
    # Two classes, label 0, margins of three networks as (margin, 0).
    def ask(*logits, label=0):
        found = success.fooled(np.array(logits, dtype=np.float32)[:, None], np.array([label]))
        return [bool(found[sense][0]) for sense in success.SENSES]

    assert ask((8, 0), (1, 0), (-3, 0)) == [False, False, False]  # one member is wrong
    assert ask((8, 0), (-1, 0), (-3, 0)) == [False, True, False]  # probabilities 1.00, 0.27, 0.05: 0.44
    # Mean logits (3, 4/3, 0) say 0; mean probabilities, and two of three networks, say 1.
    assert ask((9, 0, 0), (0, 2, 0), (0, 2, 0)) == [False, True, False]
    assert ask((9, 0, 0), (0, 2, 0), (0, 2, 0), label=1) == [True, False, False]
    assert ask((-1, 0), (-2, 0)) == [True, True, True]
    assert ask((-1, 0), (-2, 0), label=1) == [False, False, False]


@pytest.mark.parametrize("attack", search.ATTACKS)
def test_the_smallest_epsilon_of_a_linear_model_is_its_margin_over_the_weight_norm(attack):
    ensemble = linear((1.0, -2.0))
    images = pixels((0.6, 0.2), (0.9, 0.0), (0.2, 0.6))
    grid = (0.05, 0.1, 0.3, 0.5, 1.0)
    found = search.smallest_epsilon(ensemble, images, zeros(images), attack, grid, halvings=10)
    # Margins 0.2 over 3 and 0.9 over 3; the third image is misclassified.
    exact = np.array([0.2 / 3, 0.3])
    assert (found[:2] >= exact).all() and found[:2] == pytest.approx(exact, abs=0.2 / 2**10)
    assert found[2] == 0


@pytest.mark.parametrize("attack", search.ATTACKS)
def test_the_ensemble_is_fooled_at_two_fifths_and_its_second_network_never(attack):
    ensemble, images = linear((1.0, -2.0), (2.0, 1.0)), pixels((0.6, 0.2))
    grid = (0.1, 0.3, 0.39, 0.41, 0.5, 1.0)

    def ask(sense, members=2):
        (epsilon,) = search.smallest_epsilon(
            ensemble[:members], images, zeros(images), attack, grid, sense=sense, halvings=0
        )
        return epsilon

    assert ask("fused") == 0.41  # mean margin (w1 + w2) x / 2 = (3 x1 - x2) / 2
    assert ask("every") == np.inf
    assert ask("fused", members=1) == 0.1


def test_a_finer_grid_finds_no_larger_epsilon_and_the_result_fools():
    ensemble, data = random_ensemble(), stripes(12)
    labels = ensemble(data.images).mean(0).argmax(-1)  # right by construction
    few = search.smallest_epsilon(ensemble, data.images, labels, "fgsm", (0.1, 1.0))
    for i, epsilon in enumerate(few):
        if 0 < epsilon < np.inf:
            x = oblivious.fgsm(ensemble, data.images[i : i + 1], labels[i : i + 1], float(epsilon))
            assert MeanLogits(ensemble)(x).argmax(-1) != labels[i]
    assert (few > 0).all() and np.isfinite(few).any()


def test_an_image_without_a_gradient_is_reported_and_not_called_robust():
    # A margin of 250 nats: every probability of another class is 0 in float32.
    ensemble, images = linear((500.0, 0.0)), pixels((0.5, 0.5), (0.0, 0.5))
    moved = oblivious.fgsm(ensemble, images, zeros(images), 0.1)
    with pytest.warns(UserWarning, match="1 of 2 images have no gradient"):
        still = success.unmoved(images[:2], torch.stack([moved[0], images[1] + 0.1]))
    assert still.tolist() == [True, False]


def test_pixels_beyond_the_range_and_unknown_names_are_refused():
    ensemble, images = linear((1.0, -2.0)), pixels((0.6, 1.2))
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\], found 0.6 to 1.2"):
        oblivious.fgsm(ensemble, images, zeros(images), 0.1)
    with pytest.raises(ValueError, match="expected one of"):
        search.smallest_epsilon(ensemble, pixels((0.6, 0.2)), torch.zeros(1).long(), "cw", (0.1,))
