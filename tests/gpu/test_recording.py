"""Recorded steps: replayed, they end in the weights of steps that run as they are; the host never waits."""

from __future__ import annotations

import warnings

import pytest
import torch
from pretended_gpu import DeviceFault, pretended_gpu
from small import small_method, stripes
from torch import nn

from bench import registry, training
from bench.engine import Recorded, work
from bench.rng import Streams, stream
from bench.training import (
    FitSettings,
    Method,
    Minibatches,
    adam,
    anneal,
    cross_entropy,
    means,
    minimise,
    set_rate,
)

GPU, CPU = torch.device("cuda"), torch.device("cpu")
# Of this suite, whose steps are all recorded; variants share their steps.
METHODS = sorted({m.base for m in registry.methods().values() if m.module.startswith("bench.")})


def trained(name, allowed, monkeypatch, **changes):
    """Weights after a few rounds, the operations they took, and what was counted."""
    monkeypatch.setattr(Recorded, "allowed", allowed)
    with pretended_gpu() as ledger:
        method = small_method(name, blocks=2, block_steps=6, **changes)
        fit = training.fit(
            method, stripes(96), stripes(30, seed=1), FitSettings(seed=3, loss=cross_entropy, device=GPU)
        )
        return method.sample(4, seed=0).vectors().cpu(), fit.cost.flop, ledger


@pytest.mark.parametrize("name", METHODS)
def test_a_replayed_fit_ends_in_the_weights_of_one_that_runs_as_it_is(name, monkeypatch):
    plain, flop, without = trained(name, False, monkeypatch)
    replayed, counted, ledger = trained(name, True, monkeypatch)
    assert torch.equal(replayed, plain)
    assert counted == flop > 0
    assert without.recorded == without.replayed == 0
    assert ledger.recorded >= 1 and ledger.replayed >= 2


@pytest.mark.parametrize("name", METHODS)
def test_a_round_waits_as_often_however_many_steps_it_has(name):
    with pretended_gpu() as ledger:
        method = small_method(name)
        method.device = GPU
        data = stripes(96).to(GPU)
        method.start(data, data, loss=cross_entropy, rng=Streams(0, "fit"))
        method.round(0)
        method.round(1)
        ledger.waits.clear()
        method.round(2)
        # Tables of rows to the device, losses back; SGLD's first and last network beside them.
        assert ledger.waits.total() <= 8, ledger.waits


@pytest.mark.parametrize("name", ["hypergan", "sgld"])
def test_rounds_of_more_rows_than_a_table_holds_are_the_same(name, monkeypatch):
    whole, flop, _ = trained(name, True, monkeypatch)
    monkeypatch.setattr("bench.engine.recording.TABLE_ROWS", 2)
    parts, counted, ledger = trained(name, True, monkeypatch)
    assert torch.equal(parts, whole) and counted == flop and ledger.replayed >= 2


class Walk:
    """A step with a weight, noise of the row and of a generator, and a rate."""

    def __init__(self, device):
        self.x = torch.zeros(3, device=device)
        self.noise = torch.Generator(device)
        self.recorded = Recorded(device, [self.noise])

    def step(self, row):
        self.x += row["rate"] * (row["ahead"] + torch.randn(3, generator=self.noise, device=self.x.device))
        return self.x.sum(), self.x.square().sum()

    def round(self, i, steps=6):
        self.noise.manual_seed(i)
        rng = stream(i)
        rows = ({"ahead": torch.randn(3, generator=rng), "rate": 1 / (s + 1)} for s in range(steps))
        return self.recorded.run(self.step, rows)


def test_rows_and_generators_give_the_numbers_of_a_cpu():
    here = Walk(CPU)
    expected = [here.round(i) for i in range(3)]
    with pretended_gpu() as ledger:
        there = Walk(GPU)
        for i, losses in enumerate(expected):
            assert torch.equal(there.round(i), losses)
        assert torch.equal(there.x.cpu(), here.x)
        assert (ledger.recorded, ledger.replayed) == (1, 3 * 6 - 4)


