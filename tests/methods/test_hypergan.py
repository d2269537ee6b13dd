"""HyperGAN's mathematics: adversarial gradients, scale of outputs, frozen statistics."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_method, stripes

from bench import networks, training
from bench.rng import Streams, stream
from bench.training import FitSettings, cross_entropy


def started(name="hypergan", network=None, **changes):
    method = small_method(name, network, **changes)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    return method


def train_critic(method, codes, steps=300):
    optimiser = torch.optim.Adam(method.critic.parameters(), lr=1e-2)
    rng = stream(0, "prior")
    for _ in range(steps):
        prior = torch.randn(codes.shape, generator=rng)
        optimiser.zero_grad()
        method.discriminate(prior, codes).backward()
        optimiser.step()


def test_the_adversarial_gradient_pulls_codes_towards_the_prior():
    method = started()
    shift = torch.full((64, 2, 6), 3.0) + 0.1 * torch.randn(64, 2, 6, generator=stream(1))
    train_critic(method, shift)
    codes = shift.clone().requires_grad_()
    method.adversarial(codes).backward()
    assert codes.grad is not None
    moved = shift - codes.grad / codes.grad.norm()
    assert moved.mean() < shift.mean()  # the authors' code moved them the other way


def test_the_discriminators_loss_is_two_log_two_at_chance():
    method = started()
    with torch.no_grad():
        for parameter in method.critic.parameters():
            parameter.zero_()
    codes = torch.randn(8, 2, 6)
    assert method.discriminate(codes, codes).item() == pytest.approx(2 * math.log(2))
    assert method.adversarial(codes).item() == pytest.approx(math.log(2))


def test_without_the_discriminator_it_has_no_effect_and_does_not_train():
    method = started("hypergan-no-discriminator")
    before = {n: p.clone() for n, p in method.critic.named_parameters()}
    losses = method.round(0)
    assert losses["adversarial_loss"] == 0
    assert all(torch.equal(p, before[n]) for n, p in method.critic.named_parameters())
    free, held = started("hypergan-no-discriminator"), started("hypergan", beta=0.0)
    assert free.round(0)["loss"] == held.round(0)["loss"]


def test_the_discriminators_step_does_not_reach_the_mixer():
    method = started(beta=0.0)
    codes = method.codes(torch.randn(4, 12))
    method.discriminate(torch.randn(4, 2, 6), codes.detach()).backward()
    assert all(p.grad is None for p in method.mixer.parameters())


def test_without_the_mixer_layers_are_independent():
    method = started("hypergan-no-mixer")
    s = method._noise(2000, stream(3))
    codes = method.codes(s)
    assert torch.equal(codes.flatten(1), s)
    across = (codes[:, 0] * codes[:, 1]).mean(0)
    assert across.abs().max() < 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("network", [networks.mnist(), networks.cifar()], ids=["mnist", "cifar"])
def test_untrained_outputs_have_the_scale_of_a_trainable_network(network, alpha):
    method = started(network=network, hidden=512, latent=128, code=256, networks=64, alpha=alpha)
    weights = method._weights(method.codes(method._noise(64, stream(0))))
    for name, w in weights.items():
        layer = dict(network.named_modules())[name.rpartition(".")[0]]
        assert w.shape[1:] == dict(network.named_parameters())[name].shape
        if name.endswith("weight"):
            fan_in = layer.weight[0].numel()
            assert w.square().mean().sqrt().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.15)


def test_a_drawn_network_does_not_depend_on_the_size_of_the_draw():
    method = small_method("hypergan")
    training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0))
    alone, many = method.sample(1, seed=4).vectors(), method.sample(200, seed=4).vectors()
    torch.testing.assert_close(many[:1], alone, rtol=1e-5, atol=1e-5)


def test_frozen_statistics_are_those_of_fresh_codes():
    method = small_method("hypergan", hidden=32)
    training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0))
    method.sample(1, seed=0)
    hidden = method.mixer[:2](method._noise(20_000, stream(9)))
    assert hidden.mean(0).sub(method.mixer[1].bias).abs().max() < 0.15
    ratio = hidden.std(0) / method.mixer[1].weight.abs().clamp_min(1e-3)
    assert (ratio - 1).abs().max() < 0.15
