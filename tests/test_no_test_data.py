"""No test data reach a fit: corrupted test images and outliers do not change any method's weights."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from small import SMALL, line, load_stripes, small_regression, stripes_task

from bench import registry
from bench.errors import BenchError
from bench.evaluations import canaries, data_canaries
from bench.methods.standard_ensemble import StandardEnsemble
from bench.records import runs, schema
from bench.registry import MethodEntry
from bench.rng import Streams, stream
from bench.running import run
from bench.running.cell import Cell
from bench.settings import LoopConfig, Settings, resolve
from bench.system.progress import Plain
from bench.task import Data, Reference, Scale, Split, Task
from bench.training import Loss, checkpoint

METHODS = [name for name, entry in registry.methods().items() if name == entry.base]
every_method = pytest.mark.parametrize("name", METHODS)
TASK = replace(stripes_task, scales={"smoke": Scale((1, 4))})


@pytest.fixture(autouse=True)
def unchecked(monkeypatch) -> None:
    """Without canaries of the data, which refuse to train beside corrupted test images."""
    monkeypatch.setattr(data_canaries, "findings", lambda data: [])


def noise(split: Split) -> Split:
    """Other images, and labels moved by one class."""
    images = torch.rand(split.images.shape, generator=stream(77, split.name))
    return replace(split, images=images, labels=(split.labels + 1) % 3)


def nothing(split: Split) -> Split:
    """NaN images: anything computed from them is NaN."""
    return replace(split, images=torch.full_like(split.images, torch.nan))


def poisoned(data: Data, poison) -> Data:
    assert data.outliers is not None
    return replace(
        data,
        test=poison(data.test),
        outliers=poison(data.outliers),
        checksums={"stripes": poison.__name__},
    )


def small(entry: MethodEntry, task=TASK, **changes):
    """Small settings, with a trace in every round, since traces use data too."""
    config = resolve(entry, entry.load().Config, "smoke", task.train, {}).method
    fields = {f.name for f in dataclasses.fields(config)}
    config = replace(config, **{k: v for k, v in (SMALL | changes).items() if k in fields})
    return Settings(config, LoopConfig(trace_every=1))


def run_cell(entry: MethodEntry, data: Data, results, task=TASK, **changes) -> None:
    checksums = tuple(sorted(data.checksums.items()))
    sizes = task.scale("smoke").sizes
    settings = small(entry, task, **changes)
    read = (checksums, data.fitted_on(), data.asked_of())
    cell = Cell(entry, task, "smoke", 0, sizes, settings, *read)
    run.run(cell, data, results, torch.device("cpu"), Plain())


def fitted(results):
    """Tensors of a run's fits: of each checkpoint and of each shared round, by file and name."""
    found = {}
    for path in sorted((results / "checkpoints").rglob("*.safetensors")):
        tensors, about = checkpoint.read(path)
        assert about.get("finished", True)
        place = str(path.relative_to(results))
        found |= {f"{place} {name}": tensor for name, tensor in tensors.items()}
    assert any("fit.safetensors" in name for name in found)
    return found


def same(first, second) -> bool:
    """The same names, and the same bits under each."""
    return first.keys() == second.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in ((first[name], second[name]) for name in first)
    )


def numbers(results, *, traced: bool):
    """Values without costs: of traces, which belong to a fit, or of evaluations."""
    frame = runs.read(results).newest()
    frame = frame[(frame["evaluation"] == "trace") == traced]
    return frame.loc[~frame["metric"].str.contains("seconds|bytes|per_s"), [*schema.KEY, "value"]]


@every_method
def test_corrupted_test_data_change_rows_but_no_weight(name, tmp_path):
    data = load_stripes(None)
    for folder, each in (("clean", data), ("noise", poisoned(data, noise))):
        run_cell(registry.method(name), each, tmp_path / folder)
    clean, other = tmp_path / "clean", tmp_path / "noise"
    assert same(fitted(clean), fitted(other))
    assert numbers(clean, traced=True).equals(numbers(other, traced=True))
    for dataset in ("stripes", "noise"):
        before, after = (numbers(f, traced=False).set_index("dataset").loc[dataset] for f in (clean, other))
        assert (before["metric"].values == after["metric"].values).all()
        assert (before["value"].values != after["value"].values).mean() > 0.5


