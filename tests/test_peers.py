"""Attacks and metrics against independent libraries: foolbox, ART, torchattacks, torchmetrics, scipy.

FGSM and PGD are compared bit for bit. This needs 2^n images: torchattacks and ART maximise the mean loss,
foolbox the sum, and division by 2^n is exact. AutoAttack's parts draw other numbers than those of other
libraries and are compared by how many of 100 images fool.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescentPyTorch,
    SquareAttack,
)
from art.estimators.classification import PyTorchClassifier
from attacked import trained_on_digits
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy
from small import small_network, stripes
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_specificity_at_sensitivity,
    multiclass_calibration_error,
)

from bench import networks
from bench.attacks import autoattack, oblivious, search
from bench.attacks.success import fooled
from bench.ensemble import Ensemble, MeanLogits, MeanProbability
from bench.metrics import predictions
from bench.rng import Streams, stream

with warnings.catch_warnings():
    # foolbox 3.3.4, its last release, imports gaussian_filter by a name that SciPy 2 will not have.
    warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
    import foolbox

IMAGES = 16
EPSILONS = (0.01, 0.1, 0.3)


def small_case():
    """Four random networks of three classes, and stripes."""
    network, rng = small_network(), stream(0, "weights")
    shapes = networks.shapes(network)
    weights = {n: torch.randn(4, *shape, generator=rng) * 0.3 for n, shape in shapes.items()}
    data = stripes(IMAGES)
    return Ensemble(network, weights), data.images, data.labels, 3


def mnist_case():
    """Five untrained MNIST networks, and noise images with black and white rows, where clipping matters."""
    network = networks.mnist()
    starts = [networks.initial(networks.shapes(network), stream(m)) for m in range(5)]
    weights = {n: torch.stack([start[n] for start in starts]) for n in starts[0]}
    images = torch.rand(IMAGES, 1, 28, 28, generator=stream(0, "noise"))
    images[:, :, :8], images[:, :, -5:] = 0, 1
    return Ensemble(network, weights), images, torch.arange(IMAGES) % 10, 10


@pytest.fixture(scope="module", params=[small_case, mnist_case])
def case(request):
    """An ensemble, images, labels, and the ensemble's mean logits as models of foolbox and ART."""
    ensemble, images, labels, classes = request.param()
    model = MeanLogits(ensemble).eval()
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return ensemble, images, labels, theirs, of_art(model, images, classes)


def of_art(model, images, classes):
    return PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0, 1),
        device_type="cpu",
    )


def equal(found, peer):
    torch.testing.assert_close(found, torch.as_tensor(peer), rtol=0, atol=0)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_fgsm_agrees_with_foolbox_and_art_bit_for_bit(case, epsilon):
    ensemble, images, labels, theirs, art = case
    found = oblivious.fgsm(ensemble, images, labels, epsilon)
    assert (found - images).abs().max() == pytest.approx(epsilon, rel=1e-6)
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    equal(found, attack.run(theirs, images, labels, epsilon=epsilon))
    attack = FastGradientMethod(art, eps=epsilon, batch_size=IMAGES)
    equal(found, attack.generate(images.numpy(), labels.numpy()))


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_pgd_without_a_random_start_agrees_with_foolbox_and_art_bit_for_bit(case, epsilon, steps):
    ensemble, images, labels, theirs, art = case
    found = oblivious.pgd(ensemble, images, labels, epsilon, steps)
    # Several steps differ from FGSM: gradients change between steps, and a wrong step size would matter.
    assert torch.equal(found, oblivious.fgsm(ensemble, images, labels, epsilon)) == (steps == 1)
    step = oblivious.STEP * epsilon / steps
    attack = foolbox.attacks.LinfProjectedGradientDescentAttack(
        abs_stepsize=step, steps=steps, random_start=False
    )
    equal(found, attack.run(theirs, images, labels, epsilon=epsilon))
    attack = ProjectedGradientDescentPyTorch(
        art, eps=epsilon, eps_step=step, max_iter=steps, batch_size=IMAGES, verbose=False
    )
    equal(found, attack.generate(images.numpy(), labels.numpy()))


def test_success_agrees_with_foolbox(case):
    ensemble, images, _, theirs, _ = case
    labels = theirs(images).argmax(-1)
    counts = set()
    for epsilon in (0.003, 0.01, 0.03, 0.1):
        attack = foolbox.attacks.LinfPGD(
            abs_stepsize=oblivious.STEP * epsilon / 3, steps=3, random_start=False
        )
        moved, _, success = attack(theirs, images, labels, epsilons=epsilon)
        logits = ensemble(moved).detach().numpy()
        assert fooled(logits, labels.numpy())["fused"].tolist() == success.tolist()
        counts.add(int(success.sum()))
    assert counts - {0, IMAGES}, "at no epsilon are some images fooled and some not"


