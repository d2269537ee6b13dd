"""The CIFAR tasks: canonical files, fetching them, splits, and the real data."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from small_cifar import JPEG75, LEVELS, TEST, TRAIN, files_below, make_batches, make_tree, pack, shrink
from torchvision.datasets import CIFAR10

from bench import registry
from bench.datasets import cifar, cifar_tree
from bench.errors import DataError
from bench.task import Data, Split

TASKS = {
    "cifar10": "cifar10",
    "cifar10-5000": "cifar10-5000",
    "cifar10-shift": "cifar10",
    "cifar5": "cifar5",
    "cifar5-open": "cifar5",
}
ASKS = {"cifar5-open": "ood", "cifar10-shift": "shift"}  # beside accuracy; others: diversity
SUBSET = 30  # of the 100 small training images
ROOT = Path(os.environ.get("BENCH_DATA") or "/nowhere")
real_data = pytest.mark.skipif(
    not any((ROOT / name).is_dir() for name in ("cifar10", CIFAR10.base_folder)),
    reason="BENCH_DATA is not set or holds no CIFAR-10",
)


@pytest.fixture
def small(monkeypatch) -> None:
    shrink(monkeypatch)


def ids(part: Split) -> list[str]:
    """A short fingerprint of the images, readable in failure messages."""
    return [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:8] for image in part.images]


# Tasks


def test_tasks_have_the_paper_s_evaluations_on_cifar() -> None:
    for name, train in TASKS.items():
        task = registry.task(name)
        assert (task.name, task.train, task.embedded) == (name, train, False)
        assert set(task.scales) == set(registry.PRESETS)
        assert (task.scale("smoke").sizes, task.scale("smoke").images) == ((1, 5), 500)
        assert task.evaluations == ("accuracy", ASKS.get(name, "diversity"))
        classes = 5 if train == "cifar5" else 10
        assert task.network()(torch.zeros(1, 3, 32, 32)).shape == (1, classes)
    assert registry.source("cifar10").name == "cifar10"


# The canonical files


def test_canonical_files_are_read_by_torchvision_and_preferred_to_a_tree(
    tmp_path, monkeypatch, small
) -> None:
    make_tree(tmp_path, suffix="jpg", **JPEG75)
    make_batches(tmp_path, monkeypatch)
    found = cifar.pictures(tmp_path)
    assert found.name == "cifar10"
    assert (np.concatenate([found.train, found.test]).transpose(0, 2, 3, 1) == LEVELS).all()
    assert [*found.train_labels, *found.test_labels] == [i % 10 for i in range(160)]
    assert found.train.flags.c_contiguous and found.train_labels.dtype == np.uint8
    assert {state for _, state in cifar.source.verify(tmp_path)} == {"ok"}


def test_the_same_images_from_either_form_are_the_same_but_for_order_and_name(
    tmp_path, monkeypatch, small
) -> None:
    make_batches(tmp_path, monkeypatch)
    batches, tree = cifar.read_batches(tmp_path), cifar_tree.read_tree(make_tree(tmp_path))
    assert {image.tobytes() for image in batches.train} == {image.tobytes() for image in tree.train}


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_batch_with_another_checksum_is_named_and_never_unpickled(
    tmp_path, monkeypatch, small, name: str
) -> None:
    make_tree(tmp_path)
    make_batches(tmp_path, monkeypatch)
    path = tmp_path / CIFAR10.base_folder / name
    path.write_bytes(path.read_bytes() + b"x")
    monkeypatch.setattr(pickle, "load", None)
    for use in (cifar.load, lambda root: cifar.source.fetch(root, progress=False)):
        with pytest.raises(DataError, match=f"{path}: expected md5:.*found md5:.*bench data fetch cifar10"):
            use(tmp_path)
    assert {p.name for p, state in cifar.source.verify(tmp_path) if state != "ok"} == {name}


def test_some_canonical_files_without_the_others_are_an_error_that_names_them(
    tmp_path, monkeypatch, small
) -> None:
    make_tree(tmp_path)  # not used as a fallback if some canonical files exist
    make_batches(tmp_path, monkeypatch)
    (tmp_path / CIFAR10.base_folder / "data_batch_1").unlink()
    with pytest.raises(DataError, match=r"expected data_batch_1 in .*cifar-10-batches-py, not found"):
        cifar.load(tmp_path)
    assert sorted(state for _, state in cifar.source.verify(tmp_path)) == ["missing", "ok", "ok", "ok"]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", TASKS)
def test_missing_data_names_files_folder_and_what_to_do(tmp_path: Path, name: str, given: bool) -> None:
    with pytest.raises(DataError) as caught:
        registry.task(name).load(tmp_path if given else None)
    wanted = ("data_batch_1", "data_batch_5", "test_batch", "batches.meta", "cifar10/{train,test}/<class>/*")
    way = ("cifar-10-batches-py", "bench data fetch cifar10", "--data DIR", "BENCH_DATA", "`digits`")
    assert not [part for part in (*wanted, *way) if part not in str(caught.value)]
    assert str(tmp_path) in str(caught.value) or not given
    assert not files_below(tmp_path)
    assert {state for _, state in cifar.source.verify(tmp_path)} == {"missing"}


# Fetching


def test_fetch_downloads_torchvisions_archive(tmp_path, monkeypatch) -> None:
    contents = make_batches(tmp_path, monkeypatch)
    packed, asked = pack(contents, monkeypatch), []
    root = tmp_path / "new"
    monkeypatch.setattr(cifar, "download", lambda file, *rest: asked.append(file) or packed)
    paths = cifar.source.fetch(root, progress=False)
    assert [path.name for path in paths] == list(contents) and files_below(root) == contents
    (file,) = asked
    assert file.urls == (CIFAR10.url,) and file.digest == f"md5:{CIFAR10.tgz_md5}"
    assert CIFAR10.url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert cifar.source.fetch(root, progress=False) == paths and len(asked) == 1


def test_an_existing_archive_is_unpacked_without_a_download(tmp_path, monkeypatch) -> None:
    contents = make_batches(tmp_path, monkeypatch)
    (tmp_path / CIFAR10.filename).write_bytes(pack(contents, monkeypatch))
    monkeypatch.setattr(cifar, "download", None)
    (tmp_path / CIFAR10.base_folder / "test_batch").unlink()
    cifar.source.fetch(tmp_path, progress=False)
    assert {state for _, state in cifar.source.verify(tmp_path)} == {"ok"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_batch_2": b"other"}, "data_batch_2: expected md5:.*found md5:"),
        ({"data_batch_2": None}, "expected .*data_batch_2, found no such member"),
        ({}, "cifar-10-python.tar.gz: expected md5:.*found md5:.*remove it"),
    ],
)
def test_a_wrong_archive_is_not_unpacked(tmp_path, monkeypatch, change, said: str) -> None:
    contents = make_batches(tmp_path, monkeypatch)
    changed = {name: data for name, data in {**contents, **change}.items() if data is not None}
    packed = pack(changed, monkeypatch) + (b"" if change else b"x")
    root = tmp_path / "new"
    root.mkdir()
    (root / CIFAR10.filename).write_bytes(packed)
    with pytest.raises(DataError, match=said):
        cifar.source.fetch(root, progress=False)
    found = files_below(root)
    assert "data_batch_2" not in found
    assert all(found[name] == contents[name] for name in found if name != CIFAR10.filename)


# Splits


@pytest.fixture
def loaded(tmp_path, small) -> dict[str, Data]:
    """Each task's data, from a small CIFAR-10."""
    make_tree(tmp_path)
    data = {name: registry.task(name).load(tmp_path) for name in TASKS}
    data["subset"] = cifar.load(tmp_path, subset=SUBSET)
    return data


