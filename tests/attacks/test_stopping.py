"""PGD that stops at the first iterate which fools every network: laws, and a loop by hand."""

from __future__ import annotations

import pytest
import torch
from attacked import trained
from ensembles import linear, pixels, zeros
from small import stripes
from torch.nn.functional import cross_entropy
from torchattacks import PGD

from bench.attacks import inputs, oblivious
from bench.engine import Engine
from bench.ensemble import Ensemble, MeanLogits
from bench.rng import stream

EPSILON, STEPS = 0.3, 8  # half of the images below come to fool all five networks, on the way or at the end


@pytest.fixture(scope="module")
def ensemble():
    return trained(5)


@pytest.fixture(scope="module")
def data():
    return stripes(40, 2)


def ask(ensemble, data, steps=STEPS, epsilon=EPSILON):
    return oblivious.pgd_stop(ensemble, data.images, data.labels, epsilon, steps, stream(0))


def path(ensemble, data, steps=STEPS):
    """Start and iterates [steps + 1, B, ...] of PGD by hand."""
    generator = torch.Generator().manual_seed(stream(0).initial_seed())
    x = data.images
    places = [(x + torch.empty_like(x).uniform_(-EPSILON, EPSILON, generator=generator)).clamp(0, 1)]
    for _ in range(steps):
        leaf = places[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(ensemble(leaf).mean(0), data.labels), leaf)
        moved = places[-1] + 2.5 * EPSILON / steps * gradient.sign()
        places.append((x + (moved - x).clamp(-EPSILON, EPSILON)).clamp(0, 1))
    return torch.stack(places)


def all_wrong(ensemble, images, labels):
    with torch.no_grad():
        return (ensemble(images).argmax(-1) != labels).all(0)


def first_by_hand(ensemble, data, places):
    """The number of each image's first fooling iterate, 0 where there is none."""
    found = torch.zeros(len(data.labels), dtype=torch.long)
    for i in range(len(data.labels)):
        one = slice(i, i + 1)
        for step in range(1, len(places)):
            if all_wrong(ensemble, places[step][one], data.labels[one]):
                found[i] = step
                break
    return found


def test_it_stops_where_a_loop_by_hand_finds_the_first_iterate_that_fools_all(ensemble, data):
    places = path(ensemble, data)
    first = first_by_hand(ensemble, data, places)
    # Images that never fool, that fool on the way, and at the last step alone.
    assert {0, STEPS} < set(first.tolist())
    expected = torch.stack([places[step or STEPS][i] for i, step in enumerate(first.tolist())])
    found = ask(ensemble, data)
    assert torch.equal(found.stopped, expected) and torch.equal(found.last, places[-1])
    fools, never = first > 0, first == 0
    assert all_wrong(ensemble, found.stopped, data.labels).tolist() == fools.tolist()
    assert torch.equal(found.stopped[never], found.last[never])
    # Some fool on the way and no more at the end: what PGD to the end does not count.
    assert (all_wrong(ensemble, found.last, data.labels) < fools).any()


def test_images_of_pgd_are_those_of_torchattacks_bit_for_bit(ensemble, data):
    found = ask(ensemble, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(0).initial_seed())
        attack = PGD(MeanLogits(ensemble), eps=EPSILON, alpha=2.5 * EPSILON / STEPS, steps=STEPS)
        assert torch.equal(found.last, attack(data.images, data.labels))
    alone = oblivious.pgd(ensemble, data.images, data.labels, EPSILON, STEPS, stream(0))
    assert torch.equal(found.last, alone)


def test_one_step_has_one_iterate(ensemble, data):
    found = ask(ensemble, data, steps=1)
    assert torch.equal(found.stopped, found.last)


def test_the_start_does_not_count_and_an_image_misclassified_stops_after_one_step():
    # Both images are of class 1 for either network: wrong from the start.
    ensemble, images = linear((-1.0, -2.0), (-2.0, -1.0)), pixels((0.6, 0.2), (0.3, 0.7))
    found = oblivious.pgd_stop(ensemble, images, zeros(images), 0.1, 5)
    torch.testing.assert_close(found.stopped, images + 0.05)
    torch.testing.assert_close(found.last, images + 0.1)


def test_one_network_that_is_right_goes_on_to_the_end():
    # The second network (w = (2, 1)) says 0 for every image, the first is wrong after one step.
    ensemble, images = linear((1.0, -2.0), (2.0, 1.0)), pixels((0.6, 0.28))
    found = oblivious.pgd_stop(ensemble, images, zeros(images), 0.2, 10)
    assert torch.equal(found.stopped, found.last)
    alone = oblivious.pgd_stop(ensemble[:1], images, zeros(images), 0.2, 10)
    torch.testing.assert_close(alone.stopped, images + torch.tensor([-0.05, 0.05]))


def test_parts_of_the_images_and_parts_of_the_graph_stop_at_the_same_iterates(monkeypatch, ensemble, data):
    whole = ask(ensemble, data)
    network = ensemble.engine.network
    streamed = Ensemble(network, ensemble.weights, Engine(network, graph_bytes=0))
    assert torch.equal(ask(streamed, data).stopped, whole.stopped)
    # Without a random start, which is drawn batch by batch.
    images, labels = data.images, data.labels
    still = oblivious.pgd_stop(ensemble, images, labels, EPSILON, STEPS)
    monkeypatch.setattr(inputs, "BATCH", 7)
    parts = oblivious.pgd_stop(ensemble, images, labels, torch.full((40,), EPSILON), STEPS)
    assert torch.equal(parts.stopped, still.stopped) and torch.equal(parts.last, still.last)


def test_it_stops_alike_on_any_number_of_threads(ensemble, data):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(ask(ensemble, data))
    torch.set_num_threads(before)
    assert all(
        torch.equal(one, other) for result in found[1:] for one, other in zip(found[0], result, strict=True)
    )
