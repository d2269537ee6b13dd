"""The speed benchmark does the same work in every implementation and counts operations correctly."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from click.testing import CliRunner

from bench import registry
from bench.cli.main import main
from bench.engine import Engine, kernels, linear, parallel
from bench.perf import cases, measuring, steps, table
from bench.training import optimisers

CPU = torch.device("cpu")
SMALL = {
    "predict": (cases.Case("predict", "mnist", 3, 8), cases.Case("predict", "cifar", 2, 4)),
    "train": (cases.Case("train", "mnist", 3, 8), cases.Case("train", "mnist", 2, 4, own=True)),
    "attack": (cases.Case("attack", "cifar", 3, 8),),
}


def test_multiply_adds_are_those_of_the_layers_by_hand():
    assert cases.multiply_adds("mnist") == 24 * 24 * 800 + 8 * 8 * 25_600 + 5_120
    assert cases.multiply_adds("cifar") == 900 * 432 + 169 * 4_608 + 16 * 18_432 + 32_768 + 1_280
    assert cases.Case("train", "mnist", 2, 5).flop() == 3 * 2 * 10 * cases.multiply_adds("mnist")


@pytest.mark.parametrize("case", [case for kind in SMALL.values() for case in kind], ids=lambda c: c.name)
def test_every_way_computes_the_same(case):
    results = {}
    for way, call in cases.prepare(case, CPU).items():
        found = call()
        if way == cases.LOOP and case.kind == "train":  # a list of members, each a tuple of gradients
            found = [torch.stack(parts) for parts in zip(*found, strict=True)]
        results[way] = torch.cat([t.flatten() for t in found]) if case.kind == "train" else found
    assert set(results) == {cases.LOOP, cases.VMAP, cases.ENGINE}
    for found in results.values():
        assert (found - results[cases.ENGINE]).norm() <= 1e-4 * found.norm()


def test_the_streaming_loop_and_the_engine_agree_on_an_attack(monkeypatch):
    case = cases.Case("attack", "mnist", 3, 8)
    whole = cases.prepare(case, CPU)[cases.LOOP]()
    monkeypatch.setattr(cases, "VMAP_MEMBERS", 3)
    calls = cases.prepare(case, CPU)
    assert set(calls) == {cases.LOOP, cases.ENGINE}
    assert (calls[cases.LOOP]() - whole).norm() <= 1e-4 * whole.norm()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield 2
    torch.set_num_threads(before)
    parallel.use(None)


def test_json_holds_every_case_and_way(monkeypatch, tmp_path, threads):
    monkeypatch.setattr(cases, "CASES", SMALL)
    monkeypatch.setattr(measuring, "GEMM", 64)
    monkeypatch.setattr(steps, "entries", lambda: [registry.method("mc_dropout")])
    monkeypatch.setattr(steps, "FEWEST", 12)
    monkeypatch.setattr(steps, "STEPS", 1)
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
    ] + [("step-mc_dropout", "loop"), ("step-mc_dropout", "engine")]
    assert set(found[0]) == {
        "case", "network", "members", "batch", "device", "way", "seconds", "gflop_per_s",
        "peak_gflop_per_s", "fraction_of_peak", "gemm_gflop_per_s", "fraction_of_gemm", "peak_memory_bytes",
    }  # fmt: skip
    for m in found:
        assert m["fraction_of_gemm"] == pytest.approx(m["gflop_per_s"] / m["gemm_gflop_per_s"])
        assert (m["peak_gflop_per_s"] is None) == (m["fraction_of_peak"] is None) == (not kernels.compiled())
        if kernels.compiled():
            assert m["fraction_of_peak"] == pytest.approx(m["gflop_per_s"] / m["peak_gflop_per_s"])
    loop, engine = found[-2:]
    assert loop["members"] is loop["batch"] is None
    flop = [m["seconds"] * m["gflop_per_s"] for m in (loop, engine)]
    assert flop[0] == pytest.approx(flop[1]) and flop[0] > 0


def test_the_peak_is_of_the_cores_that_work(monkeypatch, threads):
    monkeypatch.setattr(kernels, "peak_gflop_per_s", lambda: 100.0)
    monkeypatch.setattr(measuring.machine, "cores", lambda: 3)
    found = []
    for count in (1, 2, 8):
        parallel.use(count)
        found.append(measuring.peak(CPU))
    assert found == [100.0, 200.0, 300.0]
    assert measuring.peak(torch.device("cuda")) is None  # the kernels are a CPU's
    monkeypatch.setattr(kernels, "peak_gflop_per_s", lambda: None)
    assert measuring.peak(CPU) is None


@pytest.mark.parametrize("peak", [200.0, None])
def test_the_table_states_both_fractions_and_is_narrow(peak):
    of_peak = None if peak is None else 50.0 / peak
    rates = (50.0, peak, of_peak, 80.0, 0.625)
    name = "step-bayesian_hypernetwork"
    found = [
        measuring.Measurement(name, "mnist", None, None, "cpu", way, seconds, *rates, 0)
        for way, seconds in (("loop", 0.4), ("engine", 0.1))
    ]
    head, loop, engine = table(found).splitlines()
    assert "of peak" in head and "of GEMM" in head
    assert ("N/A" if peak is None else "0.25") in engine.split() and "0.62" in engine
    assert loop.endswith("4.00x")
    assert max(map(len, (head, loop, engine))) <= 110


def test_there_is_a_step_of_every_method_and_of_no_variant():
    names = [entry.name for entry in steps.entries()]
    assert names == list(dict.fromkeys(entry.base for entry in registry.methods().values()))


@pytest.mark.parametrize("entry", steps.entries(), ids=lambda entry: entry.name)
def test_the_plain_way_takes_the_same_steps_without_our_parts(entry, monkeypatch):
    if "keep" in entry.toml["quick"]:  # networks that a small epoch has to hold
        toml = {**entry.toml, "quick": {**entry.toml["quick"], "batch": 10, "keep": 2}}
        entry = dataclasses.replace(entry, toml=toml)
    engine = steps.started(entry, 40, CPU, plain=False)
    plain = steps.started(entry, 40, CPU, plain=True)
    assert engine.steps == plain.steps
    with engine.threads():
        engine.round()

    def ours(*_):
        raise AssertionError("a part of this suite was used")

    monkeypatch.setattr(optimisers.Adam, "step", ours)
    monkeypatch.setattr(linear.BlockLinear, "forward", ours)
    monkeypatch.setattr(parallel, "each", ours)
    with plain.threads():
        plain.round()
    assert engine.flop == plain.flop > 0
    assert set(engine.losses) == set(plain.losses)
    if entry.name != "mnf":  # it draws noise for each block of images, of which the plain way has one
        for name, loss in engine.losses.items():
            assert plain.losses[name] == pytest.approx(loss, rel=1e-3, abs=1e-4), name


def test_case_names_are_unique_and_complete():
    names = [case.name for kind in cases.CASES.values() for case in kind]
    assert len(names) == len(set(names))
    assert {"predict-mnist-100x1000", "train-mnist-32x100-shared", "attack-mnist-100x100"} <= set(names)


def test_the_number_of_graphs_does_not_depend_on_the_number_of_networks():
    if not kernels.compiled():
        pytest.skip("the kernels were not compiled")
    engine = Engine(cases.NETWORKS["mnist"][0]())
    x = torch.zeros(100, 1, 28, 28)
    kept = {}
    for members in (100, 1000, 3000):
        weights = {n: torch.zeros(1).expand(members, *s) for n, s in engine.shapes.items()}
        kept[members] = engine.kept(weights, x)
    assert kept == {100: 100, 1000: 614, 3000: 614}