@every_method
def test_nan_test_data_change_no_weight(name, tmp_path, monkeypatch):
    # NaN outputs make no row: this canary asks for test images even where nothing is evaluated.
    unasked = schema.row("batch_dependence", 0.0, evaluation="canary", variant="canary")
    monkeypatch.setattr(canaries, "batch_dependence", lambda subject: unasked)
    task = replace(TASK, evaluations=())
    data = load_stripes(None)
    for folder, each in (("clean", data), ("nothing", poisoned(data, nothing))):
        run_cell(registry.method(name), each, tmp_path / folder, task)
    clean, other = fitted(tmp_path / "clean"), fitted(tmp_path / "nothing")
    assert same(clean, other)
    assert all(tensor.isfinite().all() for tensor in other.values() if tensor.is_floating_point())


def lines() -> Data:
    """A small regression with a reference that fits do not use."""
    x = torch.linspace(-2, 2, 41)[:, None]
    grid = Split("line:grid", x, 2 * x + 0.5)
    reference = Reference(grid, (-1.0, 1.0), grid.labels[:, 0], torch.ones(len(grid)))
    return Data(line(64), line(16, 1), line(30, 2), checksums={"line": "0"}, reference=reference)


def bent(data: Data) -> Data:
    """Another function in the test points and in the reference."""
    assert data.reference is not None
    test, known = data.test, data.reference
    grid = replace(known.grid, labels=-5 * known.grid.labels)
    return replace(
        data,
        test=replace(test, labels=-5 * test.labels),
        reference=replace(known, grid=grid, mean=-5 * known.mean, sd=3 * known.sd),
        checksums={"line": "bent"},
    )


@every_method
def test_another_target_and_posterior_change_rows_of_a_regression_but_no_weight(name, tmp_path):
    # Named like a registered task, whose code version a run records.
    shown = ("stripes", "line", lambda root: lines(), small_regression, ("regression",))
    task = Task(*shown, loss="mse", scales={"smoke": Scale((1, 4))})
    for folder, each in (("clean", lines()), ("bent", bent(lines()))):
        run_cell(registry.method(name), each, tmp_path / folder, task)
    clean, other = tmp_path / "clean", tmp_path / "bent"
    assert same(fitted(clean), fitted(other))
    assert not numbers(clean, traced=False).equals(numbers(other, traced=False))


class Peeking(StandardEnsemble):
    """Trains also on test images, by a leak created in this file."""

    leak: ClassVar[Split]

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        images = torch.cat([train.images, self.leak.images])
        both = replace(train, images=images, labels=torch.cat([train.labels, self.leak.labels]))
        super().start(both, val, loss=loss, rng=rng)


class Validating(StandardEnsemble):
    """Trains also on validation images, which is allowed."""

    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        images = torch.cat([train.images, val.images])
        both = replace(train, images=images, labels=torch.cat([train.labels, val.labels]))
        super().start(both, val, loss=loss, rng=rng)


def entry_of(cls: type) -> MethodEntry:
    toml = registry.method("standard_ensemble").toml
    return MethodEntry(cls.__name__, f"{cls.__module__}:{cls.__name__}", "", cls.__name__, {}, toml)


def test_a_method_that_trains_on_test_data_is_detected(tmp_path, monkeypatch):
    clean = load_stripes(None)
    for folder, data in (("clean", clean), ("again", clean), ("noise", poisoned(clean, noise))):
        monkeypatch.setattr(Peeking, "leak", data.test, raising=False)
        run_cell(entry_of(Peeking), data, tmp_path / folder)
    first, again, other = (fitted(tmp_path / folder) for folder in ("clean", "again", "noise"))
    assert same(first, again)
    assert first.keys() == other.keys() and not same(first, other)


def test_a_method_that_trains_on_nan_test_data_fails(tmp_path, monkeypatch):
    data = poisoned(load_stripes(None), nothing)
    monkeypatch.setattr(Peeking, "leak", data.test, raising=False)
    with pytest.raises(BenchError, match="expected finite losses"):
        run_cell(entry_of(Peeking), data, tmp_path, replace(TASK, evaluations=()))


def test_validation_images_that_are_test_images_are_detected(tmp_path):
    clean = load_stripes(None)
    other = poisoned(clean, noise)
    honest = [("honest", clean), ("honest-noise", other)]
    leaking = [("leak", replace(clean, val=clean.test)), ("leak-noise", replace(other, val=other.test))]
    for folder, data in (*honest, *leaking):
        run_cell(entry_of(Validating), data, tmp_path / folder)
    assert same(*(fitted(tmp_path / folder) for folder, _ in honest))
    first, second = (fitted(tmp_path / folder) for folder, _ in leaking)
    assert not same(first, second)
    # A fit's folder depends on its data; the tensors themselves differ too.
    weights = [[t for name, t in found.items() if "weights" in name] for found in (first, second)]
    assert weights[0] and not any(torch.equal(a, b) for a, b in zip(*weights, strict=True))
