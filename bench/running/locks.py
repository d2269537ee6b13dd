"""Locks on cells and fits: lock files that a process holds until it releases them or ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout, has_fcntl

from bench.errors import BenchError
from bench.system.files import read_bytes, write_atomic

with suppress(ImportError):  # Windows, whose locks are of another kind
    import fcntl

MAX_HOLDER_BYTES = 4096
POLL_SECONDS = 0.5  # between two tries of a lock that another process holds


class Locks:
    """Locks of one sweep in `<results>/locks/`, shared by all processes that use the folder.

    The operating system holds a lock (flock), so it is released when its process is killed. On a file
    system without flock (ENOSYS) a lock is the existence of its file, which outlives a process that is
    killed: on the same host the next one takes it over, on another it has to be removed by hand. Beside a
    lock stands who holds it, and the number of attempts of this sweep at a cell, until the cell finishes or
    fails: otherwise a cell that kills its worker would be started forever.

    Raises BenchError where the file system refuses locks.
    """

    def __init__(self, results: Path, sweep: str) -> None:
        self.folder = results / "locks"
        self.sweep = sweep
        self._without_flock: bool | None = None  # None: not asked yet
        self.blocked = ""  # the name that another process held when it was last asked for

    def check(self) -> str:
        """Take and release a lock; returns a warning, empty if the operating system holds locks here."""
        with self.take(f"check-{uuid4().hex}"):
            pass
        if not self.by_existence:
            return ""
        return (
            f"{self.folder}: its file system has no flock, so that locks outlive a process that is killed "
            "on another host; choose a folder on another file system with --results, or mount it with flock"
        )

    @property
    def by_existence(self) -> bool:
        """Whether a lock is the existence of its file; known once one has been asked for."""
        return bool(self._without_flock)

    @contextmanager
    def take(self, *names: str) -> Iterator[bool]:
        """Lock all of these names; yields False if another process holds one of them."""
        held: list[FileLock] = []
        try:
            yield all(self._acquire(name, held) for name in sorted(names))
        finally:
            for lock in reversed(held):
                path = Path(lock.lock_file)
                # Removed while held, so that no process can lock a file that is about to be removed.
                with suppress(OSError):
                    _holder(path).unlink(missing_ok=True)
                    if not self.by_existence:  # such a lock removes its own
                        path.unlink()
                with suppress(OSError):  # a lock that cannot be released ends with its process
                    lock.release()

    @contextmanager
    def wait(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Lock a name, once whoever holds it has released it; says once who that is."""
        told = False
        while True:
            with self.take(name) as held:
                if held:
                    yield
                    return
                if not told and (holder := self.holder()):
                    say(f"waiting for {name}: held by {holder}")
                    told = True
            time.sleep(POLL_SECONDS)

    def _acquire(self, name: str, held: list[FileLock]) -> bool:
        path = self._path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._without_flock is None:
                self._without_flock = _lacks_flock(self.folder)
            lock = FileLock(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that there is no flock: `check` says so
                lock.acquire(blocking=False)
        except Timeout:
            self.blocked = name
            return False
        except OSError as error:
            raise BenchError(
                f"{self.folder}: expected a folder where files can be locked, found: "
                f"{error.strerror or error}; choose a folder on another file system (such as a local disk) "
                "with --results, or have its locks enabled (NFS: a running lockd; Lustre: mount option flock)"
            ) from error
        held.append(lock)
        with suppress(BenchError):  # is only told to others
            document = {"host": socket.gethostname(), "pid": os.getpid()}
            write_atomic(_holder(path), json.dumps(document).encode())
        return True

    def holder(self) -> str:
        """Who held a name that `take` did not get, with what to do if it is gone; empty if not known."""
        path = self._path(self.blocked)
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(read_bytes(_holder(path), MAX_HOLDER_BYTES).decode())
            text = f"process {found['pid']} on host {found['host']}"
            return f"{text}; if that has ended, remove {path}" if self.by_existence else text
        return ""

    def begin(self, name: str) -> int:
        """Count an attempt at a cell whose lock is held; returns the number of this sweep's earlier ones."""
        before = self.begun(name)
        write_atomic(self._attempts(name), json.dumps({self.sweep: before + 1}).encode())
        return before

    def begun(self, name: str) -> int:
        """The number of this sweep's attempts at a cell that has neither finished nor failed since."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(self._attempts(name).read_text("utf-8"))[self.sweep])
        return 0

    def end(self, name: str) -> None:
        """Reset the count of a cell that finished or failed."""
        self._attempts(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.lock"

    def _attempts(self, name: str) -> Path:
        return self.folder / f"{name}.attempts"


def _lacks_flock(folder: Path) -> bool:
    """Whether the file system of a folder has no flock, which no lock of filelock tells."""
    if not has_fcntl:
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno == errno.ENOSYS
    return False


def _holder(lock: Path) -> Path:
    """The file that says who holds a lock."""
    return lock.with_suffix(".holder")
