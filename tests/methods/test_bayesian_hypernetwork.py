"""The Bayesian hypernetwork's mathematics: the flow's density, weight normalisation, the divergence."""

from __future__ import annotations

import math

import pytest
import torch
from small import small_method, small_regression, stripes
from torch.distributions import Normal, kl_divergence

from bench.methods.bayesian_hypernetwork import (
    FLOOR,
    LIMIT,
    Coupling,
    Flow,
    floored,
    log_ratio,
    normalised,
)
from bench.rng import Streams, stream
from bench.training import cross_entropy


def seeded(build):
    with Streams(0).initialise():
        return build()


def bent(flow, sd):
    """The flow with couplings far from the identity."""
    with torch.no_grad():
        for parameter in flow.couplings.parameters():
            parameter.copy_(sd * torch.randn(parameter.shape, generator=stream(parameter.numel())))
    return flow


def started(network=None, **changes):
    method = small_method("bayesian_hypernetwork", network, **changes)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    return method


@pytest.mark.parametrize("width", [2, 5, 8])
def test_the_log_determinant_is_that_of_autograds_jacobian(width):
    flow = bent(seeded(lambda: Flow(width, 3, 9, 1.0, -1.0)), 0.5).double()
    eps = torch.randn(4, width, generator=stream(1), dtype=torch.float64)
    _, log_det = flow(eps)
    for k in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda e: flow(e[None])[0][0], eps[k])
        torch.testing.assert_close(log_det[k], torch.linalg.slogdet(jacobian)[1])


def test_a_coupling_keeps_one_half_and_moves_the_other():
    coupling = seeded(lambda: Coupling(5, 4))
    with torch.no_grad():
        coupling.leave.bias.copy_(torch.tensor([0.0, 1.0, -1e4, 1, 2, 3]))
        coupling.leave.weight.zero_()
    z = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    out, log_det = coupling(z)
    a, b = z[:, coupling.order].split([2, 3], 1)
    scale = torch.tensor([0.0, LIMIT * math.tanh(1 / LIMIT), -LIMIT]).exp()
    torch.testing.assert_close(out, torch.cat([a, b * scale + torch.tensor([1.0, 2.0, 3.0])], 1))
    torch.testing.assert_close(log_det, scale.log().sum()[None])
    assert sorted(coupling.order.tolist()) == list(range(5))


def test_without_couplings_the_divergence_is_that_of_normal_distributions():
    flow = Flow(3, 0, 1, 1.4, -1.0)
    eps = torch.randn(100_000, 3, generator=stream(2))
    with torch.no_grad():
        flow.mean.copy_(torch.tensor([1.4, 0.0, -2.0]))
        flow.log_sd.copy_(torch.tensor([-1.0, 0.5, -3.0]))
        found = log_ratio(eps, *flow(eps), prior_sd=2.0).mean()
    truth = kl_divergence(Normal(flow.mean, floored(flow.log_sd).exp()), Normal(0.0, 2.0)).sum()
    assert found.item() == pytest.approx(truth.item(), abs=0.02)


def test_if_the_flow_equals_the_prior_the_log_ratio_is_zero():
    flow = Flow(6, 2, 4, 0.0, math.log(0.7 - FLOOR))
    with torch.no_grad():
        for coupling in flow.couplings:
            coupling.leave.weight.zero_()
    eps = torch.randn(50, 6, generator=stream(3))
    ratio = log_ratio(eps, *flow(eps), prior_sd=0.7)
    torch.testing.assert_close(ratio, torch.zeros(50), atol=1e-5, rtol=0)


def test_importance_weighting_by_the_flow_gives_the_prior_mass_one():
    # E_q[p / q] = 1 for any q that covers p: detects wrong constants or determinants.
    flow = bent(seeded(lambda: Flow(3, 2, 6, 0.2, 0.3)), 0.3)
    eps = torch.randn(200_000, 3, generator=stream(4))
    with torch.no_grad():
        scales, log_det = flow(eps)
        ratio = log_ratio(eps, scales, log_det, prior_sd=0.8)
    assert scales.std(0).sub(scales.std()).abs().max() > 0.05  # not only the affine step
    assert ratio.neg().exp().mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3, 3)])