def test_the_smallest_epsilon_of_fgsm_on_a_grid_agrees_with_art(case):
    ensemble, images, _, theirs, art = case
    labels = theirs(images).argmax(-1)  # classified correctly: ART does not test epsilon 0
    step, largest = 0.005, 0.1
    grid = np.arange(1, round(largest / step) + 1) * step
    found = search.smallest_epsilon(ensemble, images, labels, "fgsm", grid.tolist(), halvings=0)
    attack = FastGradientMethod(art, eps=largest + step / 2, eps_step=step, batch_size=IMAGES, minimal=True)
    moved = attack.generate(images.numpy(), labels.numpy())
    size = np.abs(moved - images.numpy()).max((1, 2, 3))
    reached = np.isfinite(found)
    assert len(set(found[reached])) >= 2
    assert size[reached] == pytest.approx(found[reached], abs=1e-6)
    assert size[~reached] == pytest.approx(np.full((~reached).sum(), largest), abs=1e-6)
    assert (art.predict(moved).argmax(-1) != labels.numpy()).tolist() == reached.tolist()


STRENGTH = autoattack.Strength(steps=10, targets=3, queries=200, draws=1)
NEAR = 2  # images of 100


class Mixture:
    """100 images, and the log of the mean probability of ten networks as one classifier for all libraries."""

    def __init__(self):
        self.ensemble, data = trained_on_digits()
        self.images, self.labels = data.test.images, data.test.labels
        self.model = MeanProbability(self.ensemble)
        self.art = of_art(self.model, self.images, 10)

    def ours(self, name, epsilon, seed=0, strength=STRENGTH):
        return autoattack.attack(
            name, self.ensemble, self.ensemble, self.images, self.labels, epsilon, strength, Streams(seed)
        )

    def of_torchattacks(self, attack):
        with torch.random.fork_rng(devices=[]):  # it seeds the global generator
            return attack(self.images, self.labels)

    def of_art(self, attack, seed=0):
        state = np.random.get_state()
        np.random.seed(seed)  # it draws from the global generator
        found = torch.from_numpy(attack.generate(self.images.numpy(), self.labels.numpy()))
        np.random.set_state(state)
        return found

    def fooled(self, images):
        return self.model(images).argmax(-1) != self.labels


@pytest.fixture(scope="module")
def mixture():
    return Mixture()


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_fab_fools_where_that_of_torchattacks_does_with_the_same_images(mixture, epsilon):
    found = mixture.ours("fab", epsilon)
    peer = torchattacks.FAB(
        mixture.model, eps=epsilon, steps=STRENGTH.steps, multi_targeted=True, n_classes=STRENGTH.targets + 1
    )
    theirs = mixture.of_torchattacks(peer)
    ours, expected = mixture.fooled(found), mixture.fooled(theirs)
    assert 10 < expected.sum() < 90
    torch.testing.assert_close(found[expected], theirs[expected], rtol=0, atol=1e-6)
    # An image found beyond epsilon is moved back to it, and may still fool; theirs gives it up.
    assert not (expected & ~ours).any() and (ours & ~expected).sum() <= NEAR


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_square_is_that_of_torchattacks_bit_for_bit_where_it_fools(mixture, epsilon):
    found = mixture.ours("square-mixture", epsilon)
    ours = mixture.fooled(found)
    queries = STRENGTH.queries
    seed = int(torch.randint(2**62, (), generator=Streams(0)("square-mixture", repr(epsilon), 0)))
    theirs = mixture.of_torchattacks(
        torchattacks.Square(mixture.model, eps=epsilon, n_queries=queries, seed=seed)
    )
    assert torch.equal(ours, mixture.fooled(theirs)) and 10 < ours.sum() < 90
    assert torch.equal(found[ours], theirs[ours])
    # Where it fails, theirs is the clean image, whose entropy is no attacked image's.
    right = ~mixture.fooled(mixture.images)
    assert torch.equal(theirs[~ours], mixture.images[~ours])
    assert (found != mixture.images).flatten(1).any(1)[~ours & right].all()


