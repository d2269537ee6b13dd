"""AutoAttack's parts against exact answers: linear classifiers, and a search over images of two pixels."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
import torchattacks
from attacked import trained
from ensembles import linear, pixels, zeros
from small import stripes
from torch import nn

from bench.attacks import adaptive, autoattack
from bench.ensemble import Ensemble, MeanProbability
from bench.rng import Streams, stream
from bench.task import ADAPTIVE

STRENGTH = autoattack.Strength(steps=20, targets=9, queries=200, draws=1)


def attacked(name, ensemble, images, labels, epsilon, seed=0, **changes):
    strength = STRENGTH._replace(**changes)
    return autoattack.attack(name, ensemble, ensemble, images, labels, epsilon, strength, Streams(seed))


def classifiers(members, classes, size, seed=0):
    """Linear networks of several classes with their images [B, 1, 1, size] and, as labels, the mixture's."""
    rng = stream(seed, "linear")
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(size, classes)))
    weight = 3 * torch.randn(members, classes, size, generator=rng)
    bias = -0.5 * weight.sum(-1)  # the boundaries cross in the middle of the box
    ensemble = Ensemble(network, {"linear.weight": weight, "linear.bias": bias})
    images = torch.rand(60, 1, 1, size, generator=rng)
    return ensemble, images, MeanProbability(ensemble)(images).argmax(-1)


def fooled(ensemble, images, labels):
    return ensemble(images).softmax(-1).mean(0).argmax(-1) != labels


def highest_lead(ensemble, images, labels, epsilon):
    """The largest l_t - l_y that one linear network reaches in the ball and in [0, 1], [B, K]; exact."""
    weight = ensemble.weights["linear.weight"][0]
    x = images.flatten(1)
    toward = weight[None] - weight[labels][:, None]  # [B, K, size]
    up, down = ((x + epsilon).clamp(max=1) - x)[:, None], ((x - epsilon).clamp(min=0) - x)[:, None]
    logits = ensemble(images)[0]
    lead = logits - logits.gather(1, labels[:, None]) + torch.where(toward > 0, up, down).mul(toward).sum(-1)
    return lead.scatter(1, labels[:, None], -torch.inf)


@pytest.mark.parametrize(("name", "steps"), [("apgd-t", 20), ("fab", 30)])
@pytest.mark.parametrize("epsilon", [0.05, 0.15])
def test_every_image_of_a_linear_classifier_that_can_be_fooled_is_fooled_and_no_other(name, steps, epsilon):
    ensemble, images, labels = classifiers(1, 5, 6)
    # FAB overshoots by 5 %: what a ball smaller by a tenth allows, it must find.
    sure, possible = (
        highest_lead(ensemble, images, labels, e).amax(1) > 1e-3 for e in (0.9 * epsilon, epsilon)
    )
    wrong = fooled(ensemble, attacked(name, ensemble, images, labels, epsilon, steps=steps), labels)
    assert not (wrong & ~possible).any()
    assert wrong[sure].all() and 5 < sure.sum() < 55
    if name == "apgd-t":
        assert torch.equal(wrong, possible)


def test_the_cross_entropy_of_two_classes_is_highest_in_the_corner_against_the_weights():
    ensemble, x = linear((1.0, -2.0)), pixels((0.6, 0.2), (0.9, 0.05), (0.98, 0.3))
    # Margins w x = 0.2, 0.8 and 0.38; epsilon 0.06 takes at most 0.18.
    found = attacked("apgd-ce", ensemble, x, zeros(x), 0.06)
    torch.testing.assert_close(found, pixels((0.54, 0.26), (0.84, 0.11), (0.92, 0.36)))


def test_fab_moves_hardly_further_than_the_boundary():
    # The nearest image of the other class is at w x / |w|_1 = 0.2 / 3 in the maximum norm.
    ensemble, x = linear((1.0, -2.0)), pixels((0.6, 0.2))
    found = attacked("fab", ensemble, x, zeros(x), 0.5)
    distance = (found - x).abs().max().item()
    assert fooled(ensemble, found, zeros(x)).all()
    assert 0.2 / 3 <= distance <= 1.06 * 0.2 / 3
    # Beyond epsilon: no success, and not further than epsilon.
    near = attacked("fab", ensemble, x, zeros(x), 0.05)
    assert not fooled(ensemble, near, zeros(x)).any()
    assert (near - x).abs().max().item() == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("name", "missed"), [("apgd-t", 0), ("apgd-ce", 5)])
def test_an_ensemble_is_fooled_where_a_search_over_all_images_finds_one(name, missed):
    # Three linear networks are no linear classifier; the maximum over the ball is known from a grid.
    # Cross-entropy has several maxima in it, towards different classes, and misses some.
    ensemble, images, labels = classifiers(3, 4, 2)
    epsilon = 0.1
    line = torch.linspace(-epsilon, epsilon, 41)
    around = torch.cartesian_prod(line, line).view(-1, 1, 1, 1, 2)
    every = (images + around).clamp(0, 1)
    grid = fooled(ensemble, every.flatten(0, 1), labels.repeat(len(around))).view(-1, len(images)).any(0)
    wrong = fooled(ensemble, attacked(name, ensemble, images, labels, epsilon), labels)
    assert 10 < grid.sum() < 50
    assert not (wrong & ~grid).any() and (grid & ~wrong).sum() <= missed


