"""Who works on which cell: lock files that a process holds while it lives and that end with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bench.system.files import write_atomic


class Locks:
    """Locks of one sweep in `<results>/locks/`, seen by every process that shares the folder.

    A lock is held through the operating system (flock), so a process that is killed lets go of it;
    its file is removed by whoever ends last. How often this sweep began a cell is kept beside it until
    the cell ends: a cell that kills its worker would otherwise be begun for ever.
    """

    def __init__(self, results: Path, sweep: str) -> None:
        self.folder = results / "locks"
        self.sweep = sweep

    @contextmanager
    def take(self, *names: str) -> Iterator[bool]:
        """Hold all of these names, or none: False where another process holds one of them."""
        held: list[FileLock] = []
        try:
            yield all(self._acquire(name, held) for name in sorted(names))
        finally:
            for lock in reversed(held):
                # While held: whoever waits for the old file finds it gone and makes a new one.
                with suppress(OSError):
                    Path(lock.lock_file).unlink()
                lock.release()

    def _acquire(self, name: str, held: list[FileLock]) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        held.append(lock)
        return True

    def begin(self, name: str) -> int:
        """Count one more attempt at a cell whose lock is held; returns how many of this sweep came before."""
        path = self._attempts(name)
        before = 0
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = int(json.loads(path.read_text("utf-8"))[self.sweep])
        write_atomic(path, json.dumps({self.sweep: before + 1}).encode())
        return before

    def end(self, name: str) -> None:
        """Forget the attempts at a cell: it ended, well or not."""
        self._attempts(name).unlink(missing_ok=True)

    def _attempts(self, name: str) -> Path:
        return self.folder / f"{name}.attempts"
