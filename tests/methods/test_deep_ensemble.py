"""Deep ensembles: FGSM by hand, the minimum of the scoring rule, and the added objective."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from small import line, small_method, small_network, small_regression, stripes
from torch import nn
from torch.func import functional_call

from bench import training
from bench.engine import Engine
from bench.metrics import predictions
from bench.rng import Streams, stream
from bench.task import MIN_VARIANCE, Split
from bench.training import FitSettings, Minibatches, adam, anneal, cross_entropy, gaussian, gaussian_nll, mse

# Scoring rule


def raw(variance: torch.Tensor) -> torch.Tensor:
    """The raw output whose softplus is this variance."""
    return torch.log(torch.expm1(variance - MIN_VARIANCE))


def test_the_likelihood_is_that_of_the_normal_distribution():
    rng = stream(0)
    mean, y = torch.randn(3, 7, 1, generator=rng) * 3, torch.randn(3, 7, 1, generator=rng)
    variance = torch.rand(3, 7, 1, generator=rng) * 4 + 0.1
    outputs = torch.cat([mean, raw(variance)], -1)
    expected = -norm.logpdf(y.numpy(), mean.numpy(), variance.sqrt().numpy()).mean((1, 2))
    np.testing.assert_allclose(gaussian_nll(outputs, y).numpy(), expected, rtol=1e-5)
    shared = -norm.logpdf(y[0].numpy(), mean.numpy(), variance.sqrt().numpy()).mean((1, 2))
    np.testing.assert_allclose(gaussian_nll(outputs, y[0]).numpy(), shared, rtol=1e-5)


def test_training_and_evaluation_use_the_same_variance():
    outputs = torch.randn(1, 20, 2, generator=stream(4), dtype=torch.float64) * 20
    v = predictions.variance(outputs[0, :, 1].numpy())
    y = outputs[..., :1] + 1  # off by 1, so that the likelihood depends on the variance only
    for i in range(20):
        expected = -norm.logpdf(1, 0, math.sqrt(v[i]))
        assert gaussian_nll(outputs[:, i : i + 1], y[:, i : i + 1]).item() == pytest.approx(expected)


def test_with_the_noise_variance_it_equals_the_other_methods_likelihood():
    rng = stream(1)
    mean, y = torch.randn(2, 9, 1, generator=rng), torch.randn(2, 9, 1, generator=rng)
    outputs = torch.cat([mean, raw(torch.full_like(mean, 9.0))], -1)
    torch.testing.assert_close(gaussian_nll(outputs, y), gaussian(mean, y))


def test_its_minimum_is_at_the_mean_and_variance_of_the_data():
    y = torch.randn(1, 50, 1, generator=stream(2), dtype=torch.float64) * 1.7 + 4
    best = torch.stack([y.mean(), raw(y.var(correction=0))]).requires_grad_()
    value = gaussian_nll(best.expand(1, 50, 2), y).sum()
    (slope,) = torch.autograd.grad(value, best)
    torch.testing.assert_close(slope, torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    entropy = (1 + math.log(2 * math.pi * y.var(correction=0))) / 2
    assert value.item() == pytest.approx(entropy)
    for step in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1)):
        other = best.detach() + torch.tensor(step)
        assert gaussian_nll(other.expand(1, 50, 2), y).sum() > value


def test_a_variance_never_vanishes():
    outputs = torch.tensor([0.0, -1e4]).view(1, 1, 2)
    expected = (math.log(MIN_VARIANCE) + math.log(2 * math.pi)) / 2
    assert gaussian_nll(outputs, torch.zeros(1, 1)).item() == pytest.approx(expected)


# Head


@pytest.mark.parametrize("bias", [True, False])
def test_regression_adds_a_second_output_to_a_copy_of_the_network(bias):
    given = nn.Sequential(OrderedDict(hidden=nn.Linear(1, 10), relu=nn.ReLU(), output=nn.Linear(10, 1, bias)))
    before = torch.get_rng_state()
    shapes = small_method("deep_ensemble", given).engine.shapes
    assert torch.equal(torch.get_rng_state(), before)
    assert given.output.weight.shape == (1, 10) and given.output.out_features == 1
    assert shapes == {
        n: (2, *s[1:]) if n.startswith("output") else s for n, s in Engine(given).shapes.items()
    }


def test_classification_keeps_its_network():
    network = small_network(2)
    assert small_method("deep_ensemble", network).network is network


def test_several_labels_are_an_error():
    method = small_method("deep_ensemble", small_regression())
    data = Split("plane", torch.rand(8, 1), torch.rand(8, 2))
    with pytest.raises(ValueError, match=r"plane: expected labels \[N, 1\], found \[8, 2\]"):
        method.start(data, data, loss=mse, rng=Streams(0))


# Fast gradient sign


def linear(networks: int, epsilon: float, train: Split):
    network = nn.Sequential(OrderedDict(linear=nn.Linear(train.images.shape[1], 2)))
    method = small_method("deep_ensemble", network, networks=networks, epsilon=epsilon)
    method.start(train, train, loss=cross_entropy, rng=Streams(0))
    return method


def adversarial(method, x, y):
    """The adversarial images, from a separate pass."""
    x = x.clone().requires_grad_()
    return method.adversarial(x, method.engine.losses(method.members.weights, x, y, method.loss, own=True))


def test_the_step_by_hand():
    # Features of range 1, 10 and 0; logits (w x, 0), label 0: the gradient is -(1 - p) w, whatever p.
    ends = Split("ends", torch.tensor([[0.0, -5.0, 2.0], [1.0, 5.0, 2.0]]), torch.tensor([0, 1]))
    method = linear(2, 0.1, ends)
    with torch.no_grad():
        method.members.weights["linear.weight"].zero_()
        method.members.weights["linear.weight"][0, 0] = torch.tensor([2.0, -1.0, 3.0])
        method.members.weights["linear.weight"][1, 0] = torch.tensor([-0.5, 0.0, 1.0])
        method.members.weights["linear.bias"].zero_()
    x = torch.tensor([[0.5, 0.5, 2.0]]).expand(2, 1, 3)
    found = adversarial(method, x, torch.tensor([[0], [0]]))
    # Features that do not affect the output, or are constant, are not changed.
    expected = torch.tensor([[[0.4, 1.5, 2.0]], [[0.6, 0.5, 2.0]]])
    torch.testing.assert_close(found, expected)
    # For the other label the sign is opposite.
    found = adversarial(method, x, torch.tensor([[1], [1]]))
    torch.testing.assert_close(found, 2 * x - expected)


def test_every_network_s_images_are_attacked_on_itself(train):
    method = small_method("deep_ensemble", networks=3, epsilon=0.03)
    method.start(train, train, loss=cross_entropy, rng=Streams(0))
    x, y = next(method.batches.epochs([stream(m) for m in range(3)]))
    moved = adversarial(method, x, y)
    span = train.images.amax(0) - train.images.amin(0)
    assert not moved.requires_grad
    for m in range(3):
        weights = {n: w[m].detach() for n, w in method.members.weights.items()}
        leaf = x[m].clone().requires_grad_()
        F.cross_entropy(functional_call(method.network, weights, (leaf,)), y[m]).backward()
        torch.testing.assert_close(moved[m], x[m] + 0.03 * span * leaf.grad.sign())


# Training


def test_a_member_equals_a_network_trained_alone_on_both_losses():
    train, val = stripes(96), stripes(30, 1)
    method = small_method("deep_ensemble", networks=2, epochs=2, epsilon=0.05)
    method.start(train, val, loss=cross_entropy, rng=Streams(7, "fit"))
    alone = {n: w[1].detach().clone().requires_grad_() for n, w in method.members.weights.items()}
    method.round(0)
    method.round(1)

    c = method.config
    optimiser, batches = adam(alone.values(), c.lr), Minibatches(train, c.batch)
    span = train.images.amax(0) - train.images.amin(0)
    for i in range(2):
        for step, (x, y) in enumerate(batches.epochs([Streams(7, "fit")("order", i, 1)])):
            anneal(optimiser, c.lr, i * len(batches) + step, 2 * len(batches))
            leaf = x[0].clone().requires_grad_()
            plain = F.cross_entropy(functional_call(method.network, alone, (leaf,)), y[0])
            (slope,) = torch.autograd.grad(plain, leaf, retain_graph=True)
            moved = functional_call(method.network, alone, (x[0] + 0.05 * span * slope.sign(),))
            optimiser.zero_grad()
            (plain + F.cross_entropy(moved, y[0])).backward()
            optimiser.step()
    for name, w in method.members.weights.items():
        torch.testing.assert_close(w[1], alone[name], rtol=1e-3, atol=1e-4)


def test_adversarial_images_have_a_higher_loss():
    method = small_method("deep_ensemble", epochs=5)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0))
    losses = method.round(0)
    assert losses["adversarial_loss"] > losses["loss"]


def test_regression_learns_input_dependent_noise():
    rng = stream(3)
    x = torch.rand(400, 1, generator=rng) * 2 - 1
    sd = torch.where(x > 0, 1.0, 0.1)
    data = Split("line", x, 2 * x + sd * torch.randn(400, 1, generator=rng))
    method = small_method("deep_ensemble", small_regression(), epochs=30, batch=50, lr=0.04, networks=2)
    training.fit(method, data, line(16, seed=1), FitSettings(seed=0, loss=mse))
    mean, raw_variance = method.sample(2, seed=0)(torch.tensor([[-0.6], [0.6]])).mean(0).unbind(-1)
    found = (F.softplus(raw_variance) + MIN_VARIANCE).sqrt()
    assert (mean - torch.tensor([-1.2, 1.2])).abs().max() < 0.3
    assert 0.05 < found[0] < 0.25 and 0.7 < found[1] < 1.4
