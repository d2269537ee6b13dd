"""The data of tasks, of which one is held at a time."""

from __future__ import annotations

from pathlib import Path

from bench import registry
from bench.task import Data


class TaskData:
    """Reads the data of tasks by name; those of the last one are kept.

    root: the folder of data sets that are not embedded. Raises DataError where data cannot be read.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.last: tuple[str, Data] | None = None

    def __call__(self, name: str) -> Data:
        if self.last is None or self.last[0] != name:
            self.last = None  # before the next one is read
            self.last = (name, registry.task(name).load(self.root))
        return self.last[1]
