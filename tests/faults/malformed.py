"""Malformed files for every reader: each is refused with a clear error or read, without writing or hanging.

    python tests/faults/malformed.py --inputs 200

For each kind of file a valid one is made and then cut, overwritten, lengthened, doubled or emptied at
random, or replaced by a harmful one. A reader may raise only the suite's own errors.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import struct
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench import registry
from bench.datasets import cifar_tree, files, notmnist
from bench.errors import BenchError
from bench.records import schema, store
from bench.training import checkpoint

SECONDS = 5.0  # time limit of a reader
BOMB = 2**28  # bytes of zeros, compressed to a thousandth


@dataclass(frozen=True)
class Kind:
    """A kind of file: a valid one, harmful ones, and its reader (for a path in a results folder)."""

    whole: Callable[[], bytes]
    harmful: tuple[Callable[[], bytes], ...]
    read: Callable[[Path], object]
    name: str  # of the file


@dataclass
class Tally:
    """Counts of outcomes."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def rows() -> bytes:
    found = [schema.row("accuracy", 0.5, method="m", task="t", seed=0, members=n, schema=1) for n in range(9)]
    return store.to_csv(found).encode()


def about() -> bytes:
    return json.dumps(
        {"cell": "c", "code": "1", "created": "x", "failure": None, "config": {"a": 1}}
    ).encode()


def arrays(**more: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=True, a=np.arange(99.0), **more)
    return out.getvalue()


def huge_array() -> bytes:
    """An archive whose array claims more elements than there is memory."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    return zipped({"a.npy": out.getvalue()})


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes], link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(f"{notmnist.SMALL}/A/link.png")
            info.type, info.linkname = tarfile.SYMTYPE, link
            archive.addfile(info)
    return out.getvalue()


def picture(side: int = 28, mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (side, side)).save(out, "PNG")
    return out.getvalue()


def swollen_png() -> bytes:
    """A PNG file whose header claims 100,000 x 100,000 pixels."""
    data = bytearray(picture())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    return bytes(data)


def letters() -> dict[str, bytes]:
    return {f"{notmnist.SMALL}/{letter}/{i}.png": picture() for letter in "ABC" for i in range(3)}


def idx() -> bytes:
    return struct.pack(">IIII", 0x0803, 5, 28, 28) + bytes(5 * 784)


def saved() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.write(Path(folder) / "c", {"w": torch.ones(3, 4), "e": torch.zeros(0)}, {"rest": {}})
        return (Path(folder) / "c").read_bytes()


def read_idx(path: Path) -> object:
    return files.idx(files.read(path, files.MAX_BYTES, "fetch it"), path.name, (None, 28, 28))


TOML = b'about = "a method"\n[smoke]\nepochs = 1\n[quick.digits]\nlr = 0.1\n[variants.x]\nbeta = 2\n'
ESCAPE = {f"../../{notmnist.SMALL}/A/x.png": picture(), "/tmp/escaped.png": picture()}

KINDS = {
    "csv": Kind(rows, (lambda: b"a,b\n" * 9, lambda: b"\0" * 99), store.read_csv, "raw/r.csv"),
    "json": Kind(
        about,
        (lambda: b"[" * 100_000, lambda: b'{"cell": [1]}', lambda: b"3", lambda: b'{"failure": 7}'),
        lambda path: store.read_about(path.parent.parent, "r"),
        "raw/r.json",
    ),
    "npz": Kind(
        arrays,
        (lambda: zipped({"a.npy": bytes(BOMB)}), huge_array, lambda: arrays(o=np.array([{}], dtype=object))),
        lambda path: store.read_arrays(path.parent.parent, "r"),
        "raw/r.npz",
    ),
    "toml": Kind(
        lambda: TOML,
        (lambda: b"variants = 3", lambda: b'[variants.x]\nname = "../../x"', lambda: b"x = " + b"[" * 50_000),
        lambda path: registry.read_toml(path, "m"),
        "m.toml",
    ),
    "safetensors": Kind(
        saved,
        (lambda: struct.pack("<Q", 2**62) + b"{}", lambda: b"\x80\x04K\x01."),
        checkpoint.read,
        "fit.safetensors",
    ),
    "idx": Kind(
        idx,
        (lambda: struct.pack(">IIII", 0x0803, 2**31, 28, 28), lambda: struct.pack(">II", 0x0801, 5)),
        read_idx,
        "t10k-images-idx3-ubyte",
    ),
    "idx.gz": Kind(
        lambda: gzip.compress(idx()),
        (lambda: gzip.compress(bytes(BOMB)), idx),
        read_idx,
        "t10k-images-idx3-ubyte.gz",
    ),
    "png": Kind(
        lambda: picture(32, "RGB"),
        (swollen_png, lambda: picture(33, "RGB"), lambda: b"GIF89a" + bytes(99)),
        lambda path: cifar_tree._picture(files.read(path, cifar_tree.MAX_PICTURE, "mend it"), path),
        "x.png",
    ),
    "zip": Kind(
        lambda: zipped(letters()),
        (lambda: zipped(ESCAPE), lambda: zipped({f"{notmnist.SMALL}/A/x.png": bytes(BOMB)})),
        lambda path: notmnist.decode(notmnist.read_archive(path.read_bytes(), path.name), path.name),
        "l.zip",
    ),
    "tar.gz": Kind(
        lambda: tarred(letters()),
        (lambda: tarred(ESCAPE), lambda: tarred({"x": bytes(BOMB)}), lambda: tarred({}, link="/etc/passwd")),
        lambda path: notmnist.decode(notmnist.read_archive(path.read_bytes(), path.name), path.name),
        "l.tar.gz",
    ),
}


def spoil(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one or a few random corruptions."""
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 3))):
        place = draw.randrange(len(spoilt) + 1)
        match draw.randrange(6):
            case 0:
                del spoilt[place:]
            case 1:
                spoilt[place : place + 4] = draw.randbytes(4)
            case 2:
                spoilt[place:place] = draw.randbytes(draw.randrange(1, 64))
            case 3:
                del spoilt[place : place + draw.randrange(1, 64)]
            case 4:
                spoilt += spoilt[place:]
            case 5:
                spoilt[place : place + 1] = draw.choice((b"\0", b"\xff", b",", b'"', b"{", b"9" * 30))
    return bytes(spoilt)


