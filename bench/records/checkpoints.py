"""What the checkpoint of a fit says of itself, read without torch and without its tensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open


@dataclass(frozen=True)
class Begun:
    """A fit with a checkpoint. rounds: done. flop: that they took. finished: no round is left."""

    rounds: int
    flop: int
    finished: bool


def begun(path: Path) -> Begun | None:
    """The state of the fit whose checkpoint is `path`; None if there is none, or none that can be read.

    Whether it can be used, and whose it is, is checked where a fit loads it.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})["about"])
        return Begun(int(about["rounds"]), int(about["cost"]["flop"]), bool(about["finished"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
