"""Runs whose files a test has changed, as if they had been written so."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def sealed(results: Path, run: str, **changes: object) -> None:
    """Store the digests of a run's files as they are now in its JSON, with other changes of it."""
    folder = results / "raw"
    path = folder / f"{run}.json"
    files = {"rows_sha256": f"{run}.csv", "arrays_sha256": f"{run}.npz"}
    digests = {
        key: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for key, name in files.items()
        if (folder / name).exists()
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | digests | changes))