@pytest.mark.parametrize("name", autoattack.ATTACKS)
def test_images_stay_in_the_ball_and_in_range_and_the_streams_decide(name):
    ensemble, images, labels = classifiers(3, 5, 6)
    labels[0] = (labels[0] + 1) % 5  # misclassified as it is
    aimed = (lambda x: ensemble(x).mean(0)) if name in autoattack.OBJECTIVES else MeanProbability(ensemble)
    right = aimed(images).argmax(-1) == labels
    state = torch.get_rng_state()
    first, again, other = (attacked(name, ensemble, images, labels, 0.1, seed=s, steps=5) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert name == "fab" or not torch.equal(first, other)  # FAB starts at the image
    assert (first - images).abs().max() <= 0.1 + 1e-6
    assert first.min() >= 0 and first.max() <= 1
    # Failures are attacked images, too: those of the highest loss, not the clean ones.
    assert (aimed(first).argmax(-1) == labels).any()
    assert torch.equal((first != images).flatten(1).any(1), right)
    assert not any(p.requires_grad or p.grad is not None for p in ensemble.parameters())


@pytest.mark.parametrize("epsilon", [0.15, 0.2])
def test_apgd_is_not_weaker_than_pgd_on_the_same_classifier_with_as_many_gradients(epsilon):
    ensemble, data = trained(5), stripes(60, 2)
    view = MeanProbability(ensemble)

    def loss(x, step):
        return F.nll_loss(view(x), data.labels, reduction="none")

    shift = torch.rand(data.images.shape, generator=stream(0)).mul(2).sub(1).mul(epsilon)
    start = (data.images + shift).clamp(0, 1)
    pgd = adaptive.ascend(loss, data.images, epsilon, 11, start).images
    counts = [
        int(fooled(ensemble, images, data.labels).sum())
        for images in (pgd, attacked("apgd-ce", ensemble, data.images, data.labels, epsilon, steps=10))
    ]
    assert counts[1] >= counts[0] and 0 < counts[1] < 60


def test_the_loop_over_targets_is_as_strong_as_that_of_torchattacks():
    ensemble, images, labels = classifiers(4, 5, 6, seed=1)
    view = MeanProbability(ensemble)
    theirs = torchattacks.APGDT(view, eps=0.05, steps=20, n_classes=5)
    with torch.random.fork_rng(devices=[]):
        expected = fooled(ensemble, theirs(images, labels), labels)
    wrong = fooled(ensemble, attacked("apgd-t", ensemble, images, labels, 0.05), labels)
    assert 5 < expected.sum() < 55
    assert (wrong != expected).sum() <= 1
    one = fooled(ensemble, attacked("apgd-t", ensemble, images, labels, 0.05, targets=1), labels)
    assert not (one & ~wrong).any() and one.sum() < wrong.sum()


def test_apgd_on_the_margin_fools_where_cross_entropy_has_no_gradient():
    # A margin of 350; (0.5, 0.6), with one of -50, is in the ball.
    ensemble, x = linear((500.0, -500.0)), pixels((0.9, 0.2))
    for name, expected in (("apgd-ce", False), ("apgd-margin", True)):
        found = attacked(name, ensemble, x, zeros(x), 0.4)
        assert fooled(ensemble, found, zeros(x)).item() is expected, name


def test_every_step_of_apgd_eot_asks_other_networks():
    ensemble, images, labels = classifiers(4, 5, 6)
    asked = []

    class Pool(Ensemble):
        def __getitem__(self, members):
            asked.append((members.start, members.stop))
            return super().__getitem__(members)

    pool = Pool(ensemble.engine.network, ensemble.weights, ensemble.engine)
    strength = STRENGTH._replace(steps=3, draws=1)
    autoattack.attack("apgd-eot", ensemble[:2], pool, images, labels, 0.1, strength, Streams(0))
    assert [a for a in asked if a[0] < a[1]] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_unknown_names_pixels_beyond_the_range_and_too_few_classes_are_refused():
    ensemble = linear((1.0, -2.0))
    x = pixels((0.6, 0.2))
    with pytest.raises(ValueError, match="expected one of apgd-ce, apgd-t"):
        attacked("pgd", ensemble, x, zeros(x), 0.1)
    with pytest.raises(ValueError, match=r"expected pixels in \[0, 1\]"):
        attacked("apgd-ce", ensemble, x + 0.5, zeros(x), 0.1)
    with pytest.raises(ValueError, match="apgd-t needs at least 4 classes, found 2"):
        attacked("apgd-t", ensemble, x, zeros(x), 0.1)


def test_the_paper_preset_runs_every_part_and_quick_those_that_pay():
    parts = {preset: scale.auto for preset, scale in ADAPTIVE.items()}
    assert parts["paper"].attacks == parts["smoke"].attacks == autoattack.ATTACKS
    assert parts["quick"].attacks == ("apgd-ce", "apgd-t")
    assert (ADAPTIVE["quick"].members, ADAPTIVE["quick"].images, ADAPTIVE["quick"].steps) == (5, 100, 20)
    assert (parts["quick"].targets, parts["quick"].epsilons) == (3, (0.1,))
