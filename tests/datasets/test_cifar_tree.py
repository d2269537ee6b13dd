"""CIFAR-10 in class folders: names of copies, refused files, and the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_cifar import JPEG75, LEVELS, TEST, TRAIN, files_below, make_tree, saved, shrink

from bench.datasets import cifar, cifar_tree
from bench.errors import DataError


@pytest.fixture
def small(monkeypatch) -> None:
    shrink(monkeypatch)


def kept_in(tree: Path) -> list[Path]:
    return list(tree.glob("decoded-*.npz"))


# What a copy is called, and what is read from it


def test_a_png_tree_is_read_exactly_in_order_of_classes_and_names(tmp_path, small) -> None:
    found = cifar_tree.read_tree(make_tree(tmp_path))
    assert found.name == "cifar10-png"
    assert (np.concatenate([found.train, found.test]).transpose(0, 2, 3, 1) == LEVELS).all()
    assert found.train_labels.tolist() == np.repeat(range(10), TRAIN).tolist()
    assert found.test_labels.tolist() == np.repeat(range(10), TEST).tolist()


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (JPEG75, "jpeg75"),
        (JPEG75 | {"optimize": True, "progressive": True}, "jpeg75"),
        (JPEG75 | {"quality": 92}, "jpeg92"),
        (JPEG75 | {"quality": 100, "subsampling": "4:4:4"}, "jpeg100-444"),
        (JPEG75 | {"subsampling": "4:2:2"}, "jpeg75-422"),
        (JPEG75 | {"qtables": [[7] * 64, [9] * 64]}, "jpeg"),
        ({"form": "PNG"}, "png"),
    ],
)
def test_a_copy_is_named_after_its_file_format(how, name: str) -> None:
    # The suffix does not matter: all files are named .jpg.
    data = [saved(image, **how) for image in LEVELS[:2]]
    assert {cifar_tree._picture(each, Path("x.jpg"))[1] for each in data} == {name}


def test_one_file_of_another_kind_makes_a_mixed_copy_and_no_lossy_copy_is_cifar10(tmp_path, small) -> None:
    tree = make_tree(tmp_path, suffix="jpg", **JPEG75)
    first = cifar_tree.read_tree(tree)
    assert first.name == "cifar10-jpeg75"
    assert (first.train != LEVELS[: len(first.train)].transpose(0, 3, 1, 2)).any()
    (tree / "test" / "truck" / "0001.jpg").write_bytes(saved(LEVELS[0]))
    assert cifar_tree.read_tree(tree).name == "cifar10-mixed"


def test_qualities_are_those_of_the_standards_tables() -> None:
    # ITU-T T.81, tables K.1 and K.2, used unscaled at quality 50; at quality 100 all entries are 1.
    found = {quality: tables for tables, quality in cifar_tree._qualities().items()}
    assert len(found) == 100
    assert [table[:8] for table in found[50]] == [
        (16, 11, 10, 16, 24, 40, 51, 61),
        (17, 18, 24, 47, 99, 99, 99, 99),
    ]
    assert found[100] == ((1,) * 64, (1,) * 64)


def test_a_jpeg75_tree_that_is_not_the_checked_one_is_read_with_a_warning(tmp_path, small, caplog) -> None:
    cifar_tree.read_tree(make_tree(tmp_path, suffix="jpg", **JPEG75))
    assert "not the copy" in caplog.text


# Decoded once


def test_a_tree_is_decoded_once_and_cached(tmp_path, small, monkeypatch, caplog) -> None:
    tree = make_tree(tmp_path)
    first = cifar_tree.read_tree(tree)
    (kept,) = kept_in(tree)
    monkeypatch.setattr(cifar_tree, "_decode", None)
    again = cifar_tree.read_tree(tree)
    assert again.name == first.name and again.checksum == first.checksum
    assert (again.test == first.test).all() and (again.train_labels == first.train_labels).all()
    assert kept_in(tree) == [kept] and not caplog.text


def test_another_name_or_another_content_is_another_tree(tmp_path, small) -> None:
    tree = make_tree(tmp_path)
    first = cifar_tree.read_tree(tree)
    folder = tree / "train" / "bird"
    (folder / "0000.png").rename(folder / "0000a.png")
    assert cifar_tree.read_tree(tree).checksum == first.checksum  # the same images in the same order
    assert len(kept_in(tree)) == 2
    (folder / "0001.png").write_bytes(saved(LEVELS[-1]))
    assert cifar_tree.read_tree(tree).checksum != first.checksum
    assert len(kept_in(tree)) == 3


@pytest.mark.parametrize("change", ["content", "same size and time", "name", "removed", "added"])
def test_changed_files_are_never_answered_from_the_cache(tmp_path, small, change: str) -> None:
    tree = make_tree(tmp_path)
    before = cifar_tree.read_tree(tree)
    path = tree / "train" / "bird" / "0003.png"
    old, times = path.read_bytes(), path.stat()
    if change == "content":
        path.write_bytes(saved(LEVELS[-1]))
    elif change == "same size and time":
        other = saved(LEVELS[-1], compress_level=0)
        path.write_bytes(saved(Image.fromarray(LEVELS[0]), compress_level=0))
        cifar_tree.read_tree(tree)
        path.write_bytes(other)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == "name":  # which is now the last of its class
        path.rename(path.with_name("9999.png"))
    elif change == "removed":
        path.unlink()
    else:
        path.with_name("9999.png").write_bytes(old)
    if change in ("removed", "added"):
        with pytest.raises(DataError, match="expected 12 PNG or JPEG files"):
            cifar_tree.read_tree(tree)
    else:
        assert cifar_tree.read_tree(tree).checksum != before.checksum


def test_a_cache_of_other_files_under_the_name_of_these_is_not_used(tmp_path, small, caplog) -> None:
    first, second = make_tree(tmp_path / "1"), make_tree(tmp_path / "2")
    (second / "train" / "bird" / "0003.png").write_bytes(saved(LEVELS[-1]))
    found = cifar_tree.read_tree(first)
    cifar_tree.read_tree(second)
    ((kept,), (other,)) = kept_in(first), kept_in(second)
    kept.write_bytes(other.read_bytes())
    assert cifar_tree.read_tree(first).checksum == found.checksum
    assert "expected images decoded from sha256:" in caplog.text and "decoded again" in caplog.text


@pytest.mark.parametrize("broken", ["short", "other", "empty", "pickle"])
def test_a_broken_cache_is_never_used(tmp_path, small, caplog, broken: str) -> None:
    tree = make_tree(tmp_path)
    first = cifar_tree.read_tree(tree)
    (kept,) = kept_in(tree)
    whole = kept.read_bytes()
    with np.load(kept) as stored:
        arrays = dict(stored)
    if broken == "other":
        arrays["test"][0, 0, 0, 0] ^= 1
        np.savez(kept, **arrays)
    elif broken == "pickle":
        np.savez(kept, **arrays | {"name": np.array([object()])})
    else:
        kept.write_bytes(whole[: -len(whole) // 2] if broken == "short" else b"")
    assert cifar_tree.read_tree(tree).checksum == first.checksum
    assert f"{kept}: " in caplog.text and "decoded again" in caplog.text
    assert kept.read_bytes() == whole


def test_a_tree_in_a_read_only_folder_is_read_without_a_cache(tmp_path, small, caplog) -> None:
    tree = make_tree(tmp_path)
    first = cifar_tree.read_tree(tree)
    (kept,) = kept_in(tree)
    kept.unlink()
    kept.mkdir()  # a folder of that name: writing fails even for root
    assert cifar_tree.read_tree(tree).checksum == first.checksum
    assert f"cannot write {kept}" in caplog.text and not list(tmp_path.rglob("*.part"))


# Bad trees

CLASS_FOLDERS = "expected the class folders airplane, automobile"
IMAGE = "expected a PNG or JPEG image of 32x32 RGB pixels, found"
BAD_IMAGES = {
    "an unreadable one": saved(LEVELS[0])[:200],
    "an unreadable one (UnidentifiedImageError)": b"<html>",
    "an unreadable one (OSError)": saved(LEVELS[0], **JPEG75)[:400],
    "an empty file": b"",
    "64x64 RGB": saved(LEVELS[:4].reshape(64, 64, 3)),
    "32x32 L": saved(LEVELS[0, :, :, 0]),
    "32x32 RGBA": saved(Image.fromarray(LEVELS[0]).convert("RGBA")),
    "32x32 P": saved(Image.fromarray(LEVELS[0]).convert("P")),
    "32x32 1": saved(Image.fromarray(LEVELS[0]).convert("1")),
    "32x32 I;16": saved(LEVELS[0, :, :, 0].astype(np.uint16)),
    "32x32 CMYK": saved(Image.fromarray(LEVELS[0]).convert("CMYK"), form="JPEG"),
    "32x32 RGB with a transparent colour": saved(LEVELS[0], transparency=(1, 2, 3)),
    "at most 65,536 bytes": bytes(2**16 + 1),
}


def refused(tmp_path: Path) -> str:
    """The error message of both reading and `verify`, which leave no new files."""
    before = files_below(tmp_path)
    with pytest.raises(DataError) as caught:
        cifar.pictures(tmp_path)
    ((path, state),) = cifar.source.verify(tmp_path)
    assert (path, state) == (tmp_path / "cifar10", str(caught.value))
    assert "bench data fetch cifar10" in state and files_below(tmp_path) == before
    return state


@pytest.mark.parametrize(
    ("before", "after", "place", "said"),
    [
        ("train/cat", "cat", "train", f"{CLASS_FOLDERS}.*found no cat;"),
        ("test/cat", "test/dog/cat", "test", f"{CLASS_FOLDERS}.*found no cat;"),
        (
            "train/airplane",
            "train/plane",
            "train",
            f"{CLASS_FOLDERS}.*no airplane and plane, which is not a class",
        ),
        ("test", "val", "test", "expected a readable folder, found No such file"),
        ("train/ship/0003.png", "3.png", "train/ship", "expected 12 PNG or JPEG files, found 11"),
        ("train/ship/0003.png", "test/ship/3.png", "train/ship", "expected 12 .*, found 11"),
    ],
)
def test_a_tree_with_other_folders_is_refused(tmp_path, small, before, after, place, said) -> None:
    tree = make_tree(tmp_path)
    (tree / before).rename(tree / after)
    message = refused(tmp_path)
    assert message.startswith(f"{tree / place}: ") and re.search(said, message)


@pytest.mark.parametrize("found", BAD_IMAGES)
def test_a_bad_image_is_named_with_what_was_expected(tmp_path, small, found: str) -> None:
    path = make_tree(tmp_path) / "train" / "deer" / "0005.png"
    path.write_bytes(BAD_IMAGES[found])
    said = "expected" if "bytes" in found else IMAGE
    assert refused(tmp_path).startswith(f"{path}: {said} {found}")


def test_other_files_are_ignored(tmp_path, small) -> None:
    tree = make_tree(tmp_path)
    for name in (
        "labels.txt",
        "train/.DS_Store",
        "train/notes.txt",
        "train/dog/Thumbs.db",
        "test/cat/._1.png",
    ):
        (tree / name).write_bytes(b"?")
    assert cifar_tree.read_tree(tree).name == "cifar10-png"
    assert cifar.source.verify(tmp_path) == [(tree, "ok")]
