"""APD's mathematics: the chain's distribution, the GAN, and what variants share."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from small import load_stripes, small_method, stripes, stripes_task
from torch import nn
from torch.nn.functional import pdist

from bench import registry, training
from bench.engine import Cost
from bench.errors import BenchError
from bench.methods.apd import Coordinates, gradient_penalty, mlp
from bench.rng import Streams, stream
from bench.running.cell import Cell
from bench.settings import resolve
from bench.task import Split
from bench.training import FitSettings, cross_entropy, mse

FAMILY = ("apd", "sgld", "apd-gaussian")


def path_of(count, width, seed=0):
    """A random walk away from the origin, [count, width], similar to a chain."""
    return 3 + torch.randn(count, width, generator=stream(seed, "walk")).cumsum(0)


def fit(method, **settings):
    return training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0, **settings))


def test_the_chain_samples_the_posterior_of_a_linear_model():
    # With N equal rows every minibatch's gradient is exact: y = (w, b) . (1, 1), so with the mean squared
    # error the posterior has precision A = 2 N a a' + p I and mean 2 N y A^-1 a, a = (1, 1).
    count, precision, eta, target = 400, 200.0, 0.4, 1.5
    data = Split("same", torch.ones(count, 1), torch.full((count, 1), target))
    network = nn.Sequential(OrderedDict(linear=nn.Linear(1, 1)))
    method = small_method(
        "sgld", network, epochs=10, burn_in=0.1, batch=1, keep=count, precision=precision,
        step_size=eta, first_step_size=eta,
    )  # fmt: skip
    method.start(data, data, loss=mse, rng=Streams(0, "fit"))
    for i in range(10):
        method.round(i)
    found = method._pool().double()
    a = torch.ones(2, dtype=torch.double)
    curvature = 2 * count * torch.outer(a, a) + precision * torch.eye(2, dtype=torch.double)
    mean = torch.linalg.solve(curvature, 2 * count * target * a)
    # A step of finite length inflates the variance along an eigenvector to 1 / (c (1 - step c / 4)).
    values, vectors = torch.linalg.eigh(curvature)
    inflated = 1 / (values * (1 - eta / count * values / 4))
    along = (found - mean) @ vectors
    correlation = (1 - eta / count * values / 2).abs()
    effective = len(found) * (1 - correlation) / (1 + correlation)
    assert (along.mean(0).abs() < 4 * (inflated / effective).sqrt()).all()
    assert (along.var(0) / inflated - 1).abs().max() < 4 * math.sqrt(2 / effective.min().item())
    assert inflated.max() > 3 * inflated.min()  # the two directions differ and are tested separately


def test_a_step_without_noise_is_weight_decay_and_half_a_gradient():
    method = small_method("sgld", precision=48.0)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    theta, gradient = torch.tensor([2.0, -4.0]), torch.tensor([1.0, 3.0])
    noise, row = torch.randn(2, generator=stream(7)), {"half": 0.1, "spread": math.sqrt(0.2 / 96)}
    method.noise.manual_seed(stream(7).initial_seed())
    after = method.step(theta, gradient, row) - math.sqrt(0.2 / 96) * noise
    torch.testing.assert_close(after, theta - 0.1 * (gradient + 0.5 * theta))


def test_the_step_size_decays_only_in_burn_in():
    method = small_method("sgld", epochs=4, burn_in=0.5, step_size=0.1, first_step_size=0.5)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    steps = len(method.batches)
    found = [method.step_size(s) for s in (0, steps, 2 * steps, 4 * steps - 1)]
    assert found == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_networks_are_kept_after_burn_in_up_to_the_end_of_the_epoch():
    method = small_method("sgld", epochs=4, burn_in=0.5, keep=5)
    fit(method)
    assert method.max_members == 10
    assert torch.equal(method._pool(), method.chain.samples[2:].flatten(0, 1))
    drawn = method.sample(10, seed=0).vectors()
    assert torch.equal(drawn.sort(0).values, method._pool().sort(0).values)
    again, _ = method._langevin(3)  # from the last network of epoch 2
    assert torch.equal(again["samples"], method.chain.samples[3])


def test_the_chain_continues_across_epochs():
    method = small_method("sgld", keep=12, step_size=0.05, first_step_size=0.05)
    fit(method)
    walk = torch.cat([method._first()[None], method.chain.samples.flatten(0, 1)])  # every step
    gaps = walk.diff(dim=0).norm(dim=1)
    assert gaps.max() < 2 * gaps.median()


@pytest.mark.parametrize("slope", [0.0, 0.5, 3.0])
def test_the_penalty_of_a_linear_critic_is_its_slope_s_deviation_from_one(slope):
    critic = nn.Sequential(nn.Linear(4, 1))
    weight = critic[0].weight
    with torch.no_grad():
        weight.copy_(slope * torch.tensor([[0.5, -0.5, 0.5, 0.5]]))  # a unit vector
    penalty = gradient_penalty(critic, torch.randn(7, 4))
    assert penalty.item() == pytest.approx((slope - 1) ** 2)
    if slope:
        penalty.backward()  # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
        expected = 2 * (slope - 1) * weight / slope
        torch.testing.assert_close(weight.grad, expected.detach())


def test_the_penalty_of_a_deep_critic_agrees_with_finite_differences():
    critic = mlp(3, 20, 1).double()
    x = torch.randn(5, 3, dtype=torch.double, generator=stream(1))
    steps = 1e-6 * torch.eye(3, dtype=torch.double)
    slopes = torch.stack([(critic(x + s) - critic(x - s))[:, 0] / 2e-6 for s in steps], 1)
    expected = (slopes.norm(dim=1) - 1).square().mean()
    torch.testing.assert_close(gradient_penalty(critic, x), expected, rtol=1e-5, atol=1e-7)


def test_the_penalty_s_gradient_is_that_of_second_derivatives():
    critic = mlp(3, 20, 1).double()
    x = torch.randn(5, 3, dtype=torch.double, generator=stream(1)).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    weights = [p for name, p in critic.named_parameters() if name.endswith("weight")]
    expected = torch.autograd.grad((slopes.norm(dim=1) - 1).square().mean(), weights)
    found = torch.autograd.grad(gradient_penalty(critic, x.detach()), weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("count", "width"), [(20, 500), (30, 10)], ids=["wide", "full"])
def test_coordinates_in_the_span_are_an_invertible_isometry(count, width):
    vectors = path_of(count, width)
    span = Coordinates(vectors, span=True)
    assert span.values.shape == (count, min(count - 1, width))
    torch.testing.assert_close(span.vectors(span.values), vectors, rtol=1e-4, atol=1e-4)
    distances = pdist(span.values) * span.scale
    torch.testing.assert_close(distances, pdist(vectors), rtol=1e-4, atol=1e-4)
    other = torch.randn(2, span.values.shape[1], generator=stream(5))  # off the data, too
    lengths = (span.vectors(other[:1]) - span.vectors(other[1:])).norm()
    assert lengths.item() == pytest.approx(((other[0] - other[1]).norm() * span.scale).item(), rel=1e-4)


@pytest.mark.parametrize("span", [True, False])
def test_coordinates_are_centred_and_of_root_mean_square_one(span):
    found = Coordinates(path_of(20, 50), span)
    assert found.values.mean(0).abs().max() < 1e-5
    assert found.values.square().mean().item() == pytest.approx(1)
    torch.testing.assert_close(found.vectors(found.values), path_of(20, 50), rtol=1e-4, atol=1e-4)


def test_the_span_of_equal_networks_is_finite():
    vectors = path_of(6, 40)[[0, 1, 2, 3, 4, 5, 5, 5]]
    found = Coordinates(vectors, span=True)
    torch.testing.assert_close(found.vectors(found.values), vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("span", [True, False])
def test_the_generator_learns_the_chains_mean_and_spread(span):
    method = small_method(
        "apd", epochs=4, burn_in=0.5, keep=6, span=span, blocks=4, block_steps=40, lr=8e-3, hidden=32
    )
    fit(method)
    assert all(0.5 < value < 2 for value in method.spread(0).values())
    drawn, chain = method.sample(200, seed=0).vectors(), method._pool()
    off = (drawn.mean(0) - chain.mean(0)).norm() / chain.var(0).sum().sqrt()
    assert off < 0.5
    # Unlike the control, it models correlations of weights: as large a share of its variance as of the
    # chain's lies along the chain's first direction.
    first = method.coordinates.vectors(torch.eye(method.coordinates.values.shape[1])[:1]) if span else None
    if first is not None:
        axis = (first - chain.mean(0))[0] / method.coordinates.scale
        share = [((v - v.mean(0)) @ axis).var() / v.var(0).sum() for v in (chain, drawn)]
        assert 0.6 < share[1] / share[0] < 1.6


def test_the_spread_is_a_ratio_of_standard_deviations():
    method = small_method("apd", blocks=1, block_steps=1)
    fit(method)
    with torch.no_grad():
        for parameter in method.generator.parameters():
            parameter.zero_()
    assert method.spread(0) == {"sd_ratio": 0, "sd_ratio_conv": 0, "sd_ratio_linear": 0}
    chain, coordinates = method._pool(), method.coordinates
    # Replaces the generator's outputs by kept networks in turn.
    method.generator = lambda z: coordinates.values[torch.arange(len(z)) % len(chain)] * 2
    assert all(value == pytest.approx(2, rel=0.1) for value in method.spread(0).values())


def test_the_control_has_the_chains_mean_and_variance_and_nothing_else():
    method = small_method("apd-gaussian", epochs=4, keep=6)
    fit(method)
    drawn, chain = method.sample(4000, seed=0).vectors(), method._pool()
    sd, mean = torch.std_mean(chain, 0, correction=0)
    assert ((drawn.mean(0) - mean) / sd).abs().max() < 5 / math.sqrt(4000)
    assert (drawn.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * 4000)
    unit = (drawn - mean) / sd
    correlations = unit.t() @ unit / 4000
    assert (correlations - correlations.diag().diag()).abs().max() < 6 / math.sqrt(4000)


def test_a_second_variant_reuses_the_chain_and_counts_its_cost(tmp_path, monkeypatch):
    stage = tmp_path / "stage"
    first, second = small_method("sgld"), small_method("apd")
    made = fit(first, stage=stage, path=tmp_path / "sgld" / "fit.safetensors")
    assert len(list(stage.iterdir())) == 3

    def recompute(i):
        raise AssertionError(f"round {i} was computed again")

    monkeypatch.setattr(second, "_langevin", recompute)
    monkeypatch.setattr(second, "_block", lambda i: {"loss": 0.0})
    reused = fit(second, stage=stage)
    assert torch.equal(first.chain.samples, second.chain.samples)
    assert sorted(second.borrowed) == [0, 1, 2]
    borrowed = sum(second.borrowed.values(), Cost())
    assert 0 < borrowed.seconds <= made.cost.seconds
    assert borrowed.seconds <= reused.cost.seconds < borrowed.seconds + 1
    assert 0 < borrowed.cpu_seconds <= made.cost.cpu_seconds
    assert borrowed.flop == made.cost.flop == reused.cost.flop > 0


def test_the_stage_folder_does_not_change_results_and_stores_the_chain(tmp_path):
    alone, shared = small_method("sgld"), small_method("sgld")
    fit(alone, path=tmp_path / "alone")
    fit(shared, path=tmp_path / "shared", stage=tmp_path / "stage")
    assert torch.equal(alone.sample(3, 0).vectors(), shared.sample(3, 0).vectors())
    assert (tmp_path / "shared").stat().st_size < 1000 < (tmp_path / "alone").stat().st_size
    again = small_method("sgld")
    assert fit(again, path=tmp_path / "shared", stage=tmp_path / "stage").reused
    assert torch.equal(alone.sample(3, 0).vectors(), again.sample(3, 0).vectors())


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_fit_killed_in_any_round_resumes_from_its_shards(name, after, tmp_path):
    whole = small_method(name, block_steps=3)
    fit(whole)

    class KilledError(Exception):
        pass

    def kill(done, total, losses):
        if done == after + 1:
            raise KilledError

    settings = {"path": tmp_path / "fit", "stage": tmp_path / "stage", "checkpoint_every": 0.0}
    resumed = small_method(name, block_steps=3)
    if after < whole.rounds():
        with pytest.raises(KilledError):
            fit(small_method(name, block_steps=3), progress=kill, **settings)
    assert fit(resumed, **settings).rounds == whole.rounds()
    assert torch.equal(resumed.sample(3, 0).vectors(), whole.sample(3, 0).vectors())


def test_a_truncated_shard_is_an_error_and_a_removed_one_is_computed_again(tmp_path):
    settings = {"path": tmp_path / "fit", "stage": tmp_path / "stage"}
    whole = small_method("sgld")
    fit(whole, **settings)
    shard = sorted((tmp_path / "stage").iterdir())[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    again = small_method("sgld")
    fit(again, **settings)
    with pytest.raises(BenchError, match=rf"{shard.name}: expected a checkpoint .* remove the file"):
        again.sample(3, 0)
    shard.unlink()
    assert torch.equal(again.sample(3, 0).vectors(), whole.sample(3, 0).vectors())
    assert shard.exists()


def cell(name, **sets):
    entry = registry.method(name)
    settings = resolve(entry, entry.load().Config, "smoke", "stripes", sets)
    return Cell(entry, stripes_task, "smoke", 0, (1, 2), settings, (), load_stripes(None).fitted_on(), "")


def test_variants_share_a_stage_folder_unless_settings_of_the_chain_differ(tmp_path):
    folders = {cell(name).stage(tmp_path) for name in FAMILY}
    assert len(folders) == 1
    assert len({cell(name).checkpoint(tmp_path) for name in FAMILY}) == 3
    assert cell("apd", lr="0.1", hidden="7").stage(tmp_path) in folders
    for setting in ("epochs", "keep", "batch"):
        assert cell("apd", **{setting: "3"}).stage(tmp_path) not in folders
    assert cell("standard_ensemble").stage(tmp_path) is None


def test_in_burn_in_networks_are_those_of_the_latest_epoch():
    method = small_method("sgld", epochs=4, burn_in=0.75, keep=3)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    method.round(0)
    method.round(1)
    drawn = method.draw([stream(i) for i in range(6)])
    vectors = torch.cat([w.flatten(1) for w in drawn.values()], 1)
    assert torch.equal(vectors.unique(dim=0), method.chain.samples[1].unique(dim=0))
    assert torch.equal(vectors[:3], vectors[3:])


def test_a_chain_that_diverges_names_step_loss_and_setting():
    method = small_method("sgld", step_size=1e6, first_step_size=1e6)
    with pytest.raises(BenchError, match=r"epoch 0, step \d+: .* \{'loss': (nan|inf)\}; .*\.step_size="):
        fit(method)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="an epoch of 12 steps holds no 13 networks"):
        fit(small_method("sgld", keep=13))
    with pytest.raises(ValueError, match="at least 2 networks"):
        small_method("apd", epochs=1, keep=1)
