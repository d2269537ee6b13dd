"""Files: written atomically, read up to a size limit."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from bench.errors import BenchError


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically: after a failure it is absent or as before, never partial."""
    # A process number would not do: other hosts and containers that share the folder have it too.
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise BenchError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder with --results"
        ) from error


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of a file. Raises OSError if it cannot be read, ValueError if it is too long."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"more than {limit:,} bytes")
    return data