def test_every_filter_has_the_norm_of_its_scale_and_the_direction_of_v(shape):
    direction = torch.randn(shape, generator=stream(5))
    scales = torch.randn(6, 4, generator=stream(6))
    weights = normalised(direction, scales)
    torch.testing.assert_close(weights.flatten(2).norm(dim=2), scales.abs())
    along = (weights.flatten(2) * direction.flatten(1)).sum(2) / direction.flatten(1).norm(dim=1)
    torch.testing.assert_close(along, scales)


@pytest.mark.parametrize("network", [None, small_regression()], ids=["convolutions", "regression"])
def test_drawn_networks_share_directions_and_biases_and_have_the_flows_norms(network):
    method = started(network, log_sd=-1.0)
    weights = method.draw([stream(0, m) for m in range(5)])
    scales, _ = method.flow(torch.cat([method._noise(1, stream(0, m)) for m in range(5)]))
    norms = [w.flatten(2).norm(dim=2) for name, w in weights.items() if name.endswith("weight")]
    torch.testing.assert_close(torch.cat(norms, 1), scales.abs().detach())
    for name, w in weights.items():
        if name.endswith("bias"):
            assert torch.equal(w, method.points[name].detach().expand(5, -1))


def test_networks_start_with_the_configured_norm_and_spread():
    method = started(log_sd=-2.0, norm=1.2)
    scales, _ = method.flow(method._noise(4000, stream(0)))
    torch.testing.assert_close(scales.mean(0), torch.full((7,), 1.2), atol=0.02, rtol=0)
    spread = math.exp(-2.0) + FLOOR
    torch.testing.assert_close(scales.std(0), torch.full((7,), spread), atol=0.01, rtol=0)


def test_the_length_of_v_changes_nothing_and_gets_no_gradient():
    method = started()
    data = stripes(32)
    scales, _ = method.flow(method._noise(4, stream(0)))
    weights = method.weights(scales)
    method.engine.losses(weights, data.images, data.labels, cross_entropy).mean().backward()
    for name in method.units:
        v = method.points[name]
        along = (v.grad * v).flatten(1).sum(1).abs() / (v.grad * v).flatten(1).abs().sum(1)
        assert along.max() < 1e-4, name
        with torch.no_grad():
            v *= 3
    for name, w in method.weights(scales).items():
        torch.testing.assert_close(w, weights[name])


def test_gradients_of_loss_and_divergence_reach_every_part():
    method = started(couplings=3, log_sd=-1.0)
    bent(method.flow, 0.1)
    data = stripes(32)
    eps = method._noise(4, stream(0))
    scales, log_det = method.flow(eps)
    loss = method.engine.losses(method.weights(scales), data.images, data.labels, cross_entropy).mean()
    for wanted, parts in {
        loss: [*method.points.values(), *method.flow.parameters()],
        log_ratio(eps, scales, log_det, 1.0).mean(): list(method.flow.parameters()),
    }.items():
        for gradient in torch.autograd.grad(wanted, parts, retain_graph=True):
            assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_scalings_in_the_flow_are_bounded_below():
    exponent = torch.tensor([-1e4, 0.0, 50.0]).requires_grad_()
    value = floored(exponent)
    torch.testing.assert_close(value[:2].exp(), torch.tensor([FLOOR, 1 + FLOOR]))
    value.sum().backward()
    assert value.isfinite().all() and exponent.grad is not None and exponent.grad.isfinite().all()


def test_the_flow_stays_finite_at_a_very_high_learning_rate():
    flow = seeded(lambda: Flow(100, 4, 200, 1.4, -2.0))
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.1)
    for step in range(20):
        eps = torch.randn(4, 100, generator=stream(step))
        scales, log_det = flow(eps)
        optimiser.zero_grad()
        log_ratio(eps, scales, log_det, 1.0).mean().backward()
        optimiser.step()
        assert scales.isfinite().all() and log_det.isfinite().all()
