"""Bayes by Hypernet's mathematics: nearest-neighbour divergence, its weight, and hypernetworks."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_method, small_regression, stripes
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from bench import networks
from bench.methods.bayes_by_hypernet import Hypernetwork, neighbour_kl
from bench.rng import Streams, stream
from bench.training import cross_entropy


def started(network=None, **changes):
    method = small_method("bayes_by_hypernet", network, **changes)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    return method


def affine(matrix, shift):
    """A hypernetwork without hidden layers: w = A z + b, normal with covariance A A^T."""
    hypernetwork = Hypernetwork(torch.Size([len(shift)]), matrix.shape[1], (), sliced=False)
    layer = hypernetwork.layers[0]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([matrix, torch.zeros(len(shift), 1)], 1))
        layer.bias.copy_(shift)
    return hypernetwork


def brute(q, p):
    """The estimate from the minimum over all pairwise distances."""
    own = (q.unsqueeze(1) - q).norm(dim=-1) + torch.diag(torch.full((len(q),), math.inf, dtype=q.dtype))
    logs = (q.unsqueeze(1) - p).norm(dim=-1).amin(1).log() - own.amin(1).log()
    return q.shape[1] * logs.mean() + math.log(len(p) / (len(q) - 1))


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_the_estimate_is_the_gaussian_divergence_for_an_affine_hypernetwork(spread):
    matrix = spread * torch.tensor([[1.0, 0.0], [0.8, 0.7]])
    shift = torch.tensor([0.5, -1.0])
    # The mean of a hundred estimates, of 200 samples each.
    q = affine(matrix, shift)(torch.randn(20_000, 2, generator=stream(0))).detach().view(200, 100, 2)
    p = torch.randn(q.shape, generator=stream(1))
    truth = kl_divergence(
        MultivariateNormal(shift, matrix @ matrix.T), MultivariateNormal(torch.zeros(2), torch.eye(2))
    )
    assert neighbour_kl(q, p).mean().item() == pytest.approx(truth.item(), abs=0.12)


@pytest.mark.parametrize("samples", [5, 50])
def test_in_single_weights_it_is_the_marginals_divergence_even_with_few_samples(samples):
    means, sds = torch.tensor([0.0, 1.0, -0.5]), torch.tensor([1.0, 0.5, 0.1])
    hypernetwork = affine(torch.diag(sds), means)
    q = hypernetwork(torch.randn(20_000, 3, generator=stream(2))).detach().view(samples, -1, 3)
    p = torch.randn(q.shape, generator=stream(3))
    found = neighbour_kl(q.unsqueeze(-1), p.unsqueeze(-1)).mean(0)
    truth = kl_divergence(Normal(means, sds), Normal(torch.zeros(3), torch.ones(3)))
    torch.testing.assert_close(found, truth, atol=0.1, rtol=0)


def test_the_estimate_by_hand():
    q, p = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [5.0]])
    # To the prior's samples: 0.5, 0.5, 2; to the nearest other: 1, 1, 2; log(2 / 2) = 0.
    assert neighbour_kl(q, p).item() == pytest.approx(2 / 3 * math.log(0.5), abs=1e-6)
    more = torch.cat([p, torch.full((2, 1), 100.0)])
    assert neighbour_kl(q, more).item() == pytest.approx(2 / 3 * math.log(0.5) + math.log(2), abs=1e-6)


def test_value_and_gradient_are_those_of_all_pairs():
    rng = stream(4)
    q = torch.randn(6, 5, generator=rng, dtype=torch.float64).requires_grad_()
    p = torch.randn(9, 5, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(neighbour_kl(q, p), brute(q, p))
    (found,) = torch.autograd.grad(neighbour_kl(q, p), q)
    (truth,) = torch.autograd.grad(brute(q, p), q)
    torch.testing.assert_close(found, truth)


def test_the_estimate_is_invariant_to_common_translation_rotation_and_scaling():
    q, p = torch.randn(8, 4, generator=stream(5)) * 0.5, torch.randn(7, 4, generator=stream(6))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=stream(7)))[0]
    torch.testing.assert_close(neighbour_kl(3 * q @ turn + 2, 3 * p @ turn + 2), neighbour_kl(q, p))


def test_samples_that_coincide_leave_value_and_gradient_finite():
    q = torch.zeros(4, 10).requires_grad_()
    kl = neighbour_kl(q, torch.zeros(3, 10)) + neighbour_kl(q.unsqueeze(-1), torch.ones(3, 10, 1)).sum()
    kl.backward()
    assert kl.isfinite() and q.grad is not None and q.grad.isfinite().all()


def test_between_whole_networks_the_estimate_falls_with_the_spread_as_declared():
    size, p = 20_000, torch.randn(5, 20_000, generator=stream(8))
    for spread in (0.1, 0.5, 2.0):
        q = spread * torch.randn(5, size, generator=stream(9))
        declared = 0.5 * math.log((1 + spread**2) / (2 * spread**2))
        assert neighbour_kl(q, p).item() / size == pytest.approx(declared, abs=0.02)


@pytest.mark.parametrize("kernel", ["full", "weight"])
def test_the_methods_divergence_is_over_all_weights_and_biases(kernel):
    method = started(small_regression(), kernel=kernel, prior_sd=0.5, prior_samples=3)
    weights = method.weights(method._noise(4, stream(0)))
    q = torch.cat([w.flatten(1) for w in weights.values()], 1)
    p = 0.5 * torch.randn(3, q.shape[1], generator=stream(1))
    single = [neighbour_kl(q[:, [j]], p[:, [j]]) for j in range(q.shape[1])]
    truth = neighbour_kl(q, p) if kernel == "full" else torch.stack(single).sum()
    torch.testing.assert_close(method.kl(weights, stream(1)), truth, rtol=1e-4, atol=1e-3)


def test_all_tensors_of_a_network_share_its_noise_unless_asked():
    shared = started()._noise(3, stream(0))
    assert torch.equal(shared, shared[:, :1].expand_as(shared))
    own = started(independent_noise=True)._noise(3, stream(0))
    assert own.shape == shared.shape
    assert len(own.flatten(0, 1).unique(dim=0)) == own.shape[0] * own.shape[1]


def test_each_tensor_is_made_from_its_own_noise():
    method = started(independent_noise=True)
    noise = method._noise(3, stream(0))
    before = method.weights(noise)
    for t, changed in enumerate(before):
        other = noise.clone()
        other[:, t] += 1
        after = method.weights(other)
        assert {n for n in before if not torch.equal(before[n], after[n])} == {changed}


def test_a_sliced_hypernetwork_emits_channels_by_name_from_shared_noise():
    whole = Hypernetwork(torch.Size([3, 2, 2]), 5, (7,), sliced=True)
    z = torch.randn(4, 5, generator=stream(0))
    out = whole(z)
    assert out.shape == (4, 3, 2, 2)
    for channel in range(3):
        name = torch.eye(3)[channel].expand(4, -1)
        torch.testing.assert_close(out[:, channel].flatten(1), whole.layers(torch.cat([z, name], 1)))
    with torch.no_grad():
        whole.centre.fill_(2.0)
    torch.testing.assert_close(whole(z), out + 2)


def test_spread_is_the_share_of_the_noise_in_the_weights_rms():
    for spread in (0.1, 1.0):
        method = started(networks.mnist(), spread=spread, hidden=64, noise=8)
        w = method.weights(method._noise(400, stream(0)))["conv2.weight"]
        share = (w - method.hypernetworks[2].centre).square().mean().sqrt() / w.square().mean().sqrt()
        assert share.item() == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("network", [networks.mnist(), networks.cifar(), networks.toy()])
def test_untrained_outputs_have_the_scale_of_a_trainable_network(network, sliced):
    method = started(network, sliced=sliced, hidden=64, noise=8, spread=1.0)
    weights = method.weights(method._noise(200, stream(0)))
    for name, w in weights.items():
        fan_in = method.engine.shapes[name.rpartition(".")[0] + ".weight"][1:].numel()
        assert w.square().mean().sqrt().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.25)


@pytest.mark.parametrize("kernel", ["full", "weight"])
def test_gradients_of_loss_and_divergence_reach_every_part(kernel):
    method = started(kernel=kernel)
    data = stripes(32)
    for part in ("loss", "kl"):
        method.optimiser.zero_grad()
        weights = method.weights(method._noise(4, stream(0)))
        if part == "loss":
            method.engine.losses(weights, data.images, data.labels, cross_entropy).mean().backward()
        else:
            method.kl(weights, stream(1)).backward()
        for name, parameter in method.hypernetworks.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, f"{part}: {name}"


def test_the_weight_of_the_divergence_rises_from_zero_to_one_over_n():
    method = started(free_epochs=2, rise_epochs=4)
    epoch = len(method.batches)
    weights = [method.kl_weight(e * epoch) * 96 for e in (0, 2, 3, 4, 6, 50)]
    assert weights == pytest.approx([0, 0, 0.25, 0.5, 1, 1])
    assert started(free_epochs=0, rise_epochs=0).kl_weight(1) == pytest.approx(1 / 96)
