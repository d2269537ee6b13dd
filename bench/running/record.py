"""The files of a run: rows, arrays, and the JSON with settings, environment and code version."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.engine import kernels, parallel
from bench.errors import BenchError
from bench.records import runs, schema, store
from bench.running import versions
from bench.running.cell import Cell
from bench.settings import resolve
from bench.system import provenance
from bench.system.paths import without_folders


def write(
    cell: Cell,
    results: Path,
    rows: list[dict[str, Any]],
    arrays: dict[str, np.ndarray],
    device: torch.device,
    failure: dict[str, str] | None = None,
    classes: int | None = None,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write the cell's next run and its code version; returns the path of the rows.

    failure: type, message and traceback of a run that failed. more: added to the JSON.
    """
    name = cell.next_run(results)
    commit, dirty = provenance.commit()
    code = _store_code(cell, results, failure)
    common = {
        "run": name,
        "method": cell.entry.name,
        "task": cell.task.name,
        "train": cell.task.train,
        "preset": cell.preset,
        "seed": cell.seed,
        "config": cell.settings.digest(),
        "commit": commit,
        "device": device.type,
        "source": "measured",
        "schema": schema.SCHEMA,
    }
    about = {
        "cell": cell.key(),
        "created": datetime.now(UTC).isoformat(),  # for people: clocks of several hosts give no order
        "order": runs.next_order(results, cell.family),
        "config": cell.settings.document(),
        "changed": _changed(cell),
        "sizes": list(cell.sizes),
        "classes": classes,
        "checksums": dict(cell.checksums),
        "code": code,
        "commit": commit,
        "dirty": dirty,
        "environment": {
            **provenance.environment(device.type, parallel.threads()),
            "own_kernels": f"level {kernels.level()}" if kernels.compiled() else "none",
        },
        "failure": failure,
        **(more or {}),
    }
    return store.write_run(results, name, [{**r, **common} for r in rows], arrays, about)


def _changed(cell: Cell) -> dict[str, Any]:
    """The settings that differ from those of the preset: the report names a configuration by them."""
    stated = resolve(cell.entry, type(cell.settings.method), cell.preset, cell.task.train, {}).document()
    return {name: value for name, value in cell.settings.document().items() if value != stated[name]}


def _store_code(cell: Cell, results: Path, failure: dict[str, str] | None) -> str:
    """Store the cell's code version and return it; empty for a failed cell whose sources cannot be read."""
    try:
        definitions = cell.definitions()
    except BenchError:
        if failure is None:
            raise
        return ""
    version = versions.version(definitions)
    store.write_code(results, version, definitions, cell.roots())
    return version


def described(error: BaseException, results: Path) -> dict[str, str]:
    """A failure for the JSON: type, message and traceback of an error, without folders of this machine."""
    known = {"RESULTS": results}
    return {
        "type": type(error).__name__,
        "message": without_folders(str(error), known),
        "traceback": without_folders("".join(traceback.format_exception(error)), known),
    }
