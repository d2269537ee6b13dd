"""The data of tasks, one task in memory at a time, and what their canaries find."""

from __future__ import annotations

from pathlib import Path

from bench import registry
from bench.evaluations import data_canaries
from bench.task import Data


def checked(name: str, root: Path | None) -> list[tuple[str, str]]:
    """`wrong` or `doubt` with what a task's canaries of its data find, before any training; `ok` if nothing.

    Raises: DataError if the data cannot be read.
    """
    found = data_canaries.findings(registry.task(name).load(root))
    states = [("wrong" if finding.wrong else "doubt", finding.text) for finding in found if finding.text]
    return states or [("ok", f"{name}: {len(found)} checks of images and labels")]


class TaskData:
    """Reads the data of a task by name; only the last task's data stay in memory.

    root: the folder of data sets that are not embedded. Raises DataError if data cannot be read.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root
        self.last: tuple[str, Data] | None = None

    def __call__(self, name: str) -> Data:
        if self.last is None or self.last[0] != name:
            self.last = None  # frees memory before the next data are read
            self.last = (name, registry.task(name).load(self.root))
        return self.last[1]
