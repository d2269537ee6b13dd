"""Where the code of a fit and of a run starts, and what is excluded from code versions. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from bench.errors import BenchError
from bench.system.fingerprint import Code, changes

# Storing, reporting, naming, looking up: these change neither a weight nor a value of a row. Tables of
# names are excluded because the entries that a fit or a run uses are among its roots.
# How rows and checkpoints are written is excluded too: their formats have versions of their own.
EXCLUDED = (
    "bench:__version__",
    "bench:statements",
    "bench.errors",
    "bench.evaluations:DRAWS",
    "bench.evaluations:EVALUATIONS",
    "bench.records",
    "bench.registry",
    "bench.running.cell",
    "bench.running.record",
    "bench.running.run:_write",
    "bench.settings",
    "bench.system",
    "bench.training.checkpoint",
    "bench.training.limits",
    "bench.training.fit:FitSettings",
    "bench.training.fit:_identity",
    "bench.training.fit:_save",
    "bench.training.losses:LOSSES",
    "bench.training.method:Method.load",
    "bench.training.method:Method.restore",
    "bench.training.method:Method.save",
    "bench.training.method:Method.state",
)
# A fit's weights do not depend on the trace.
FIT_EXCLUDED = (*EXCLUDED, "bench.training.fit:trace")
# Changes that leave every fit of the networks in `bench.networks` as it was, bit for bit, which
# tests/test_networks.py holds: by definition its hash now, and the one that counts for such fits, None for a
# definition that was not there. A fit of another network, which they may concern, has the hash of now.
UNCHANGED: Mapping[str, tuple[str, str | None]] = {
    "BATCH_LAYERS": ("654a913d", None),
    "NOISY_LAYERS": ("026d12eb", None),
    "STARTS": ("31deea25", None),
    "Shapes": ("e60f5b24", None),
    "Shapes.__init__": ("7d1866e2", None),
    "initial": ("78a90981", "278fec10"),
    "shapes": ("11c0ba9d", "95f078c6"),
}
FIT = "bench.training.fit:fit"
RUN = "bench.running.run:run"
SCORE = "bench.running.trials:scored"  # what decides between trials of `bench tune`
TABLES = ("EVALUATIONS", "DRAWS")  # by evaluation: its function, and the number of networks that it needs
MAX_NAMES = 5  # definitions listed in a message
NOT_STORED = "the definitions of its code were not stored"


@cache
def reached(roots: tuple[str, ...], excluded: tuple[str, ...] = EXCLUDED) -> Mapping[str, str]:
    """Definitions that the roots (`module:name`) reach in the code as it is, with their hashes.

    Raises BenchError if a source cannot be found or read.
    """
    try:
        return _code(excluded).definitions(roots)
    except (LookupError, SyntaxError, ValueError, OSError) as error:
        raise BenchError(
            f"code version: expected readable source files of {', '.join(roots)}, found {error}; "
            "define methods, networks and evaluations in modules"
        ) from error


@cache
def _code(excluded: tuple[str, ...]) -> Code:
    # Cached per process, like imported modules: a later change on disk does not affect what runs.
    return Code(excluded)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of definitions that differ, as text: the first of them, and how many more there are."""
    names = changes(before, now)
    shown = ", ".join(names[:MAX_NAMES])
    return shown if len(names) <= MAX_NAMES else f"{shown} and {len(names) - MAX_NAMES} more"


def changed_since(before: Mapping[str, str], roots: Sequence[str]) -> str:
    """What differs now from the definitions that a run with these roots had; empty where nothing does.

    What a run notes of its task (`task: ...`) is not code and is not compared.
    """
    noted = {name: value for name, value in before.items() if not name.startswith("task: ")}
    try:
        return changed(noted, reached(tuple(roots)))
    except BenchError as error:
        return str(error)
