"""Ctrl-C: the first waits for the end of a round where one is running, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Signals reach a process as a whole, and so does what has been asked by one.
_asked = threading.Event()


def asked() -> bool:
    """Whether Ctrl-C has asked a fit to write a checkpoint and stop, inside `handled`."""
    return _asked.is_set()


@contextmanager
def handled(wait: Callable[[], bool], again: bool = True) -> Iterator[None]:
    """Inside, the first SIGINT raises KeyboardInterrupt unless `wait` says that a fit will stop by itself.

    wait: called in the handler; says so to the user where it returns True, and `asked` is true from then on.
    again: whether a second SIGINT stops at once; else later ones are ignored, as a worker gets several for
    one Ctrl-C. Nothing is changed where SIGINT is ignored (as in a shell's background) or outside of the main
    thread, which alone receives signals.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler if again else signal.SIG_IGN)
        if not wait():
            raise KeyboardInterrupt
        _asked.set()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if again:
            signal.signal(signal.SIGINT, before)
        _asked.clear()
