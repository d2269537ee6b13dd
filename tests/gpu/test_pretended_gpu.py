"""Every method and every evaluation on a GPU that is only pretended: devices are kept apart, nothing else is.

What it cannot see, numbers and CUDA's own errors, `check.sh` asks of a real one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended_gpu import CUDA, DeviceFault, pretended_gpu
from small import line, small_method, small_regression, stripes
from torch import nn

from bench import registry, training
from bench.evaluations import EVALUATIONS, Subject
from bench.rng import Streams, stream
from bench.running import run
from bench.running.plan import Selection, cells
from bench.task import SHIFT_GREY, AdaptiveScale, AttackScale, Data, Reference, Scale, Split
from bench.training import FitSettings, cross_entropy, mse

METHODS = list(registry.methods())
GPU = torch.device("cuda")


def mixed(x):
    return {
        "two devices": lambda: x + torch.ones(3),
        "a module left behind": lambda: nn.Linear(3, 2)(x),
        "stacked with a number on the CPU": lambda: torch.stack([x.sum(), torch.zeros(())]),
        "index on the GPU of a tensor on the CPU": lambda: torch.zeros(3)[torch.zeros(1, device=GPU).long()],
        "numpy": lambda: x.numpy(),
        "data_ptr": lambda: x.data_ptr(),
        "generator of the CPU": lambda: torch.randn(3, generator=torch.Generator(), device=GPU),
        "generator of the GPU": lambda: torch.randn(3, generator=torch.Generator(GPU)),
        "filled by a generator of the CPU": lambda: x.normal_(generator=torch.Generator()),
        "in a backward pass": lambda: torch.autograd.grad(Scales.apply(x.requires_grad_()).sum(), x),
    }


class Scales(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, upstream):
        return torch.full((3,), 2.0) * upstream


@pytest.mark.parametrize("fault", mixed(torch.zeros(3)))
def test_the_pretended_gpu_refuses(fault):
    with pretended_gpu(), pytest.raises((DeviceFault, TypeError)):
        mixed(torch.zeros(3, device=GPU))[fault]()


def test_the_pretended_gpu_lets_pass_what_pytorch_does_and_counts_waits():
    with pretended_gpu() as ledger:
        x = torch.arange(3.0, device=GPU)
        assert x.device == CUDA and (x * torch.tensor(2.0)).is_cuda
        assert x[torch.tensor([2])].item() == 2.0
        assert x.cpu().numpy().sum() == 3 and x.cpu().device.type == "cpu"
        weight = torch.ones(3, requires_grad=True)
        (weight.to(GPU) * x).sum().backward()
        assert weight.grad.device.type == "cpu" and weight.grad.tolist() == [0, 1, 2]
    assert ledger.waits == {
        "an index on the CPU": 1, "aten._local_scalar_dense": 1, "to the host": 2, "to the device": 1,
    }  # fmt: skip


class Stop(Exception):
    pass


def fitted(name, device, path=None, until=None, network=None, data=None, loss=cross_entropy, stage=None):
    def progress(done, total, losses):
        if done == until:
            raise Stop

    method = small_method(name, network, blocks=2, block_steps=10)
    train, val = data or (stripes(96), stripes(30, seed=1))
    settings = FitSettings(
        seed=3, loss=loss, device=device, trace_every=1, trace_members=3, path=path, checkpoint_every=0.0,
        stage=stage, progress=progress,
    )  # fmt: skip
    training.fit(method, train, val, settings)
    return method


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_goes_on_from_a_checkpoint_and_draws(name, tmp_path):
    path = tmp_path / "fit.safetensors"
    with pretended_gpu():
        whole = fitted(name, GPU).sample(4, seed=0)
        assert all(w.device == CUDA for w in whole.weights.values())
        with pytest.raises(Stop):
            fitted(name, GPU, path, until=2)
        resumed = fitted(name, GPU, path).sample(4, seed=0)
        assert torch.equal(whole.vectors().cpu(), resumed.vectors().cpu())
        assert whole.hashes() == resumed.hashes()
        probabilities = whole.probabilities(stripes(30, 2).images)
        assert probabilities.device.type == "cpu"
    # A finished fit of a GPU is read on a CPU.
    method = small_method(name, blocks=2, block_steps=10)
    method.start(stripes(96), stripes(30, seed=1), loss=cross_entropy, rng=Streams(3, "fit"))
    method.load(path)
    there = method.sample(4, seed=0)
    assert torch.equal(there.vectors(), whole.vectors().cpu()) or name.startswith(("apd", "hypergan"))


@pytest.mark.parametrize("name", sorted({entry.base for entry in registry.methods().values()}))
def test_a_method_trains_on_a_regression(name):
    with pretended_gpu():
        method = fitted(name, GPU, network=small_regression(), data=(line(32), line(8, 1)), loss=mse)
        assert method.sample(2, 0)(line(5).images.to(GPU)).device == CUDA


@pytest.mark.parametrize("name", ["standard_ensemble", "hypergan"])
def test_augmented_images_train_on_a_gpu(name):
    with pretended_gpu():
        fitted(name, GPU, data=(replace(stripes(96), augment=True), stripes(30, seed=1)))


def test_rounds_that_variants_share_are_read_on_a_gpu(tmp_path):
    with pretended_gpu():
        chain = fitted("sgld", GPU, stage=tmp_path)
        control = fitted("apd-gaussian", GPU, stage=tmp_path)
        assert control.borrowed and not chain.borrowed
        assert control.sample(2, 0).vectors().is_cuda


ATTACKS = AttackScale(
    8, (2,), (0.1,), steps=2, others=2, searched=2, adaptive=AdaptiveScale(2, 8, 2, 2, 2, 5)
)
SCALE = Scale((1, 2), attacks=(ATTACKS,), shift=replace(SHIFT_GREY, images=8))


@pytest.mark.parametrize("evaluation", [name for name in EVALUATIONS if name != "regression"])
def test_an_evaluation_asks_networks_on_a_gpu(evaluation):
    outside = Split("noise", torch.rand(20, 1, 8, 8, generator=stream(9)), torch.zeros(20, dtype=torch.long))
    data = Data(stripes(96), stripes(30, 1), stripes(40, 2), outside)
    rows = []
    for device in (GPU, torch.device("cpu")):
        with pretended_gpu():
            drawn = fitted("standard_ensemble", torch.device("cpu")).sample(4, 0).to(device)
            subject = Subject(drawn[:2], data, SCALE, (1, 2), drawn)
            rows.append(EVALUATIONS[evaluation](subject, Streams(0, evaluation)).rows)
    assert rows[0] and [r["metric"] for r in rows[0]] == [r["metric"] for r in rows[1]]
    np.testing.assert_allclose(*([r["value"] for r in part] for part in rows), rtol=1e-3, atol=1e-3)


def test_a_regression_is_evaluated_on_a_gpu():
    grid = line(9)
    part = Split("grid", grid.images.sort(0).values, grid.labels)
    reference = Reference(part, (-0.5, 0.5), torch.zeros(9), torch.ones(9))
    data = Data(line(32), line(8, 1), line(20, 2), reference=reference)
    with pretended_gpu():
        drawn = fitted("hypergan", GPU, network=small_regression(), data=(line(32), line(8, 1)), loss=mse)
        drawn = drawn.sample(3, 0)
        subject = Subject(drawn, data, Scale((1, 3)), (1, 3), drawn)
        assert EVALUATIONS["regression"](subject, Streams(0)).rows


class Quiet:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def progress(self, *_): ...


def test_a_whole_cell_runs_and_leaves_nothing_on_the_gpu(tmp_path):
    task = registry.task("stripes")
    data = task.load(None)
    (cell,) = cells(Selection(("hypergan",), ("stripes",), "smoke", device="cuda"), task, data)
    with pretended_gpu() as ledger:
        path = run.run(cell, data, tmp_path, GPU, Quiet())
        assert ",cuda," in path.read_text()
        assert ledger.alive() == 0


def test_a_fit_of_a_cpu_is_not_taken_for_one_of_a_gpu(tmp_path):
    task = registry.task("stripes")
    data = task.load(None)
    reporter = Quiet()
    for device in (torch.device("cpu"), GPU):
        chosen = Selection(("standard_ensemble",), ("stripes",), "smoke", device=device.type)
        (cell,) = cells(chosen, task, data)
        with pretended_gpu():
            run.run(cell, data, tmp_path, device, reporter)
    assert not any("reusing" in text for text in reporter.lines)