def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_says_why():
    walk = Walk(CPU)
    expected = [walk.round(i) for i in range(3)]

    class Asks(Walk):
        def step(self, row):
            work.add(1)
            row["rate"].item()
            return super().step(row)

    with pretended_gpu() as ledger, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asks, before = Asks(GPU), work.counted()
        assert all(torch.equal(asks.round(i), losses) for i, losses in enumerate(expected))
        assert work.counted() - before == 3 * 6  # steps, without the recording that failed
        assert ledger.recorded == 0
    (warning,) = caught
    assert "could not be recorded and runs as it is" in str(warning.message)
    assert "not permitted when stream is capturing: aten._local_scalar_dense" in str(warning.message)


def test_the_first_cause_is_named(monkeypatch):
    class Breaks:
        def __init__(self, *_): ...

        def warm_up(self, step):
            step()

        def record(self, step):
            try:
                raise DeviceFault("the step waits")
            finally:
                raise RuntimeError("capture invalidated")

    with pretended_gpu():
        monkeypatch.setattr("bench.engine.recording.CUDAGraphRecorder", Breaks)
        with pytest.warns(UserWarning, match="DeviceFault: the step waits"):
            Walk(GPU).round(0)


def test_an_optimiser_on_a_gpu_keeps_its_rate_there_and_a_checkpoint_holds_numbers(tmp_path):
    def fitted(device):
        method = Plain(None, None)
        method.device = device
        method.start(stripes(96).to(device), None, loss=cross_entropy, rng=Streams(0))
        method.round(0)
        return method

    here = fitted(CPU)
    assert here.optimiser.param_groups[0]["capturable"] is False
    with pretended_gpu() as ledger:
        there = fitted(GPU)
        rate = there.optimiser.param_groups[0]["lr"]
        assert rate.is_cuda and there.optimiser.param_groups[0]["capturable"] is True
        there.save(tmp_path / "fit", {})
        set_rate(there.optimiser, 0.5)
        about = there.load(tmp_path / "fit")
        assert about["rest"]["optimiser"][0]["lr"] == pytest.approx(here.optimiser.param_groups[0]["lr"])
        assert there.optimiser.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(0.01)
        ledger.waits.clear()
        set_rate(there.optimiser, rate / 2)
        anneal(there.optimiser, 0.3, 0, 10)
        assert not ledger.waits
        assert rate.item() == pytest.approx(0.3)
    here.load(tmp_path / "fit")  # of a GPU, on a CPU
    assert here.optimiser.param_groups[0]["lr"] == pytest.approx(0.01)
    assert here.optimiser.param_groups[0]["capturable"] is False


class Plain(Method):
    """A method of somebody else's: a loop over batches, nothing recorded."""

    def __init__(self, network, config):
        from small import small_network

        super().__init__(network or small_network(), config)

    def start(self, train, val, *, loss, rng):
        self.rng, self.loss = rng, loss
        with rng.initialise():
            self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.keep("model", self.model)
        self.optimiser = adam(self.model.parameters(), 0.01)
        self.keep("optimiser", self.optimiser)
        self.batches = Minibatches(train, 16)

    def rounds(self):
        return 2

    def round(self, i):
        total = 0.0
        for x, y in self.batches.epoch(self.rng("order", i), own=False):
            anneal(self.optimiser, 0.01, 0, 10)
            loss = self.loss(self.model(x)[None], y).mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.item()
        return {"loss": total}

    def draw(self, rngs):
        raise NotImplementedError


def test_a_method_that_records_nothing_trains_as_before():
    losses = []
    for device in (CPU, GPU):
        with pretended_gpu():
            method = Plain(None, None)
            method.device = device
            method.start(stripes(96).to(device), None, loss=cross_entropy, rng=Streams(0))
            losses.append([method.round(i)["loss"] for i in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0][1] < losses[0][0]


def test_means_add_in_order():
    losses = torch.rand(50, 2, generator=stream(0))
    total = torch.zeros(2)
    for row in losses:
        total += row
    assert means(losses) == (total / 50).tolist()
    assert means(losses.double()) == [sum(column.tolist()) / 50 for column in losses.double().t()]


def test_minimise_is_a_step_of_the_optimiser():
    weight = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], lr=9.0)
    minimise(optimiser, weight.square().sum(), 0.25)
    assert torch.equal(weight.detach(), torch.full((2,), 0.5))
