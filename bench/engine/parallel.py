"""The one place where work is split between a CPU's cores: whole pieces of it, each on one core.

No operation inside a piece uses a second core. What the pieces are, and in which order their results are
added, follows from the work alone, so that results are the same bits on any number of cores; and threads
that wait, sleep, so that a busy machine costs its fair share.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Generic, TypeVar

import torch
from threadpoolctl import threadpool_limits

S = TypeVar("S")
T = TypeVar("T")


class _Here(threading.local):
    """Of one thread: whether it runs a piece now."""

    inside = False


_here = _Here()
_asked: int | None = None  # what `use` was told
_outside: int | None = None  # PyTorch's number of threads outside `single_threaded`


def use(threads: int | None) -> None:
    """Have `each` work in this many threads, the caller's included; None: in as many as PyTorch would."""
    global _asked
    if threads is not None and threads < 1:
        raise ValueError(f"expected at least 1 thread, found {threads}")
    _asked = threads


def threads() -> int:
    """How many threads work at once in `each`. No result depends on it."""
    return _asked or _outside or torch.get_num_threads()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Inside, every operation of PyTorch and NumPy runs on one core, so that none rounds by their number."""
    global _outside
    if _outside is not None:
        yield
        return
    _outside = torch.get_num_threads()
    try:
        with threadpool_limits(1, "blas"), _alone():
            yield
    finally:
        _outside = None


def blocks(total: int, size: int) -> list[slice]:
    """Slices of `size` that cover `total` things, the last one shorter; at least one."""
    return [slice(start, min(start + size, total)) for start in range(0, max(1, total), size)]


def each(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """`call` of every item, in their order, at once on as many cores as `threads` says.

    Pieces that themselves call `each` run theirs one after the other. The error of the first piece that
    failed is raised, after all that had begun have ended.
    """
    workers = min(threads(), len(items))
    if workers < 2 or _here.inside:
        with _alone():
            return [call(item) for item in items]
    work = _Work(call, items)
    waiting = [_pool(workers - 1, os.getpid()).submit(work.pull) for _ in range(workers - 1)]
    with _alone():
        work.pull()
    for future in waiting:
        if not future.cancel():  # one that has not begun has nothing left to do
            future.result()
    return work.results()


class _Work(Generic[S, T]):
    """Pieces that threads take one after the other, so that a core that is slow takes fewer."""

    def __init__(self, call: Callable[[S], T], items: Sequence[S]) -> None:
        self.call, self.items = call, items
        self.graph = torch.is_grad_enabled()  # a setting of each thread for itself
        self.next = count()
        self.found: dict[int, T] = {}
        self.errors: dict[int, BaseException] = {}

    def pull(self) -> None:
        """Do pieces until none is left or one has failed, here or in another thread."""
        i = -1
        _here.inside = True
        try:
            with torch.set_grad_enabled(self.graph):
                while not self.errors and (i := next(self.next)) < len(self.items):
                    self.found[i] = self.call(self.items[i])
        except BaseException as error:  # an interrupted caller waits for the others and then says so
            self.errors[i] = error
        finally:
            _here.inside = False

    def results(self) -> list[T]:
        if self.errors:
            raise self.errors[min(self.errors)]
        return [self.found[i] for i in range(len(self.items))]


@cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads that run their operations on one core each; a forked process gets its own."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "bench-engine", _on_one_core)
    started = threading.Barrier(workers)
    list(pool.map(lambda _: started.wait(), range(workers)))
    torch.set_num_threads(before)  # the workers' calls changed what later threads begin with
    return pool


def _on_one_core() -> None:
    """Have this thread run its operations by itself."""
    # A thread takes over the process's number when it first asks: later, that would undo the next line.
    torch.get_num_threads()
    torch.set_num_threads(1)


@contextmanager
def _alone() -> Iterator[None]:
    """Inside, this thread runs its operations by itself."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
