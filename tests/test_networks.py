"""Target networks: one function of an image each, with PyTorch's initial values."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict

import pytest
import torch
from torch import nn

from bench import networks, registry
from bench.engine import Engine
from bench.rng import stream
from bench.running import versions
from bench.system.code import FIT, FIT_EXCLUDED, UNCHANGED, reached

BUILT_IN = (networks.mnist, networks.cifar, networks.toy)
FIXED = (
    nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.LayerNorm((4, 3, 3)), nn.LayerNorm(4, bias=False), nn.RMSNorm(4),
    nn.InstanceNorm1d(4, affine=True), nn.InstanceNorm2d(4, affine=True), nn.PReLU(), nn.PReLU(4),
)  # fmt: skip
BATCH = (
    nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False),
    nn.BatchNorm3d(4, affine=False, track_running_stats=False), nn.SyncBatchNorm(4),
)  # fmt: skip


def with_layer(layer):
    return nn.Sequential(OrderedDict(first=nn.Conv2d(1, 4, 3), layer=layer, last=nn.Conv2d(4, 2, 3)))


def uniform(shapes, rng):
    """Initial values before some layers had their own: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for all."""
    fan_in = {n.rpartition(".")[0]: s[1:].numel() for n, s in shapes.items() if n.endswith("weight")}
    values = {}
    for name, shape in shapes.items():
        bound = 1 / math.sqrt(fan_in[name.rpartition(".")[0]])
        values[name] = (torch.rand(shape, generator=rng) * 2 - 1) * bound
    return values


@pytest.mark.parametrize("network", BUILT_IN)
def test_the_suites_networks_start_as_they_always_did_bit_for_bit(network):
    shapes = networks.shapes(network())
    found, expected = networks.initial(shapes, stream(0)), uniform(shapes, stream(0))
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layer", FIXED, ids=str)
def test_normalisation_layers_start_as_pytorchs_and_the_others_as_without_them(layer):
    network = with_layer(layer)
    shapes = networks.shapes(network)
    found, drawn = networks.initial(shapes, stream(0)), uniform(shapes, stream(0))
    for name, parameter in network.named_parameters():
        expected = parameter.detach() if name.startswith("layer") else drawn[name]
        assert torch.equal(found[name], expected), name


@pytest.mark.parametrize("layer", BATCH, ids=str)
def test_layers_that_read_the_whole_batch_are_refused_by_name(layer):
    with pytest.raises(
        ValueError, match=r"layer: expected layers whose output .* use GroupNorm, LayerNorm or"
    ):
        Engine(with_layer(layer))


@pytest.mark.parametrize("layer", [nn.Dropout(0.3), nn.Dropout2d(), nn.AlphaDropout(), nn.RReLU()], ids=str)
def test_layers_that_draw_random_numbers_are_refused_by_name(layer):
    with pytest.raises(ValueError, match=r"layer\.inner: expected layers without random numbers"):
        Engine(with_layer(nn.Sequential(OrderedDict(inner=layer))))


def test_instance_normalisation_is_one_function_and_running_statistics_are_none():
    Engine(with_layer(nn.InstanceNorm2d(4, affine=True)))
    with pytest.raises(ValueError, match="without buffers"):
        Engine(with_layer(nn.InstanceNorm2d(4, track_running_stats=True)))


def test_parameters_of_other_names_are_refused_in_words():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(4))

    with pytest.raises(ValueError, match=r"<layer>.weight and <layer>.bias, found \['layer.gamma'\]"):
        networks.initial(networks.shapes(with_layer(Scaled())), stream(0))


def other_network():
    return networks.mnist()


def test_changes_that_no_fit_of_these_networks_shows_keep_its_version_and_no_other():
    now = reached((FIT, "bench.networks:initial"), FIT_EXCLUDED)
    assert {name: now[name] for name in UNCHANGED} == {name: known for name, (known, _) in UNCHANGED.items()}
    entry, task = registry.method("mc_dropout"), registry.task("digits")
    before = versions.fit_definitions(entry, task)
    assert {n: before[n] for n in UNCHANGED if n in before} == {n: b for n, (_, b) in UNCHANGED.items() if b}
    after = versions.fit_definitions(entry, dataclasses.replace(task, network=other_network))
    assert {name: after[name] for name in UNCHANGED} == {
        name: known for name, (known, _) in UNCHANGED.items()
    }