def inputs(kind: Kind, count: int, draw: random.Random) -> list[bytes]:
    whole = kind.whole()
    made = [harm() for harm in kind.harmful]
    return (made + [spoil(whole, draw) for _ in range(count)])[:count]


def feed(count: int, seed: int) -> Tally:
    """Test this many malformed inputs, divided equally among the kinds."""
    tally = Tally()
    draw = random.Random(seed)
    share = -(-count // len(KINDS))
    for label, kind in KINDS.items():
        for number, data in enumerate(inputs(kind, share, draw)):
            verdict = one(kind, data)
            tally.counts[f"{label}: {verdict.partition(':')[0]}"] += 1
            if verdict not in ("refused", "read"):
                tally.faults.append(f"{label} {number}: {verdict}")
    return tally


def one(kind: Kind, data: bytes) -> str:
    """`refused`, `read`, or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in" / kind.name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        begun = time.perf_counter()
        try:
            kind.read(path)
            verdict = "read"
        except BenchError as error:
            verdict = (
                "refused" if path.name in str(error) and "expected" in str(error) else f"unclear: {error}"
            )
        except Exception as error:
            verdict = f"{type(error).__name__}: {error}"
        if time.perf_counter() - begun > SECONDS:
            return f"slow: {time.perf_counter() - begun:.1f} s, {verdict}"
        left = [p for p in Path(folder).rglob("*") if p.is_file() and p != path]
        return f"wrote {left}" if left or Path("/tmp/escaped.png").exists() else verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally = feed(options.inputs, options.seed)
    for verdict, number in sorted(tally.counts.items()):
        print(f"{number:5} {verdict}")
    print("\n".join(tally.faults) or "no fault")
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
