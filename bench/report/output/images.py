"""Figures as SVG, PNG and PDF bytes, deterministic, drawn on all cores, and only where something changed."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends import backend_pdf, backend_svg
from matplotlib.figure import Figure

from bench.records import schema
from bench.report.layout.figures import drawing_style
from bench.system import machine

DPI = 220
KINDS = ("svg", "png", "pdf")
RECORD = "drawn.json"  # beside the figures: the digests of what each was drawn from, and of its files
# Neither dates nor versions.
_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
# Imported here and not by `savefig`, once in each process that draws.
_BACKENDS = {"svg": backend_svg.__name__, "pdf": backend_pdf.__name__}
Plan = partial[Figure]
Files = dict[str, bytes]


def images(plans: Mapping[str, Plan], folder: Path | None = None) -> tuple[dict[str, Files], bytes]:
    """Each figure's bytes by kind (`svg`, `png`, `pdf`) under its name, and the record of what was drawn.

    plans: by name, the call that draws it: a function of a module with its arguments. folder: where an
    earlier report wrote figures and record; those drawn from the same, whose files are as they were
    written, are read from there. The others are drawn by as many processes as there are cores, as they take
    most of a report's time; if the system cannot fork, by this one.
    """
    digests = {name: _inputs(plan) for name, plan in plans.items()}
    earlier = {} if folder is None else _record(folder)
    found: dict[str, Files] = {}
    if folder is not None:
        same = [name for name in plans if earlier.get(name, {}).get("inputs") == digests[name]]
        found |= {name: files for name in same if (files := _unchanged(folder, name, earlier[name]))}
    rest = [name for name in plans if name not in found]
    found |= zip(rest, _all_drawn([plans[name] for name in rest]), strict=True)
    record = {
        name: {"inputs": digests[name], **{kind: _sha(data) for kind, data in found[name].items()}}
        for name in sorted(plans)
    }
    return {name: found[name] for name in plans}, (json.dumps(record, indent=1) + "\n").encode()


def _all_drawn(plans: Sequence[Plan]) -> Iterator[Files]:
    """The files of each plan, in order."""
    count = min(machine.cores(), len(plans))
    if count < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(draw, plans)
        return
    forking = multiprocessing.get_context("fork")
    # Handed over by the fork: the plans need not be pickled.
    with ProcessPoolExecutor(count, forking, _hold, (plans,)) as pool:
        yield from pool.map(_held, range(len(plans)))


_here: list[Plan] = []  # of a process that draws


def _hold(plans: Sequence[Plan]) -> None:
    _here[:] = plans


def _held(place: int) -> Files:
    return draw(_here[place])


def draw(plan: Plan) -> Files:
    """The files of a figure."""
    found = {}
    with drawing_style():
        figure = plan()
        for kind in KINDS:
            out = io.BytesIO()
            figure.savefig(out, format=kind, dpi=DPI, metadata=_METADATA[kind], facecolor="white")
            found[kind] = out.getvalue()
    return found


def _unchanged(folder: Path, name: str, known: Mapping[str, str]) -> Files:
    """The files of a figure of an earlier report; none if one is missing or was changed since."""
    paths = {kind: folder / f"{name}.{kind}" for kind in KINDS}
    files = {kind: path.read_bytes() for kind, path in paths.items() if path.is_file()}
    return (
        files if {kind: known.get(kind) for kind in KINDS} == {k: _sha(f) for k, f in files.items()} else {}
    )


def _record(folder: Path) -> dict[str, dict[str, str]]:
    """The record of an earlier report; empty where there is none that can be read: all is drawn again."""
    try:
        found = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and all(isinstance(v, dict) for v in found.values()) else {}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _inputs(plan: Plan) -> str:
    """The digest of all that a figure depends on: function, arguments, code of the report, libraries."""
    digest = hashlib.sha256(_code().encode())
    for part in _parts((plan.func.__module__, plan.func.__qualname__, plan.args, plan.keywords)):
        digest.update(part)
    return digest.hexdigest()


@cache
def _code() -> str:
    """The digest of the code of the report and of the names of metrics, and the versions of the libraries."""
    digest = hashlib.sha256(f"{matplotlib.__version__} {np.__version__} {DPI}".encode())
    here = Path(__file__).parents[1]
    for path in (*sorted(here.rglob("*.py")), Path(schema.__file__)):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """A value of a plan as bytes, different for different values."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"array {value.dtype} {value.shape}\n".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, pd.DataFrame):
        yield f"frame {list(value.columns)!r} {list(value.dtypes)!r}\n".encode()
        yield repr([value[column].tolist() for column in value]).encode()
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _parts({field.name: getattr(value, field.name) for field in fields(value)})
    elif isinstance(value, Mapping):
        yield from _parts([(key, value[key]) for key in sorted(value, key=repr)])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} values\n".encode()
        for item in value:
            yield from _parts(item)
    elif value is None or isinstance(value, str | int | float | np.generic | Path):
        yield f"{value!r}\n".encode()
    else:
        raise TypeError(
            f"expected an argument of a figure that can be digested, found {type(value).__name__}; pass "
            "frames, arrays, numbers, words and dataclasses of these to functools.partial"
        )
