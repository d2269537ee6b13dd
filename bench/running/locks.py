"""Locks on cells and fits: lock files that a process holds until it releases them or ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bench.system.files import write_atomic


class Locks:
    """Locks of one sweep in `<results>/locks/`, shared by all processes that use the folder.

    The operating system holds a lock (flock), so it is released when its process is killed. The
    number of attempts of this sweep at a cell is stored beside the lock until the cell finishes or fails:
    otherwise a cell that kills its worker would be started forever.
    """

    def __init__(self, results: Path, sweep: str) -> None:
        self.folder = results / "locks"
        self.sweep = sweep

    @contextmanager
    def take(self, *names: str) -> Iterator[bool]:
        """Lock all of these names; yields False if another process holds one of them."""
        held: list[FileLock] = []
        try:
            yield all(self._acquire(name, held) for name in sorted(names))
        finally:
            for lock in reversed(held):
                # Removed while held, so that no process can lock a file that is about to be removed.
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
        """Count an attempt at a cell whose lock is held; returns the number of this sweep's earlier ones."""
        path = self._attempts(name)
        before = 0
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = int(json.loads(path.read_text("utf-8"))[self.sweep])
        write_atomic(path, json.dumps({self.sweep: before + 1}).encode())
        return before

    def end(self, name: str) -> None:
        """Reset the count of a cell that finished or failed."""
        self._attempts(name).unlink(missing_ok=True)

    def _attempts(self, name: str) -> Path:
        return self.folder / f"{name}.attempts"
