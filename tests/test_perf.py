"""The speed benchmark does the same work in every implementation and counts operations correctly."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from bench import perf
from bench.cli.main import main
from bench.engine import Engine, kernels, parallel

CPU = torch.device("cpu")
SMALL = {
    "predict": (perf.Case("predict", "mnist", 3, 8), perf.Case("predict", "cifar", 2, 4)),
    "train": (perf.Case("train", "mnist", 3, 8), perf.Case("train", "mnist", 2, 4, own=True)),
    "attack": (perf.Case("attack", "cifar", 3, 8),),
}


def test_multiply_adds_are_those_of_the_layers_by_hand():
    assert perf.multiply_adds("mnist") == 24 * 24 * 800 + 8 * 8 * 25_600 + 5_120
    assert perf.multiply_adds("cifar") == 900 * 432 + 169 * 4_608 + 16 * 18_432 + 32_768 + 1_280
    assert perf.Case("train", "mnist", 2, 5).flop() == 3 * 2 * 10 * perf.multiply_adds("mnist")


@pytest.mark.parametrize("case", [case for cases in SMALL.values() for case in cases], ids=lambda c: c.name)
def test_every_way_computes_the_same(case):
    results = {}
    for way, call in perf.prepare(case, CPU).items():
        found = call()
        if way == perf.LOOP and case.kind == "train":  # a list of members, each a tuple of gradients
            found = [torch.stack(parts) for parts in zip(*found, strict=True)]
        results[way] = torch.cat([t.flatten() for t in found]) if case.kind == "train" else found
    assert set(results) == {perf.LOOP, perf.VMAP, perf.ENGINE}
    for found in results.values():
        assert (found - results[perf.ENGINE]).norm() <= 1e-4 * found.norm()


def test_the_streaming_loop_and_the_engine_agree_on_an_attack(monkeypatch):
    case = perf.Case("attack", "mnist", 3, 8)
    whole = perf.prepare(case, CPU)[perf.LOOP]()
    monkeypatch.setattr(perf, "VMAP_MEMBERS", 3)
    calls = perf.prepare(case, CPU)
    assert set(calls) == {perf.LOOP, perf.ENGINE}
    assert (calls[perf.LOOP]() - whole).norm() <= 1e-4 * whole.norm()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield 2
    torch.set_num_threads(before)
    parallel.use(None)


def test_json_holds_every_case_and_way(monkeypatch, tmp_path, threads):
    monkeypatch.setattr(perf, "CASES", SMALL)
    monkeypatch.setattr(perf, "GEMM", 64)
    path = tmp_path / "perf.json"
    words = ["perf", "train", "--threads", str(threads), "--json", str(path)]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"\n{threads} threads; " in done.output and torch.get_num_threads() == threads
    found = json.loads(path.read_text())
    assert [(m["case"], m["way"]) for m in found] == [
        (case, way)
        for case in ("train-mnist-3x8-shared", "train-mnist-2x4-own")
        for way in ("loop", "vmap", "engine")
    ]
    assert set(found[0]) == {
        "case", "network", "members", "batch", "device", "way", "seconds", "gflop_per_s",
        "gemm_gflop_per_s", "fraction_of_gemm", "peak_memory_bytes",
    }  # fmt: skip
    assert all(
        m["fraction_of_gemm"] == pytest.approx(m["gflop_per_s"] / m["gemm_gflop_per_s"]) for m in found
    )


def test_case_names_are_unique_and_complete():
    names = [case.name for cases in perf.CASES.values() for case in cases]
    assert len(names) == len(set(names))
    assert {"predict-mnist-100x1000", "train-mnist-32x100-shared", "attack-mnist-100x100"} <= set(names)


def test_the_number_of_graphs_does_not_depend_on_the_number_of_networks():
    if not kernels.compiled():
        pytest.skip("the kernels were not compiled")
    engine = Engine(perf.NETWORKS["mnist"][0]())
    x = torch.zeros(100, 1, 28, 28)
    kept = {}
    for members in (100, 1000, 3000):
        weights = {n: torch.zeros(1).expand(members, *s) for n, s in engine.shapes.items()}
        kept[members] = engine.kept(weights, x)
    assert kept == {100: 100, 1000: 614, 3000: 614}
