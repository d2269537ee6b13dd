"""notMNIST's PNG files: complete sets, names of files, and kinds of PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import registry
from bench.datasets import notmnist
from bench.errors import DataError

LEAST = 20  # of each letter, in these tests
LEVELS = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
OPAQUE = np.full_like(LEVELS, 255)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(notmnist, "LEAST", LEAST)
    monkeypatch.setattr(notmnist, "COUNT", LEAST * 10)


def saved(image: Image.Image, form: str = "PNG", **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **how)
    return out.getvalue()


def png(array: np.ndarray, mode: str = "") -> bytes:
    image = Image.fromarray(array)
    return saved(image.convert(mode) if mode else image)


def make_set(root: Path, counts: dict[str, int], suffix: str = ".png") -> Path:
    folder = root / "notMNIST" / "notMNIST_small"
    for letter, count in counts.items():
        (folder / letter).mkdir(parents=True)
        for i in range(count):
            (folder / letter / f"{i}{suffix}").write_bytes(png(np.full((28, 28), i, np.uint8)))
    return folder


def refused(root: Path) -> str:
    """The message of the reader, which `verify` repeats."""
    with pytest.raises(DataError) as caught:
        notmnist.letters(root)
    assert [state for _, state in registry.source("notmnist").verify(root)] == [str(caught.value)]
    return str(caught.value)


# Complete sets


def test_a_set_that_lacks_letters_is_refused_by_their_names_though_its_total_suffices(tmp_path) -> None:
    make_set(tmp_path, dict.fromkeys("ABCDEF", 2 * LEAST))
    said = "at least 37 images of each letter A to J, found 0 of G, 0 of H, 0 of I, 0 of J;"
    assert said in refused(tmp_path)


def test_a_set_whose_last_letter_is_incomplete_is_refused(tmp_path) -> None:
    make_set(tmp_path, dict.fromkeys("ABCDEFGHI", 2 * LEAST) | {"J": 2 * LEAST - 4})
    assert "found 36 of J" in refused(tmp_path)


def test_the_originals_counts_without_its_broken_files_are_complete(tmp_path) -> None:
    counts = dict.fromkeys("ABCDEF", 31) | dict.fromkeys("GHIJ", 30) | {"A": 29}
    make_set(tmp_path, counts)
    assert np.bincount(notmnist.letters(tmp_path)[1]).tolist() == [counts[letter] for letter in "ABCDEFGHIJ"]


def test_a_pair_of_files_that_lacks_a_letter_is_refused_and_random_shares_are_not(tmp_path) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 600).astype(np.uint8)
    for labels_kept in (labels, labels[labels != 7]):
        for file, array in ((notmnist.IMAGES, np.zeros((len(labels_kept), 28, 28), np.uint8)),
                            (notmnist.LABELS, labels_kept)):  # fmt: skip
            path = tmp_path / file.path
            path.parent.mkdir(exist_ok=True)
            sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
            path.write_bytes((0x0800 + array.ndim).to_bytes(4, "big") + sizes + array.tobytes())
        if labels_kept is labels:
            assert len(notmnist.letters(tmp_path)[1]) == 600
    with pytest.raises(DataError, match="found 0 of H"):
        notmnist.letters(tmp_path)


# Names of files


def test_suffixes_are_read_in_either_case(tmp_path) -> None:
    folder = make_set(tmp_path, dict.fromkeys("ABCDEFGHIJ", LEAST))
    for path in list((folder / "C").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    assert np.bincount(notmnist.letters(tmp_path)[1]).tolist() == [LEAST] * 10
    member = notmnist._PICTURE.fullmatch("notMNIST_small/C/0.PNG")
    assert member is not None and member["name"] == "C/0.PNG"


def test_hidden_files_are_no_pictures(tmp_path) -> None:
    folder = make_set(tmp_path, dict.fromkeys("ABCDEFGHIJ", LEAST))
    for name in ("A/._0.png", "A/._1.png", "B/._0.png", "C/.DS_Store", ".DS_Store"):
        (folder / name).write_bytes(b"Mac OS X")
    assert len(notmnist.letters(tmp_path)[1]) == 10 * LEAST
    assert notmnist._PICTURE.fullmatch("notMNIST_small/A/._0.png") is None


# Kinds of PNG


@pytest.mark.parametrize(
    ("data", "levels"),
    [
        (png(LEVELS), LEVELS),
        (png(LEVELS.astype(np.uint16) * 257), LEVELS),
        (png(LEVELS.astype(np.uint16)), np.rint(LEVELS / 257)),  # nearly black, as the file says
        (png(np.dstack([LEVELS] * 3)), LEVELS),
        (png(np.dstack([LEVELS] * 3 + [OPAQUE])), LEVELS),
        (png(np.dstack([LEVELS, OPAQUE])), LEVELS),
        (png(LEVELS, "P"), LEVELS),
        (png(LEVELS > 127), 255 * (LEVELS > 127)),
        (saved(Image.fromarray(LEVELS // 64 * 85), bits=2), LEVELS // 64 * 85),
    ],
    ids=["grey", "16 bit", "dark 16 bit", "RGB", "RGBA", "grey with alpha", "palette", "1 bit", "2 bit"],
)
def test_every_opaque_kind_of_png_has_its_own_grey_levels(data: bytes, levels: np.ndarray) -> None:
    found = notmnist._picture(data, "A/0.png")
    assert found is not None and found.dtype == np.uint8 and (found == levels).all()


@pytest.mark.parametrize(
    "data",
    [
        png(np.dstack([OPAQUE] * 3 + [LEVELS])),
        png(np.dstack([OPAQUE, LEVELS])),
        saved(Image.fromarray(np.dstack([LEVELS] * 3)).quantize(16), transparency=3),
        saved(Image.fromarray(LEVELS), transparency=int(LEVELS[0, 0])),
    ],
    ids=["RGBA", "grey with alpha", "palette", "transparent level"],
)
def test_a_transparent_picture_is_refused_by_name(tmp_path, data: bytes) -> None:
    folder = make_set(tmp_path, dict.fromkeys("ABCDEFGHIJ", LEAST))
    (folder / "D" / "5.png").write_bytes(data)
    assert refused(tmp_path).startswith(f"{folder}/D/5.png: expected an opaque image")


def test_a_third_unreadable_picture_is_an_error_that_names_them(tmp_path) -> None:
    folder = make_set(tmp_path, dict.fromkeys("ABCDEFGHIJ", LEAST + 1))
    for name in ("A/1.png", "B/2.png"):
        (folder / name).write_bytes(b"")
    assert len(notmnist.letters(tmp_path)[1]) == 10 * (LEAST + 1) - 2
    (folder / "C/3.png").write_bytes(saved(Image.fromarray(LEVELS), "JPEG"))
    assert "found 3: A/1.png, B/2.png, C/3.png" in refused(tmp_path)
