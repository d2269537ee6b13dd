"""MC dropout's mathematics: folded masks equal explicit ones and have the correct moments."""

from __future__ import annotations

import pytest
import torch
from small import small_method, stripes

from bench import networks
from bench.rng import Streams, stream
from bench.training import cross_entropy


def started(network=None, **changes):
    method = small_method("mc_dropout", network, **changes)
    method.start(stripes(96), stripes(30, 1), loss=cross_entropy, rng=Streams(0, "fit"))
    return method


def explicit(network, x, masks):
    """The network's modules, with a mask before each of the named layers."""
    for name, module in network.named_children():
        if name in masks:
            x = x * masks[name].view(1, -1, *[1] * (x.dim() - 2))
        x = module(x)
    return x


@pytest.mark.parametrize("network", [networks.mnist(), networks.cifar(5)], ids=["mnist", "cifar"])
def test_a_folded_mask_is_an_explicit_mask_before_every_layer_but_the_first(network):
    method = started(network)
    network.load_state_dict({name: w.detach() for name, w in method.weights.items()})
    ensemble = method.sample(3, seed=0)
    channels = network.conv1.in_channels
    x = torch.rand(6, channels, *((28, 28) if channels == 1 else (32, 32)), generator=stream(1))
    logits = ensemble(x)
    masked = [n for n, m in network.named_children() if list(m.parameters())][1:]
    for m in range(3):
        masks = {}
        for layer in masked:
            drawn = ensemble.weights[f"{layer}.weight"][m].transpose(0, 1).flatten(1)
            trained = method.weights[f"{layer}.weight"].transpose(0, 1).flatten(1)
            masks[layer] = 2.0 * (drawn.abs().sum(1) > 0)
            assert torch.equal(drawn, trained * masks[layer].unsqueeze(1))
        torch.testing.assert_close(logits[m], explicit(network, x, masks), rtol=1e-4, atol=1e-5)
    assert torch.equal(ensemble.weights["conv1.weight"][0], method.weights["conv1.weight"])


def test_training_without_dropout_is_that_of_the_plain_network():
    method = started(p=0.0)
    x = torch.rand(5, 1, 8, 8, generator=stream(2))
    network = method.network
    network.load_state_dict({name: w.detach() for name, w in method.weights.items()})
    torch.testing.assert_close(method.logits(x, method.masks(len(x), stream(3))), network(x))


def test_training_masks_differ_by_image_and_drop_whole_channels():
    network = networks.mnist()
    method = started(network)
    seen, single = {}, method.engine.single

    def watched(weights, x, before):
        return single(weights, x, before=lambda step, h: seen.setdefault(step.name, before(step, h)))

    method.engine.single = watched
    method.logits(torch.rand(200, 1, 28, 28, generator=stream(4)), method.masks(200, stream(5)))
    dropped = (seen["conv2"] == 0).all(-1).all(-1)  # [B, channels]
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert len({tuple(row.tolist()) for row in dropped}) > 190


@pytest.mark.parametrize("name, p", [("mc_dropout", 0.5), ("mc_dropout-p01", 0.1), ("mc_dropout-p02", 0.2)])
def test_masks_keep_the_mean_and_have_the_variance_of_dropout(name, p):
    method = small_method(name)
    assert method.config.p == p
    mask = method._mask(torch.Size([200_000]), stream(6))
    assert mask.mean().item() == pytest.approx(1.0, abs=0.01)
    assert mask.var().item() == pytest.approx(p / (1 - p), rel=0.03)
