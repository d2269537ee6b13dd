"""What a program owes a GPU: generators as they were, constants that stay, workers that share on purpose."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from pretended_gpu import pretended_gpu
from small import small_network, stripes
from torch import nn

from bench.attacks import oblivious
from bench.ensemble import Ensemble
from bench.perf import cases, measuring
from bench.rng import Streams, stream
from bench.running.launchers import Workers, ray, slurm
from bench.running.worker import run_worker

GPU = torch.device("cuda")


def test_initialising_a_network_seeds_no_generator_of_a_gpu(monkeypatch):
    def seeded(*_):
        raise AssertionError("a generator of a GPU was seeded")

    before = torch.get_rng_state()
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(f"torch.cuda.{name}", seeded)
    with Streams(0).initialise():
        drawn = nn.Linear(2, 3).weight
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(Streams(0)("initialise").initial_seed())
        assert torch.equal(drawn, nn.Linear(2, 3).weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_constants_are_brought_to_a_gpu_once():
    normalise = small_network().normalise
    with pretended_gpu() as ledger:
        x = torch.rand(2, 1, 8, 8).to(GPU)
        first = normalise(x)
        ledger.waits.clear()
        assert torch.equal(normalise(x).cpu(), first.cpu())
        assert ledger.waits == {"to the host": 2}
        assert normalise(x[0].double()).dtype == torch.float64
    assert torch.equal(normalise(torch.ones(2, 1, 4, 4)), torch.ones(2, 1, 4, 4))


def test_constants_first_made_in_inference_serve_gradients_too():
    normalise = small_network().normalise
    x = torch.rand(2, 1, 8, 8)
    with torch.inference_mode():
        normalise(x)
    normalise(x.requires_grad_()).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


def test_an_attack_starts_at_the_same_place_on_every_device():
    weights = {
        n: torch.randn(3, *p.shape, generator=stream(0, n)) for n, p in small_network().named_parameters()
    }
    data = stripes(30)
    found = []
    for device in (torch.device("cpu"), GPU):
        with pretended_gpu():
            ensemble = Ensemble(small_network(), weights).to(device)
            found.append(oblivious.pgd(ensemble, data.images, data.labels, 0.1, 2, stream(5)))
    moved = (found[0] - found[1]).abs() > 1e-6  # by a step where a gradient is next to nothing
    assert moved.float().mean() < 1e-3


def test_everything_is_measured_in_full_precision(monkeypatch):
    seen = []

    def prepare(case, device):
        return {cases.ENGINE: lambda: seen.append((case.name, torch.backends.cudnn.allow_tf32))}

    monkeypatch.setattr(cases, "prepare", prepare)
    monkeypatch.setattr(measuring, "GEMM", 8)
    before = torch.backends.cudnn.allow_tf32
    for _ in measuring.measure("predict", torch.device("cpu"), repeats=1):
        assert torch.backends.cudnn.allow_tf32 == before
    assert seen and not any(allowed for _, allowed in seen)


def test_ray_places_all_workers_at_once():
    assert [ray.gpu_share(w, g) for w, g in ((1, 1), (1, 4), (3, 2), (4, 2), (7, 1), (2, 0))] == [
        1, 1, 1 / 2, 1 / 2, 1 / 7, 0,
    ]  # fmt: skip


@dataclass(frozen=True)
class Job:
    selection: SimpleNamespace
    results: object
    todo: tuple = tuple(range(5))
    threads: int = 1


class Executor:
    """As submitit's: what it was asked for."""

    cluster = "local"
    given: list

    def __init__(self, folder): ...

    def update_parameters(self, **parameters): ...

    def submit(self, call, job, label, gpu):
        self.given.append(gpu)
        return SimpleNamespace(exception=lambda: None)


@pytest.mark.parametrize(
    "cluster,device,expected",
    [("local", "cuda", ["0", "1", "0"]), ("slurm", "cuda", [None] * 3), ("local", "cpu", [None] * 3)],
)
def test_without_slurm_jobs_get_the_machines_gpus_in_turn(monkeypatch, tmp_path, cluster, device, expected):
    given = []
    executor = type("Found", (Executor,), {"given": given, "cluster": cluster})
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(AutoExecutor=executor))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slurm.launch(
        Job(SimpleNamespace(device=device), tmp_path),
        Workers("slurm", 3),
        SimpleNamespace(say=lambda text: None),
    )
    assert given == expected


def test_a_worker_sees_the_gpu_that_it_was_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("bench.running.worker.work", lambda *_, **__: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    job = SimpleNamespace(quiet=True)
    run_worker(job, "worker 1: ", "1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    run_worker(job, "worker 1: ")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
