"""Data files: limited in size, verified by checksum, downloaded atomically."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import os
import shutil
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import registry
from bench.datasets import files, mnist, notmnist
from bench.errors import DataError

ROOT = os.environ.get("BENCH_DATA")
real_data = pytest.mark.skipif(not ROOT, reason="BENCH_DATA is not set: no folder with MNIST and notMNIST")


def idx_file(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def png(level: int, size: tuple[int, int] = (28, 28)) -> bytes:
    out = io.BytesIO()
    Image.new("L", size, level).save(out, "PNG")
    return out.getvalue()


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Reading IDX files

ARRAY = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)


def test_idx_returns_what_was_written() -> None:
    assert (files.idx(idx_file(ARRAY), "x", (None, 28, 28)) == ARRAY).all()


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (idx_file(ARRAY)[:-1], "expected 2,368 bytes, found 2,367: truncated"),
        (idx_file(ARRAY) + b"x", "too long"),
        (idx_file(ARRAY)[:10], "expected an IDX header of 16 bytes, found 10"),
        (b"", "found 0"),
        (b"<html>" + bytes(100), "expected magic number 2051"),
        (idx_file(ARRAY[0]), "expected magic number 2051 .*found 2050"),
        (idx_file(ARRAY[:, :8]), "expected sizes any x 28 x 28, found 3 x 8 x 28"),
        (struct.pack(">4I", 2051, 2**32 - 1, 28, 28), "truncated"),
    ],
)
def test_a_bad_idx_file_is_an_error_that_says_why(data: bytes, found: str) -> None:
    with pytest.raises(DataError, match=found):
        files.idx(data, "some-ubyte", (None, 28, 28))


def test_decompression_is_limited_to_the_expected_size(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(DataError, match="at most 1,000 bytes"):
        files.read(tmp_path / "x.gz", 1000, "")


def test_an_archive_is_read_without_decompression(tmp_path: Path) -> None:
    archive = gzip.compress(bytes(10**6))
    (tmp_path / "x.tar.gz").write_bytes(archive)
    assert files.read(tmp_path / "x.tar.gz", len(archive), "") == archive


# Files known by checksum

CONTENT = idx_file(np.arange(100, dtype=np.uint8))
PACKED = gzip.compress(CONTENT)


def known(url: str = "", packed: bytes = PACKED) -> files.Files:
    file = files.File(
        "SET/raw/labels-ubyte",
        len(CONTENT),
        f"sha256:{files.sha256(CONTENT)}",
        (url,),
        f"md5:{hashlib.md5(packed).hexdigest()}",
    )
    return files.Files("set", (file,))


@pytest.mark.parametrize(("suffix", "data"), [("", CONTENT), (".gz", PACKED)])
def test_a_file_is_read_plain_or_compressed(tmp_path: Path, suffix: str, data: bytes) -> None:
    path = tmp_path / f"SET/raw/labels-ubyte{suffix}"
    files.write(path, data)
    assert known().read(tmp_path) == {"labels-ubyte": CONTENT}
    assert known().verify(tmp_path) == [(path, "ok")]
    assert known().fetch(tmp_path, progress=False) == [path]


@pytest.mark.parametrize(
    ("suffix", "data", "found"),
    [
        ("", CONTENT[:-1], "expected 108 bytes, found 107: truncated"),
        ("", CONTENT[:-1] + b"x", "expected sha256:.*found sha256:"),
        ("", CONTENT + b"x", "at most 108 bytes"),
        (".gz", PACKED[:-10], "expected a whole gzip"),
        (".gz", CONTENT, "expected a whole gzip"),
    ],
)
def test_a_bad_file_is_an_error_and_is_not_changed(tmp_path: Path, suffix: str, data: bytes, found) -> None:
    path = tmp_path / f"SET/raw/labels-ubyte{suffix}"
    files.write(path, data)
    for use in (known().read, functools.partial(known().fetch, progress=False)):
        with pytest.raises(DataError, match=f"{path}.*{found}.*remove it, then `bench data fetch set`"):
            use(tmp_path)
    assert found.split(".*")[0] in known().verify(tmp_path)[0][1]
    assert path.read_bytes() == data and listing(tmp_path) == [path.name]


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", ["mnist", "mnist-5000", "notmnist"])
def test_missing_data_names_files_folder_and_what_to_do(tmp_path: Path, name: str, given: bool) -> None:
    with pytest.raises(DataError) as caught:
        registry.task(name).load(tmp_path if given else None)
    for part in ("t10k-images-idx3-ubyte", "NIST", "data fetch", "--data DIR", "BENCH_DATA", "`digits`"):
        assert part in str(caught.value)
    assert str(tmp_path) in str(caught.value) or not given
    assert not listing(tmp_path)


# Downloads


@pytest.fixture
def server(tmp_path_factory, monkeypatch) -> Iterator[tuple[str, Path]]:
    """A local HTTP server: its address, and the folder it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path_factory.mktemp("served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("progress", [True, False])
def test_a_download_with_the_right_checksum_is_stored_decompressed(server, tmp_path: Path, progress) -> None:
    url, served = server
    (served / "labels.gz").write_bytes(PACKED)
    source = known(f"{url}labels.gz")
    assert source.verify(tmp_path) == [(tmp_path / "SET/raw/labels-ubyte", "missing")]
    source.fetch(tmp_path, progress)
    assert source.verify(tmp_path)[0][1] == "ok" and listing(tmp_path) == ["labels-ubyte"]


@pytest.mark.parametrize(
    ("sent", "expected", "found"),
    [
        (PACKED[:-9], PACKED, "expected md5:.*found md5:"),
        (gzip.compress(b"other"), gzip.compress(b"other"), "expected sha256:.*found sha256:"),
        (b"not a gzip", b"not a gzip", "gzip"),
        (bytes(10**6), PACKED, "expected at most .* bytes, found more"),
        (None, PACKED, "404"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(server, tmp_path, sent, expected, found) -> None:
    url, served = server
    if sent is not None:
        (served / "labels.gz").write_bytes(sent)
    with pytest.raises(DataError, match=found) as caught:
        known(f"{url}labels.gz", expected).fetch(tmp_path, progress=False)
    assert "labels-ubyte" in str(caught.value) and url in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_next_mirror_is_used_if_the_first_fails(server, tmp_path: Path) -> None:
    url, served = server
    (served / "good.gz").write_bytes(PACKED)
    (served / "bad.gz").write_bytes(b"?")
    file = replace(known().files[0], urls=(f"{url}gone.gz", f"{url}bad.gz", f"{url}good.gz"))
    assert files.download(file, "set", progress=False) == CONTENT


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot write .*--data DIR"):
        files.write(tmp_path / "file" / "x", b"")
    assert listing(tmp_path) == ["file"]


# notMNIST

SHAPES = {f"{letter}/{i}.png": png(10 * i + k) for k, letter in enumerate("ABJ") for i in range(2)}
BROKEN = {"A/RGVt.png": b"", "F/Q3Jv.png": png(9)[:40]}


def make_folder(root: Path, pictures: dict[str, bytes]) -> Path:
    folder = root / "notMNIST" / "notMNIST_small"
    for name, data in pictures.items():
        files.write(folder / name, data)
    return folder


def make_tar(members: dict[str, bytes], link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return out.getvalue()


def make_zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def inside(pictures: dict[str, bytes]) -> dict[str, bytes]:
    return {f"notMNIST_small/{name}": data for name, data in pictures.items()}


def test_the_two_broken_files_of_the_png_folder_are_skipped_and_named(tmp_path: Path, caplog) -> None:
    folder = make_folder(tmp_path, {**SHAPES, **BROKEN})
    images, labels, _ = notmnist.decode(notmnist.read_folder(folder), "notMNIST_small")
    assert images[:, 0, 0].tolist() == [0, 10, 1, 11, 2, 12] and labels.tolist() == [0, 0, 1, 1, 9, 9]
    assert "skipped 2" in caplog.text and all(name in caplog.text for name in BROKEN)


def test_folder_tar_and_zip_of_the_same_files_are_the_same_data(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, SHAPES)
    extra = {"notMNIST_small/README": b"", "__MACOSX/notMNIST_small/A/._0.png": b"x"}
    backwards = dict(reversed(inside(SHAPES).items())) | extra
    forms = [
        notmnist.read_folder(folder),
        notmnist.read_archive(make_tar(backwards), "x.tar.gz"),
        notmnist.read_archive(make_zip(backwards), "x.zip"),
    ]
    sums = [notmnist.decode(form, "x")[2] for form in forms]
    assert sums[0] == sums[1] == sums[2]


def test_more_broken_pictures_than_the_original_has_are_an_error() -> None:
    pictures = {**SHAPES, **BROKEN, "B/large.png": png(1, (4000, 4000))}
    with pytest.raises(DataError, match="expected 2 unreadable PNG files, found 3"):
        notmnist.decode(pictures.items(), "notMNIST_small")


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize(
    ("path", "data", "found"),
    [
        ("notMNIST_small/../../A/escape.png", b"x", "inside the archive"),
        ("/A/escape.png", b"x", "inside the archive"),
        ("notMNIST_small/A/huge.png", bytes(notmnist.MAX_PNG + 1), "at most"),
    ],
)
def test_an_archive_with_outside_paths_or_oversized_members_is_refused(
    make, path: str, data: bytes, found: str
) -> None:
    name = "x.zip" if make is make_zip else "x.tar.gz"
    with pytest.raises(DataError, match=found):
        list(notmnist.read_archive(make({**inside(SHAPES), path: data}), name))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.tar.gz", make_tar({}, link="notMNIST_small/A/link.png")),
        ("x.tar.gz", make_tar(inside(SHAPES))[:200]),
        ("x.tar.gz", b"?"),
        ("x.zip", make_zip(inside(SHAPES))[:-20]),
    ],
)
def test_a_broken_archive_is_an_error(name: str, data: bytes) -> None:
    with pytest.raises(DataError, match="expected a whole archive"):
        list(notmnist.read_archive(data, name))


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notMNIST" / "notMNIST_small.zip"
    files.write(path, make_zip(inside(SHAPES)))
    with pytest.raises(DataError, match=r"expected md5:3de91f.*found md5:"):
        notmnist.letters(tmp_path)
    assert "md5:" in registry.source("notmnist").verify(tmp_path)[0][1]


def test_a_set_with_too_few_letters_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, SHAPES)
    with pytest.raises(DataError, match="expected 10,000 letters, found 6"):
        notmnist.letters(tmp_path)


def write_pair(root: Path, count: int, top: int = 9, images: np.ndarray | None = None) -> None:
    images = np.zeros((count, 28, 28), np.uint8) if images is None else images
    files.write(root / notmnist.IMAGES.path, idx_file(images))
    labels = (np.arange(count) % (top + 1)).astype(np.uint8)
    files.write(root / f"{notmnist.LABELS.path}.gz", gzip.compress(idx_file(labels)))


def test_another_copy_of_the_mnist_format_files_is_read_and_its_checksum_recorded(tmp_path, caplog) -> None:
    write_pair(tmp_path, 10_000)
    images, labels, sums = notmnist.letters(tmp_path)
    assert images.shape == (10_000, 28, 28) and labels.max() == 9
    assert sums[notmnist.IMAGES.path] == files.sha256((tmp_path / notmnist.IMAGES.path).read_bytes())
    assert "not the copy" in caplog.text


def test_labels_beyond_the_ten_letters_are_an_error(tmp_path: Path) -> None:
    write_pair(tmp_path, 10_000, top=10)
    with pytest.raises(DataError, match="expected labels 0 to 9, found 10"):
        notmnist.letters(tmp_path)


def test_a_failed_fetch_of_notmnist_names_every_address(server, tmp_path: Path, monkeypatch) -> None:
    url, _ = server
    local = tuple(replace(archive, urls=(f"{url}{archive.name}",)) for archive in notmnist.ARCHIVES)
    monkeypatch.setattr(notmnist, "ARCHIVES", local)
    with pytest.raises(DataError) as caught:
        registry.source("notmnist").fetch(tmp_path, progress=False)
    assert all(archive.urls[0] in str(caught.value) for archive in local)
    assert list(tmp_path.iterdir()) == []


# The real files


@real_data
@pytest.mark.parametrize("name", ["mnist", "notmnist"])
def test_the_real_files_verify(name: str) -> None:
    assert {state for _, state in registry.source(name).verify(Path(str(ROOT)))} == {"ok"}


@real_data
def test_mnist_under_the_name_of_notmnist_is_refused(tmp_path: Path) -> None:
    raw = Path(str(ROOT)) / "MNIST" / "raw"
    for name in (notmnist.IMAGES.name, notmnist.LABELS.name):
        found = files.find(raw, name)
        assert found is not None
        (tmp_path / "notMNIST").mkdir(exist_ok=True)
        shutil.copy(found, tmp_path / "notMNIST" / found.name)
    with pytest.raises(DataError, match="expected notMNIST, found MNIST itself"):
        notmnist.letters(tmp_path)


@real_data
def test_a_real_mnist_file_cut_short_is_an_error(tmp_path: Path) -> None:
    for file in mnist.source.files:
        found = files.find(Path(str(ROOT)), file.path)
        assert found is not None
        files.write(tmp_path / file.path, files.read(found, file.size, "")[:-1])
    with pytest.raises(DataError, match=r"expected 47,040,016 bytes, found 47,040,015: truncated"):
        mnist.load(tmp_path)
