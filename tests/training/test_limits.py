"""The memory that a fit needs is compared with the available memory before training."""

from __future__ import annotations

import math
import resource
import sys
import time

import pytest
import torch
from small import line, small_method, small_network, small_regression, stripes
from torch import nn

from bench import registry, training
from bench.errors import BenchError
from bench.system import machine
from bench.training import FitSettings, cross_entropy, estimate, limits

ROOM = 300e6
BEYOND = [
    ("standard_ensemble", "networks", 10**6),
    ("standard_ensemble", "networks", 10**24),
    ("deep_ensemble", "networks", 10**9),
    ("hypergan", "hidden", 200_000),
    ("hypergan", "hidden", 4_000),  # each tensor fits, all of them with gradients do not
    ("mnf", "hidden", 10**9),
    ("bayes_by_hypernet", "hidden", 300_000),
    ("bayesian_hypernetwork", "hidden", 10**8),
    ("apd", "latent", 10**8),
]


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(limits, "room", lambda device: ROOM)


def fit(method):
    return training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0, loss=cross_entropy))


@pytest.mark.parametrize(("name", "setting", "value"), BEYOND)
def test_a_setting_that_needs_too_much_memory_is_named_before_training(small_machine, name, setting, value):
    begun = time.perf_counter()
    with pytest.raises(BenchError, match=rf"expected to train within .*--set <method>\.{setting}={value}"):
        fit(small_method(name, **{setting: value}))
    assert time.perf_counter() - begun < 5


def peak():
    """The most memory that this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def start(method):
    splits = (stripes(96), stripes(30, 1))
    estimate.check_start(
        type(method), method.network, method.config, splits, cross_entropy, torch.device("cpu")
    )


@pytest.mark.parametrize(("name", "setting", "value"), [*BEYOND, ("mnf", "hidden", 200_000)])
def test_such_a_setting_is_refused_in_the_same_words_without_making_anything(
    small_machine, name, setting, value
):
    method = small_method(name, **{setting: value})
    before = torch.get_rng_state()
    held = peak()
    with pytest.raises(BenchError, match=rf"expected to train within .*--set <method>\.{setting}={value}"):
        start(method)
    assert peak() - held < 50e6
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", registry.methods())
def test_a_method_that_fits_is_not_refused_and_trains_as_if_it_had_not_been_asked(name):
    weights = []
    for asked in (False, True):
        method = small_method(name)
        if asked:
            start(method)
        fit(method)
        weights.append(method.sample(2, 0).vectors())
    assert torch.equal(*weights)


def test_a_method_whose_start_needs_values_is_left_to_its_fit(small_machine):
    class Picky(registry.method("mc_dropout").load()):
        def start(self, train, val, *, loss, rng):
            if float(train.images.sum() + torch.ones(2).sum()) > 0:
                super().start(train, val, loss=loss, rng=rng)

    start(Picky(small_network(), small_method("mc_dropout").config))


def test_memory_of_many_small_tensors_is_added_up(small_machine):
    kept = []
    with pytest.raises(BenchError, match=r"0\.3 GB are taken"), limits.Guard("X", None):
        kept += [torch.zeros(1000, 1000) for _ in range(100)]
    with limits.Guard("X", None):  # freed each time
        for _ in range(300):
            torch.zeros(1000, 1000) + 1


def test_memory_of_gradients_and_moments_is_counted_before_training(small_machine):
    part = nn.ParameterList([nn.Parameter(torch.empty(7_500, 3_000))])  # 90 MB
    limits.check_training("X", None, {"part": part}, torch.device("cpu"))
    plain, adam = torch.optim.SGD(part.parameters()), torch.optim.Adam(part.parameters())
    limits.check_training("X", None, {"part": part, "optimiser": plain}, torch.device("cpu"))
    with pytest.raises(BenchError, match=r"weights, gradients and optimiser need 0\.4 GB"):
        limits.check_training("X", None, {"part": part, "optimiser": adam}, torch.device("cpu"))


def test_a_failed_allocation_is_explained_and_other_errors_propagate():
    said = "expected to train within the memory that there is"
    with pytest.raises(BenchError, match=said), limits.explained("X", None):
        torch.empty(2**60)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), limits.explained("X", None):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_estimating_memory_changes_no_random_number_and_no_gradient():
    def made():
        generator = torch.Generator().manual_seed(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            layer = nn.Linear(50, 60)
        out = layer(torch.randn(40, 50, generator=generator)).square().mean()
        out.backward()
        return [layer.weight, layer.bias, layer.weight.grad, torch.rand(2000, generator=generator)]

    plain = made()
    with limits.Guard("X", None):
        counted = made()
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))


def test_a_regression_fits_in_this_machine():
    training.fit(small_method("deep_ensemble", small_regression()), line(20), line(10), FitSettings(seed=0))


def test_available_memory_is_that_of_the_process_plus_free_memory():
    found = machine.memory_bytes()
    assert found is None or 2**26 < found < 2**50
    assert limits.room(torch.device("meta")) == math.inf


def test_a_control_group_s_limit_counts(monkeypatch, tmp_path):
    group = tmp_path / "a"
    group.mkdir()
    for name, text in (
        ("memory.max", "5000\n"), ("memory.current", "3000\n"), ("memory.stat", "inactive_file 500\n"),
    ):  # fmt: skip
        (group / name).write_text(text)
    (tmp_path / "cgroup").write_text("0::/a\n")
    read = machine.Path.read_text
    monkeypatch.setattr(machine, "_GROUPS", ((str(tmp_path), *machine._GROUPS[0][1:]),))
    monkeypatch.setattr(
        machine.Path,
        "read_text",
        lambda path, *a: read(tmp_path / "cgroup" if str(path) == "/proc/self/cgroup" else path, *a),
    )
    assert machine._group_free() == [2500]
