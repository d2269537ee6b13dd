"""MNF's mathematics: flows, divergence, and the layer operation against explicit weights."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from small import line, small_method, small_regression, stripes
from torch import nn
from torch.distributions import Normal, kl_divergence

from bench.methods.mnf import Flow, MaskedStep, MNFConfig, MNFConvolution, MNFLinear, PlanarStep
from bench.rng import Streams, stream
from bench.training import cross_entropy, mse

CONFIG = MNFConfig(hidden=7, z_mean=1.0)


def seeded(build):
    with Streams(0).initialise():
        return build()


def linear(inputs=5, outputs=3, **changes):
    return seeded(lambda: MNFLinear(nn.Linear(inputs, outputs), dataclasses.replace(CONFIG, **changes)))


def convolution(log_sd=-1.0, max_sd=0.5, **geometry):
    config = dataclasses.replace(CONFIG, log_sd=log_sd, max_sd=max_sd)
    return seeded(lambda: MNFConvolution(nn.Conv2d(2, 4, 3, **geometry), config))


def started(network=None, data=None, loss=cross_entropy, **changes):
    method = small_method("mnf", network, **changes)
    train = data or stripes(96)
    method.start(train, train, loss=loss, rng=Streams(0, "fit"))
    return method


def jacobian_log_det(function, z):
    return torch.linalg.slogdet(torch.autograd.functional.jacobian(function, z))[1]


@pytest.mark.parametrize("width", [1, 6])
def test_the_log_determinant_is_that_of_autograds_jacobian(width):
    flow = seeded(lambda: Flow(width, 9, 3)).double()
    assert isinstance(flow.steps[0], PlanarStep if width == 1 else MaskedStep)
    z = torch.randn(5, width, generator=stream(1), dtype=torch.float64)
    masks = flow.masks(5, stream(2)).double()
    _, log_det = flow(z, masks)
    for s in range(5):
        found = jacobian_log_det(lambda v, s=s: flow(v[None], masks[:, s : s + 1])[0][0], z[s])
        torch.testing.assert_close(log_det[s], found)


def test_a_step_keeps_masked_entries_and_gates_the_rest():
    step = seeded(lambda: MaskedStep(3, 4))
    with torch.no_grad():
        step.leave.weight.zero_()
        step.leave.bias[:3] = torch.tensor([5.0, 6.0, 7.0])
    z, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    moved, log_det = step(z, mask)
    g = 1 / (1 + math.exp(-2))  # the gate's bias at the start
    assert moved[0].tolist() == pytest.approx([1, 2 * g + 6 * (1 - g), 3 * g + 7 * (1 - g)])
    assert log_det.item() == pytest.approx(2 * math.log(g))


def test_masks_are_resampled_and_balanced():
    masks = seeded(lambda: Flow(50, 4, 2)).masks(400, stream(0))
    assert set(masks.unique().tolist()) == {0, 1}
    assert masks.mean().item() == pytest.approx(0.5, abs=0.02)
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0, 0], masks[0, 1])


def closed_form(layer, z):
    """KL of weights and biases from torch.distributions, for one z [1, d]."""
    total = torch.zeros(())
    scale = z.view(-1, 1, 1, 1) if isinstance(layer, MNFConvolution) else z
    bias_scale = z.flatten() if isinstance(layer, MNFConvolution) else 1
    for mean, part in ((layer.weight.mean * scale, layer.weight), (layer.bias.mean * bias_scale, layer.bias)):
        posterior = Normal(mean, part.log_sd.exp())
        total = total + kl_divergence(posterior, Normal(0.0, 1.0)).sum()
    return total


@pytest.mark.parametrize("build", [linear, convolution])
def test_without_flows_the_divergence_is_the_closed_form_of_gaussians(build):
    layer = build(log_sd=-1.0)
    layer.q_flow, layer.r_flow = Flow(layer.width, 7, 0), Flow(layer.width, 7, 0)
    with torch.no_grad():
        layer.bias.mean.normal_(generator=stream(5))
        for r in (layer.r_mean, layer.r_log_precision):
            r.zero_()  # r(z | W) = N(0, 1)
    z = torch.randn(1, layer.width, generator=stream(4))
    found = layer.kl(z, torch.zeros(()), stream(0))
    log_q = -(0.5 * math.log(2 * math.pi) + 0.5 + math.log(CONFIG.z_sd)) * layer.width
    log_r = Normal(0.0, 1.0).log_prob(z).sum()
    torch.testing.assert_close(found, closed_form(layer, z) + log_q - log_r)


def test_on_average_the_terms_of_z_are_a_divergence_between_gaussians():
    layer = linear()
    layer.q_flow, layer.r_flow = Flow(5, 7, 0), Flow(5, 7, 0)
    with torch.no_grad():
        layer.r_mean.zero_()
        layer.r_log_precision.zero_()
        layer.weight.mean.zero_()
    rng = stream(0)
    z, log_det = layer.sample_z(600, rng)
    zero = closed_form(layer, torch.ones(1, 5))
    terms = torch.stack([layer.kl(v[None], d, rng) - zero for v, d in zip(z, log_det, strict=True)])
    expected = kl_divergence(Normal(layer.z_mean, layer.z_log_sd.exp()), Normal(0.0, 1.0)).sum()
    assert abs(terms.mean() - expected) < 4 * terms.std() / math.sqrt(600)


def test_the_flows_determinant_enters_the_divergence_with_its_sign():
    layer = linear()
    z = torch.ones(1, 5)
    low, high = (layer.kl(z, torch.tensor(d), stream(0)) for d in (0.0, 1.5))
    assert (low - high).item() == pytest.approx(1.5, abs=1e-4)  # log q = log q0 - log |det|


def test_rs_log_probability_by_hand():
    layer = linear(2, 1, flows_r=1)
    step = layer.r_flow.steps[0]
    with torch.no_grad():
        layer.weight.mean.copy_(torch.tensor([[0.5, -1.0]]))
        layer.weight.log_sd.fill_(-40.0)
        layer.r_project.copy_(torch.tensor([1.0, 2.0]))
        layer.r_mean.copy_(torch.tensor([0.3, 0.4]))
        layer.r_log_precision.copy_(torch.tensor([-0.2, 0.6]))
        step.leave.weight.zero_()
        step.leave.bias.copy_(torch.tensor([1.0, -1.0, -2.0, -2.0]))
    z = torch.tensor([[2.0, 3.0]])
    hidden = layer.hidden_unit(layer.posteriors(z), stream(0))
    h = math.tanh(2 * 0.5 * 1 + 3 * -1.0 * 2)
    assert hidden.item() == pytest.approx(h)
    g = 1 / (1 + math.exp(-2))
    moved = (2.0, 3 * g - (1 - g))  # the mask keeps the first, the second moves towards -1
    expected = math.log(g)
    for value, b1, b2 in zip(moved, (0.3, 0.4), (-0.2, 0.6), strict=True):
        sd = math.exp(-b2 * h / 2)
        expected += -0.5 * ((value - b1 * h) / sd) ** 2 - math.log(sd) - 0.5 * math.log(2 * math.pi)
    found = layer.log_r(z, hidden, torch.tensor([[[1.0, 0.0]]]))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_rs_hidden_unit_is_linear_in_a_convolution_and_includes_the_bias():
    layer = convolution(log_sd=-40.0)
    with torch.no_grad():
        layer.bias.log_sd.fill_(-40.0)
        layer.bias.mean.copy_(torch.tensor([10.0, 20.0, 30.0, 40.0]))
    z = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    c = layer.r_project.detach()
    weights = (layer.weight.mean * z.view(4, 1, 1, 1)).flatten(1)  # [O, C kh kw]
    expected = (c @ weights).mean() + (c * z[0] * layer.bias.mean).sum()
    torch.testing.assert_close(layer.hidden_unit(layer.posteriors(z), stream(0)), expected)


def sampled_outputs(layer, x, z, count):
    """Outputs [count, B, ...] of sampled weights, each with its own eps, for one z [1, d]."""
    rng = stream(8)
    (weight, log_sd), (bias, bias_log_sd) = layer.posteriors(z).values()
    outputs = []
    for _ in range(count):
        w = weight[0] + log_sd.exp().clamp(max=layer.max_sd) * torch.randn(log_sd.shape, generator=rng)
        b = bias[0] + bias_log_sd.exp() * torch.randn(bias_log_sd.shape, generator=rng)
        outputs.append(F.linear(x, w, b) if w.dim() == 2 else F.conv2d(x, w, b, layer.stride, layer.padding))
    return torch.stack(outputs)


@pytest.mark.parametrize(
    ("layer", "first"),
    [
        (linear(log_sd=-1.0), True),
        (convolution(), True),
        (convolution(), False),
        (convolution(stride=2), True),
        (convolution(padding=1), True),
        (linear(log_sd=0.5), True),
        (convolution(log_sd=0.5, max_sd=0.3), False),
    ],
    ids=["linear", "first", "inner", "stride", "padding", "linear-clipped", "clipped"],
)
@torch.no_grad()
def test_local_reparameterisation_has_the_moments_of_sampled_weights(layer, first):
    layer.bias.mean.normal_(generator=stream(5))
    layer.bias.log_sd.fill_(-1.0)
    x = torch.randn((2, 5) if isinstance(layer, MNFLinear) else (2, 2, 6, 6), generator=stream(6))
    z = torch.linspace(-1, 2, layer.width)[None]
    count = 2000
    explicit = sampled_outputs(layer, x, z, count)
    # A first layer, recognised by its input without gradient, takes another path.
    many = x.repeat(count, *[1] * (x.dim() - 1)).requires_grad_(not first)
    local = layer(many, z.expand(len(many), -1), stream(7)).unflatten(0, (count, 2))
    assert local.shape == explicit.shape
    error = explicit.std(0) * math.sqrt(2 / count)
    assert ((local.mean(0) - explicit.mean(0)).abs() < 5 * error).all()
    ratio = local.var(0) / explicit.var(0)
    assert (ratio.log().abs() < 5 * 2 / math.sqrt(count)).all()


def test_every_image_has_its_own_z():
    layer = linear(log_sd=-40.0)
    with torch.no_grad():
        layer.bias.log_sd.fill_(-40.0)
    x, z = torch.ones(2, 5), torch.stack([torch.ones(5), torch.arange(5.0)])
    expected = (x * z) @ layer.weight.mean.T
    torch.testing.assert_close(layer(x, z, stream(0)), expected)


def test_the_forward_pass_clips_sd_and_the_divergence_does_not():
    small, large = linear(log_sd=math.log(0.5)), linear(log_sd=1.0)
    x, z = torch.ones(4, 5), torch.ones(4, 5)
    assert torch.equal(small(x, z, stream(0)), large(x, z, stream(0)))
    for layer in (small, large):
        nn.init.zeros_(layer.r_project)  # r's noise depends on sigma too
    parts = [layer.kl(z[:1], torch.zeros(()), stream(0)) for layer in (small, large)]
    wider = 0.5 * (math.e**2 - 0.25) - (1 - math.log(0.5))
    assert (parts[1] - parts[0]).item() == pytest.approx(15 * wider, rel=1e-4)


def test_drawn_weights_are_clipped_and_centred_on_z_times_the_mean():
    method = started()
    layer = method.layers["linear"]
    with torch.no_grad():
        layer.weight.log_sd.fill_(1.0)
        layer.z_log_sd.fill_(-40.0)
        for step in layer.q_flow.steps:
            step.leave.bias[layer.width :] = -40.0  # open gates: the flow changes nothing
            step.leave.weight.zero_()
    drawn = method.sample(400, seed=0).weights["linear.weight"]
    assert drawn.std(0).mean().item() == pytest.approx(0.5, rel=0.02)
    centre = layer.weight.mean * layer.z_mean
    assert ((drawn.mean(0) - centre).abs() < 5 * 0.5 / math.sqrt(400)).all()


def test_a_drawn_convolution_scales_weights_and_bias_of_a_channel_alike():
    method = started()
    layer = method.layers["conv"]
    with torch.no_grad():
        layer.bias.mean.fill_(1.0)
        for part in (layer.weight, layer.bias):
            part.log_sd.fill_(-40.0)
    weights = method.sample(3, seed=0).weights
    z = weights["conv.bias"]
    assert z.std(0).min() > 0.01
    expected = layer.weight.mean * z.view(3, 4, 1, 1, 1)
    torch.testing.assert_close(weights["conv.weight"], expected)


def test_the_divergence_is_divided_by_the_number_of_training_images():
    method = started(batch=8)
    assert method.kl_weight(0) == method.kl_weight(1000) == 1 / 96
    annealed = started(batch=8, anneal_kl=2)
    assert annealed.kl_weight(0) == 0
    assert annealed.kl_weight(12) == pytest.approx(0.5 / 96)  # 12 steps an epoch
    assert annealed.kl_weight(24) == annealed.kl_weight(500) == 1 / 96


def test_a_step_descends_the_loss_plus_the_divergence_by_n():
    method = started()
    x, y = stripes(8).images, stripes(8).labels
    loss, kl, *_ = method.terms(x, y, stream(0))
    whole = torch.autograd.grad(loss + method.kl_weight(0) * kl, method.layers["conv"].weight.log_sd)[0]
    # Sigma is tiny at the start, so its gradient is only the entropy's: -1 per weight, divided by N.
    torch.testing.assert_close(whole, torch.full_like(whole, -1 / 96), rtol=0.05, atol=0)


def test_a_layer_with_one_input_and_layers_without_bias_train():
    net = small_regression()
    net.output = nn.Linear(10, 1, bias=False)
    method = started(net, line(64), mse)
    assert isinstance(method.layers["hidden"].q_flow.steps[0], PlanarStep)
    losses = method.round(0)
    assert all(math.isfinite(v) for v in losses.values())
    assert set(method.sample(2, seed=0).weights) == {"hidden.weight", "hidden.bias", "output.weight"}


def test_a_network_that_the_engine_cannot_walk_is_refused():
    with pytest.raises(ValueError, match="expected a Sequential of convolution"):
        started(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Tanh()))
