"""The training loop: batches, checkpoints, traces, and errors."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from small import small_method, small_network
from torch import nn

from bench import training
from bench.ensemble import Ensemble
from bench.errors import BenchError
from bench.networks import count, shapes, stacked
from bench.rng import Streams, stream
from bench.task import Split
from bench.training import FitSettings, Method, Minibatches, adam, anneal, checkpoint, cross_entropy, minimise


class Constant(Method):
    """A collapsed method: always draws the same network."""

    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Config:
        loss: float = 1.0

    def start(self, train, val, *, loss, rng):
        with rng.initialise():
            self.network_of_all = small_network()
        self.keep("network", self.network_of_all)

    def rounds(self):
        return 2

    def round(self, i):
        return {"loss": self.config.loss}

    def draw(self, rngs):
        return {n: p.detach().expand(len(rngs), *p.shape) for n, p in self.network_of_all.named_parameters()}


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 5))
def test_an_epoch_repeats_no_image_and_omits_less_than_a_batch(count, batch, count_networks):
    images = torch.arange(float(count)).view(-1, 1)
    if count < count_networks:
        return
    batches = Minibatches(Split("x", images, torch.zeros(count)), batch, count_networks)
    seen = torch.cat([x.flatten() for x, _ in batches.epoch(stream(0), own=True)])
    assert len(seen) == len(seen.unique()) == len(batches) * batches.batch * count_networks
    assert count - len(seen) < batches.batch * count_networks


def test_each_network_has_its_own_order_with_matching_labels():
    data = Split("x", torch.arange(40.0).view(-1, 1), torch.arange(40))
    x, y = next(iter(Minibatches(data, 10).epochs([stream(0), stream(1)])))
    assert x.shape == (2, 10, 1)
    assert torch.equal(x[..., 0].long(), y)
    assert not torch.equal(y[0], y[1])


def test_the_learning_rate_follows_a_cosine():
    optimiser = adam([nn.Parameter(torch.zeros(1))], 1.0)
    found = []
    for step in (0, 25, 50, 75):
        anneal(optimiser, 0.2, step, 100)
        found.append(optimiser.param_groups[0]["lr"])
    assert found == pytest.approx([0.2 * (1 + math.cos(math.pi * f)) / 2 for f in (0, 0.25, 0.5, 0.75)])


def test_groups_have_their_own_rates():
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimiser = adam([{"params": [slow], "relative": 0.25}, {"params": [fast], "relative": 1.0}], 0.1)
    assert [group["lr"] for group in optimiser.param_groups] == [0.025, 0.1]
    minimise(optimiser, (slow + fast).sum(), 0.2)
    assert slow.item() == pytest.approx(-0.05) and fast.item() == pytest.approx(-0.2)


def test_cross_entropy_of_uniform_is_log_k():
    assert cross_entropy(torch.zeros(2, 5, 10), torch.arange(5)).tolist() == pytest.approx([math.log(10)] * 2)


def test_a_nan_loss_stops_the_fit(train, val):
    with pytest.raises(BenchError, match=r"round 0: expected finite losses, found \{'loss': nan\}; lower"):
        training.fit(
            Constant(small_network(), Constant.Config(loss=math.nan)), train, val, FitSettings(seed=0)
        )


def test_only_collapse_is_warned_of(train, val):
    settings = FitSettings(seed=0, trace_every=1, trace_members=4)
    with pytest.warns(UserWarning, match="4 drawn networks are one network"):
        training.fit(Constant(small_network(), Constant.Config()), train, val, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.fit(small_method("standard_ensemble"), train, val, settings)


def test_a_trace_does_not_change_the_fit(train, val):
    vectors = []
    for every in (0, 1):
        method = small_method("hypergan")
        fit = training.fit(method, train, val, FitSettings(seed=0, trace_every=every))
        vectors.append(method.sample(3, seed=0).vectors())
        assert bool(fit.trace) == bool(every)
    assert torch.equal(*vectors)


def test_a_trace_has_losses_accuracy_spread_and_disagreement(train, val):
    method = small_method("hypergan")
    fit = training.fit(method, train, val, FitSettings(seed=0, trace_every=2, trace_members=3))
    assert [r["epoch"] for r in fit.trace if r["metric"] == "loss"] == [2, 3]
    assert {"accuracy", "disagreement", "weight_norm_mean", "weight_norm_sd"} <= {
        r["metric"] for r in fit.trace
    }
    assert {r["layer"] for r in fit.trace if r["metric"] == "weight_norm_sd"} == {"conv", "linear"}


def test_a_checkpoint_of_another_format_is_an_error(train, val, tmp_path):
    path = tmp_path / "fit.safetensors"
    for content in (b"", b"not safetensors at all", b"\x80\x04\x95pickle"):
        path.write_bytes(content)
        with pytest.raises(
            BenchError, match=r"expected a checkpoint of format .* remove the file to train again"
        ):
            training.fit(small_method("hypergan"), train, val, FitSettings(seed=0, path=path))
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(BenchError, match="found format None"):
        training.fit(small_method("hypergan"), train, val, FitSettings(seed=0, path=path))


def test_a_checkpoint_of_other_shapes_is_an_error(train, val, tmp_path):
    path = tmp_path / "fit.safetensors"
    training.fit(small_method("hypergan"), train, val, FitSettings(seed=0, path=path))
    other = small_method("hypergan", hidden=17)
    with pytest.raises(BenchError, match=r"another fit's \(settings.hidden = 16, not 17\)"):
        training.fit(other, train, val, FitSettings(seed=0, path=path))
    with pytest.raises(BenchError, match="part 'mixer' does not fit"):
        other.load(path)


@pytest.mark.parametrize(
    ("name", "settings", "difference"),
    [
        ("mc_dropout", {}, "class"),
        ("hypergan", {"seed": 1}, "seed"),
        ("hypergan", {"identity": {"code": "1"}}, "code"),
        ("hypergan", {"identity": {"data": "1"}}, "data"),
    ],
)
def test_a_checkpoint_of_another_fit_with_the_same_shapes_is_refused(
    train, val, tmp_path, name, settings, difference
):
    path = tmp_path / "fit.safetensors"
    training.fit(small_method("hypergan"), train, val, FitSettings(seed=0, path=path))
    with pytest.raises(BenchError, match=f"another fit's.*{difference} = "):
        training.fit(small_method(name), train, val, FitSettings(**{"seed": 0, "path": path} | settings))
    assert path.exists()


def test_optimiser_state_is_saved_and_restored(tmp_path):
    def build():
        with Streams(0).initialise():
            layer = nn.Linear(3, 2)
        return layer, adam(layer.parameters(), 0.1)

    def step(layer, optimiser):
        optimiser.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()

    layer, optimiser = build()
    step(layer, optimiser)
    tensors, rest = checkpoint.state({"layer": layer, "optimiser": optimiser})
    checkpoint.write(tmp_path / "c", tensors, {"rest": rest})
    tensors, about = checkpoint.read(tmp_path / "c")
    other, other_optimiser = build()
    checkpoint.restore({"layer": other, "optimiser": other_optimiser}, tensors, about["rest"])
    for pair in ((layer, optimiser), (other, other_optimiser)):
        step(*pair)
    assert torch.equal(layer.weight, other.weight)


@pytest.mark.parametrize("asked", [True, False])
def test_tf32_is_enabled_only_in_rounds_and_only_on_request(asked, train, val):
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before, seen = [p.allow_tf32 for p in places], []

    class Looking(Constant):
        def round(self, i):
            seen.append([p.allow_tf32 for p in places])
            return super().round(i)

    training.fit(Looking(small_network(), Constant.Config()), train, val, FitSettings(seed=0, tf32=asked))
    assert seen == [[asked, asked]] * 2
    assert [p.allow_tf32 for p in places] == before


class Averaging(Constant):
    """Draws networks from running moments without gradient; none before the second round."""

    def start(self, train, val, *, loss, rng):
        super().start(train, val, loss=loss, rng=rng)
        self.moments = self.keep("moments", torch.zeros(2, dtype=torch.float64))
        self.seen = self.keep("seen", torch.tensor(0))

    def ready(self):
        return bool(self.seen >= 2)

    def rounds(self):
        return 3

    def round(self, i):
        self.moments += torch.tensor([i, i**2], dtype=torch.float64)
        self.seen += 1
        return {"loss": 1.0}

    def draw(self, rngs):
        assert self.ready()
        mean = (self.moments[0] / self.seen).float()
        return {
            n: p.detach() + torch.stack([mean * torch.randn(p.shape, generator=rng) for rng in rngs])
            for n, p in self.network_of_all.named_parameters()
        }


def test_a_trace_without_networks_has_only_losses(train, val):
    method = Averaging(small_network(), Constant.Config())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = training.fit(method, train, val, FitSettings(seed=0, trace_every=1, trace_members=3))
    metrics = [{r["metric"] for r in fit.trace if r["epoch"] == epoch} for epoch in (1, 2, 3)]
    assert metrics[0] == {"loss"}
    assert {"loss", "accuracy", "weight_spread"} <= metrics[1] == metrics[2]
    method.seen.zero_()
    with pytest.raises(BenchError, match="Averaging has no networks to draw yet; train more rounds first"):
        method.sample(2, seed=0)


def test_tensors_without_gradient_are_saved_and_restored_in_place(train, val, tmp_path):
    made, again, other = (Averaging(small_network(), Constant.Config()) for _ in range(3))
    path = tmp_path / "fit.safetensors"

    def kill(done, total, losses):
        if done == 3:
            raise InterruptedError

    training.fit(made, train, val, FitSettings(seed=0))
    settings = {"seed": 0, "path": path, "checkpoint_every": 0.0}
    killed = Averaging(small_network(), Constant.Config())
    with pytest.raises(InterruptedError):
        training.fit(killed, train, val, FitSettings(**settings, progress=kill))
    assert not training.fit(again, train, val, FitSettings(**settings)).reused
    assert training.fit(other, train, val, FitSettings(**settings)).reused
    for method in (again, other):
        assert torch.equal(method.moments, made.moments) and method.seen == 3
        assert torch.equal(method.sample(3, seed=1).vectors(), made.sample(3, seed=1).vectors())


def test_a_kept_tensor_of_another_shape_or_type_is_an_error():
    tensors, rest = checkpoint.state({"x": torch.zeros(3)})
    for other in (torch.zeros(4), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(BenchError, match="part 'x' does not fit: expected"):
            checkpoint.restore({"x": other}, tensors, rest)


def test_vectors_become_stacked_weights_and_back():
    network = small_network()
    weights = stacked(torch.arange(2.0 * count(network)).view(2, -1), shapes(network))
    assert {n: w.shape for n, w in weights.items()} == {n: (2, *s) for n, s in shapes(network).items()}
    assert torch.equal(Ensemble(network, weights).vectors().flatten(), torch.arange(2.0 * count(network)))
