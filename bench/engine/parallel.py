"""Members side by side on a CPU: whole members on each core, no operation split between cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


def each(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """`call` of every item, in their order; items run at once on as many cores as torch may use.

    One network's layers are too small to be worth splitting: two cores on one member each are faster
    than two on every operation. Which core takes which item changes no result.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return [call(item) for item in items]
    graph = torch.is_grad_enabled()  # a setting of each thread for itself

    def one(item: S) -> T:
        with torch.set_grad_enabled(graph):
            return call(item)

    return list(_workers(threads, os.getpid()).map(one, items))


@cache
def _workers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that run their operations on one core each; a forked process gets its own."""
    pool = ThreadPoolExecutor(threads, "bench-engine", _alone)
    started = threading.Barrier(threads)
    list(pool.map(lambda _: started.wait(), range(threads)))
    torch.set_num_threads(threads)  # the workers' calls changed what later threads begin with
    return pool


def _alone() -> None:
    """Have this thread run its operations by itself."""
    # A thread takes over the process's number when it first asks: later, that would undo the next line.
    torch.get_num_threads()
    torch.set_num_threads(1)
