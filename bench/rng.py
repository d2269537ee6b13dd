"""Random number streams: one `torch.Generator` per purpose, from (seed, purpose)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator that depends only on the seed and the purpose, not on earlier draws.

    The state is the first 63 bits of SHA-256 over the seed and the purpose, so that streams of
    neighbouring seeds or purposes are unrelated.

    >>> a, b = stream(0, "draw", 3), stream(0, "draw", 3)
    >>> bool((torch.rand(2, generator=a) == torch.rand(2, generator=b)).all())
    True
    """
    digest = hashlib.sha256(repr((int(seed), *purpose)).encode()).digest()
    # On the CPU: random numbers must not depend on the device that trains.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Streams:
    """The streams of one seed: `rng("order", 3)` is a new generator on the CPU, always with the same state.

    Called twice with the same words it begins again; another word or number is an unrelated stream. So the
    numbers of round i are those of `rng(purpose, i)`, whatever was drawn before them.

    >>> rng = Streams(0, "fit")
    >>> bool((torch.rand(2, generator=rng("order", 3)) == torch.rand(2, generator=rng("order", 3))).all())
    True
    """

    def __init__(self, seed: int, *scope: str | int) -> None:
        self.seed, self.scope = seed, scope

    def __call__(self, *purpose: str | int) -> torch.Generator:
        return stream(self.seed, *self.scope, *purpose)

    @contextmanager
    def initialise(self, *purpose: str | int) -> Iterator[None]:
        """Inside, modules are initialised from this stream; afterwards the global generator is restored.

        PyTorch's own initialisers use the global generator and accept no other.
        """
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which would seed the generators of all GPUs too, and leave them so.
            torch.default_generator.manual_seed(self("initialise", *purpose).initial_seed())
            yield
