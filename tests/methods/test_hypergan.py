"""HyperGAN's mathematics: adversarial gradients, scale of outputs, frozen statistics."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_method, stripes

from bench import networks, training
from bench.methods.hypergan import untrained_rms
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


def test_the_adversarial_term_takes_the_paper_s_form():
    codes = torch.randn(8, 2, 6, generator=stream(2))
    method = started(saturating=True, summed=True)
    d = torch.sigmoid(method.critic(codes.flatten(0, 1))).view(8, 2)
    torch.testing.assert_close(method.adversarial(codes), torch.log(1 - d).sum(1).mean())
    torch.testing.assert_close(started().adversarial(codes), -torch.log(d).mean())


def test_parts_step_at_their_own_rates():
    rates = {"lr": 1e-3, "lr_generators": 2e-3, "lr_last": 5e-4}
    method = started(**rates, weight_decay=0.0, schedule="constant")
    parts = {
        "lr": list(method.mixer.parameters()),
        "lr_generators": [p for g in method.generators for p in g[:-1].parameters()],
        "lr_last": [p for g in method.generators for p in g[-1].parameters()],
    }
    before = {name: [p.detach().clone() for p in part] for name, part in parts.items()}
    method._mode(True)
    method._step(next(method._rows(0)))
    for name, part in parts.items():
        moved = max((p.detach() - b).abs().max() for p, b in zip(part, before[name], strict=True))
        assert moved.item() == pytest.approx(rates[name], rel=1e-2)  # Adam's first step is its rate


@pytest.mark.parametrize(("schedule", "last"), [("constant", 1.0), ("cosine", 0.0)])
def test_rates_follow_the_schedule(schedule, last):
    method = started(schedule=schedule, epochs=50)
    *_, row = method._rows(49)
    assert row["lr"] / method.config.lr == pytest.approx(last, abs=1e-3)
    assert row["lr_discriminator"] / method.config.lr_discriminator == pytest.approx(last, abs=1e-3)


def test_the_discriminator_learns_from_fresh_codes():
    seen = {}
    for fresh in (False, True):
        method = started(fresh_codes=fresh)
        method.discriminate = lambda prior, codes, fresh=fresh, of=method.discriminate: (
            seen.update({fresh: codes}) or of(prior, codes)
        )
        method._mode(True)
        row = next(method._rows(0))
        before = method.codes(row["noise"]).detach()
        method._step(row)
        assert torch.equal(seen[fresh], before) != fresh
    assert "fresh" in row and not torch.equal(row["fresh"], row["noise"])


def test_networks_without_biases_have_zeros_that_do_not_train():
    method = started(biases=False)
    assert all(len(shapes) == 1 for shapes in method.targets.values())
    method.round(0)
    weights = method.sample(3, seed=0).weights
    assert all(torch.any(w != 0) != name.endswith("bias") for name, w in weights.items())


def test_an_averaged_network_is_the_mean_of_its_step_s():
    method = started(averaged=True, shared=True)
    drawn = method.sample(2, seed=5).weights
    s = method._noise(4, Streams(5, "draw")(1))
    with torch.no_grad():
        one_by_one = method._weights(method.codes(s))
    for name, w in one_by_one.items():
        torch.testing.assert_close(drawn[name][1], w.mean(0))
    with pytest.raises(ValueError, match="shared"):
        started(averaged=True, shared=False)


def test_batch_statistics_are_those_of_a_network_s_own_mates():
    method = started(statistics="batch")
    method.round(0)
    s = method._noise(4, Streams(5, "draw")(0))

    def normalised(network, x):
        for layer in network:
            if isinstance(layer, torch.nn.BatchNorm1d):
                x = (x - x.mean(0)) / (
                    x.var(0, unbiased=False) + layer.eps
                ).sqrt() * layer.weight + layer.bias
            else:
                x = layer(x)
        return x

    with torch.no_grad():
        codes = normalised(method.mixer, s).view(4, 2, 6)
        flat = normalised(method.generators[1], codes[:, 1])[0]
    fan_in = 36
    flat = flat * method.config.gain * math.sqrt(2 / fan_in) / untrained_rms(method.config.alpha)
    drawn = method.sample(1, seed=5).weights
    found = torch.cat([drawn["linear.weight"].flatten(), drawn["linear.bias"].flatten()])
    torch.testing.assert_close(found, flat, rtol=1e-4, atol=1e-5)


def test_a_fit_ends_when_validation_accuracy_rests(tmp_path):
    def fit(path, **changes):
        method = small_method("hypergan", epochs=40, patience=2, lr=1e-30, lr_generators=1e-30, lr_last=1e-30)
        return method, training.fit(
            method, stripes(96), stripes(30, 1), FitSettings(seed=0, path=path, **changes)
        )

    # Steps of 1e-30 change nothing, so that accuracy moves with the statistics of the codes alone.
    method, result = fit(tmp_path / "whole", trace_every=100)
    assert 3 <= result.rounds < 40
    assert method.rested()
    assert {row["epoch"] for row in result.trace} == {result.rounds}
    again = fit(tmp_path / "whole")[1]
    assert again.reused and again.rounds == result.rounds


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


@pytest.mark.parametrize(("alpha", "gain"), [(0.0, 1.0), (0.5, 0.41), (1.0, 0.41)])
@pytest.mark.parametrize("network", [networks.mnist(), networks.cifar()], ids=["mnist", "cifar"])
def test_untrained_outputs_have_the_scale_of_a_trainable_network(network, alpha, gain):
    wide = {"hidden": 512, "latent": 128, "code": 256, "networks": 64}
    method = started(network=network, alpha=alpha, gain=gain, **wide)
    weights = method._weights(method.codes(method._noise(64, stream(0))))
    for name, w in weights.items():
        layer = dict(network.named_modules())[name.rpartition(".")[0]]
        assert w.shape[1:] == dict(network.named_parameters())[name].shape
        if name.endswith("weight"):
            fan_in = layer.weight[0].numel()
            assert w.square().mean().sqrt().item() == pytest.approx(gain * math.sqrt(2 / fan_in), rel=0.15)


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