def test_parts_are_disjoint_stratified_and_named_after_the_files_read(loaded) -> None:
    whole, five, unseen = loaded["cifar10"], loaded["cifar5"], loaded["cifar5-open"]
    assert unseen.outliers is not None and whole.outliers is None and five.outliers is None
    names = [(p.name, len(p)) for p in (whole.train, whole.val, whole.test)]
    assert names == [("cifar10-png", 100), ("cifar10-png-val", 20), ("cifar10-png", 40)]
    names = [(p.name, len(p)) for p in (unseen.train, unseen.val, unseen.test, unseen.outliers)]
    part = "cifar10-png:0-4"
    assert names == [(part, 50), ("cifar10-png-val:0-4", 10), (part, 20), ("cifar10-png:5-9", 20)]
    parts = [*map(ids, (whole.train, whole.val, whole.test))]
    assert len(set().union(*parts)) == len(LEVELS)
    for data in (whole, unseen):
        for part in (data.train, data.val, data.test):
            assert (torch.bincount(part.labels) == len(part) / len(part.labels.unique())).all()
            assert part.images.dtype == torch.float32 and part.images.min() >= 0 and part.images.max() <= 1
    assert torch.equal((whole.train.images * 255).round() / 255, whole.train.images)


def test_every_image_keeps_its_label(loaded) -> None:
    labels = {image.tobytes(): i // TRAIN for i, image in enumerate(LEVELS[: 10 * TRAIN])}
    labels |= {image.tobytes(): i // TEST for i, image in enumerate(LEVELS[10 * TRAIN :])}
    for data in loaded.values():
        for part in filter(None, (data.train, data.val, data.test, data.outliers)):
            levels = (part.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            assert [labels[image.tobytes()] for image in levels] == part.labels.tolist()


def test_no_task_trains_on_another_s_validation_images(loaded) -> None:
    whole, five, subset = loaded["cifar10"], loaded["cifar5"], loaded["subset"]
    assert ids(subset.train) == ids(whole.train)[:SUBSET] and ids(subset.val) == ids(whole.val)
    assert (torch.bincount(subset.train.labels) == SUBSET / 10).all()
    first = whole.train.at(torch.nonzero(whole.train.labels < 5).flatten())
    assert ids(five.train) == ids(first)
    assert set(ids(five.val)) == {i for i, k in zip(ids(whole.val), whole.val.labels, strict=True) if k < 5}


def test_the_outliers_of_the_open_task_are_the_other_classes(loaded) -> None:
    five, unseen = loaded["cifar5"], loaded["cifar5-open"]
    assert five.fitted_on() == unseen.fitted_on() != loaded["cifar10"].fitted_on()
    assert unseen.outliers is not None and set(unseen.outliers.labels.tolist()) == set(range(5, 10))
    assert set(ids(unseen.test)) | set(ids(unseen.outliers)) == set(ids(loaded["cifar10"].test))


def test_the_checksum_is_of_the_decoded_images(loaded, tmp_path) -> None:
    found = cifar.pictures(tmp_path)
    arrays = (found.train, found.train_labels, found.test, found.test_labels)
    whole = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    assert all(data.checksums == {"cifar10-png": whole} for data in loaded.values())


# The real data


@real_data
def test_the_real_tasks_have_the_sizes_and_colours_of_cifar10(caplog) -> None:
    data = registry.task("cifar10").load(ROOT)
    (name,) = data.checksums
    assert (name == "cifar10") == (ROOT / CIFAR10.base_folder).is_dir()
    parts = (data.train, data.val, data.test)
    assert [(p.name, len(p)) for p in parts] == [(name, 45_000), (f"{name}-val", 5_000), (name, 10_000)]
    assert all((torch.bincount(part.labels) == len(part) / 10).all() for part in parts)
    mean = (data.train.images.mean((0, 2, 3)) * 9 + data.val.images.mean((0, 2, 3))) / 10
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-4)
    assert "not the copy" not in caplog.text


@real_data
def test_the_real_open_task_has_five_classes_of_each_kind() -> None:
    data = registry.task("cifar5-open").load(ROOT)
    assert data.outliers is not None and data.outliers.name.endswith(":5-9")
    parts = (data.train, data.val, data.test, data.outliers)
    assert [len(part) for part in parts] == [22_500, 2_500, 5_000, 5_000]