def test_square_fools_as_many_images_as_that_of_art_on_average(mixture):
    # A search at random: from seed to seed either fools three images of 100 more or less. ART's starts at the
    # image where stripes do not help, ours at the stripes, as torchattacks does.
    few = STRENGTH._replace(queries=100)
    peer = SquareAttack(mixture.art, eps=0.05, max_iter=few.queries, verbose=False)
    counts = []
    for seed in range(5):
        images = mixture.ours("square-mixture", 0.05, seed, few), mixture.of_art(peer, seed)
        counts.append([int(mixture.fooled(each).sum()) for each in images])
    ours, theirs = np.mean(counts, 0)
    assert abs(ours - theirs) <= NEAR and 10 < ours < 90


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_apgd_fools_as_many_images_as_those_of_torchattacks_and_art(mixture, epsilon):
    ours = {name: mixture.fooled(mixture.ours(name, epsilon)).sum() for name in ("apgd-ce", "apgd-t")}
    how = {"eps": epsilon, "steps": STRENGTH.steps}
    theirs = torchattacks.APGD(mixture.model, **how)
    targeted = torchattacks.APGDT(mixture.model, n_classes=STRENGTH.targets + 1, **how)
    art = AutoProjectedGradientDescent(
        mixture.art, eps=epsilon, eps_step=2 * epsilon, max_iter=STRENGTH.steps, nb_random_init=1,
        batch_size=len(mixture.images), verbose=False,
    )  # fmt: skip
    for name, peer in (
        ("apgd-ce", mixture.of_torchattacks(theirs)),
        ("apgd-ce", mixture.of_art(art)),
        ("apgd-t", mixture.of_torchattacks(targeted)),
    ):
        assert abs(ours[name] - mixture.fooled(peer).sum()) <= NEAR, name
        assert 10 < ours[name] < 90


def random_predictions(seed, images=500, members=1):
    """Logits [M, B, K] of ten classes and labels of which about half are predicted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(members, images, 10)) * 2
    guessed = logits.mean(0).argmax(-1)
    return logits, np.where(rng.random(images) < 0.5, guessed, rng.integers(0, 10, images))


@pytest.mark.parametrize("seed", range(5))
def test_ece_agrees_with_torchmetrics_away_from_bin_edges(seed):
    (logits,), labels = random_predictions(seed)
    log_p = predictions.log_probabilities(logits)
    # Torchmetrics' bins are closed on the left, with a separate bin for 1: edges are not compared.
    confidence = np.exp(log_p.max(-1))
    edges = np.arange(1, predictions.ECE_BINS + 1) / predictions.ECE_BINS
    assert np.abs(confidence[:, None] - edges).min() > 1e-7
    peer = multiclass_calibration_error(
        torch.from_numpy(np.exp(log_p)),
        torch.from_numpy(labels),
        num_classes=10,
        n_bins=predictions.ECE_BINS,
        norm="l1",
    )
    assert predictions.classification(log_p, labels)["ece"] == pytest.approx(peer.item(), abs=1e-6)


@pytest.mark.parametrize("levels", [16, 2**40])
def test_separation_agrees_with_torchmetrics_with_and_without_ties(levels):
    rng = np.random.default_rng(levels)
    # Within [0, 1]: torchmetrics treats other scores as logits, and the sigmoid would create ties.
    inside = np.floor(rng.beta(2, 4, 300) * levels) / levels
    outside = np.floor(rng.beta(4, 3, 200) * levels) / levels
    found = predictions.separation(inside, outside)
    score = torch.from_numpy(np.concatenate([inside, outside]))
    outlying = torch.cat([torch.zeros(300), torch.ones(200)]).long()

    def false_positives(score, positive):
        specificity, _ = binary_specificity_at_sensitivity(score, positive, min_sensitivity=predictions.TPR)
        return 1 - specificity

    peers = {
        "auroc": binary_auroc(score, outlying),
        "aupr_out": binary_average_precision(score, outlying),
        "aupr_in": binary_average_precision(1 - score, 1 - outlying),
        "fpr95_id_positive": false_positives(1 - score, 1 - outlying),
        "fpr95_ood_positive": false_positives(score, outlying),
    }
    assert found == pytest.approx({name: value.item() for name, value in peers.items()}, abs=1e-6)
    assert predictions.auroc(inside, outside) == found["auroc"]


def test_entropies_and_mutual_information_agree_with_scipy():
    logits, _ = random_predictions(0, images=50, members=2)
    ((_, log_p, expected),) = predictions.prefixes(logits, {2})
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    total = predictions.entropy(log_p)
    np.testing.assert_allclose(total, scipy_entropy(p.mean(0), axis=-1), atol=1e-6)
    np.testing.assert_allclose(expected, scipy_entropy(p, axis=-1).mean(0), atol=1e-6)
    # The mutual information of two networks is their Jensen-Shannon divergence.
    np.testing.assert_allclose(total - expected, jensenshannon(p[0], p[1], axis=-1) ** 2, atol=1e-6)
