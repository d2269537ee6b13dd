"""Where the code of a fit and of a run starts, and what of the rest enters no result. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from bench.system.fingerprint import Code, changes

# Storing, telling, naming, looking up: what comes out of these is neither a weight nor a value of a row.
# Tables of names are aside because what a fit or a run takes from them is where it starts.
ASIDE = (
    "bench.errors",
    "bench.evaluations:DRAWS",
    "bench.evaluations:EVALUATIONS",
    "bench.records",
    "bench.registry",
    "bench.running.cell",
    "bench.running.run:_write",
    "bench.settings",
    "bench.system",
    "bench.training.checkpoint",
    "bench.training.limits",
    "bench.training.fit:_identity",
    "bench.training.fit:_save",
    "bench.training.losses:LOSSES",
    "bench.training.method:Method.load",
    "bench.training.method:Method.restore",
    "bench.training.method:Method.save",
    "bench.training.method:Method.state",
)
# A fit's weights do not hang on the looks that are taken at it meanwhile.
FIT_ASIDE = (*ASIDE, "bench.training.fit:trace")
FIT = "bench.training.fit:fit"
RUN = "bench.running.run:run"
TABLES = ("EVALUATIONS", "DRAWS")  # by name of an evaluation: what asks, what is drawn for it
NAMED = 5  # definitions that a sentence names
NOT_WRITTEN = "made before definitions were written down"


@cache
def reached(roots: tuple[str, ...], aside: tuple[str, ...] = ASIDE) -> Mapping[str, str]:
    """Definitions that the roots (`module:name`) reach in the code as it is, with their hashes."""
    return _code(aside).definitions(roots)


@cache
def _code(aside: tuple[str, ...]) -> Code:
    # Read once a process, as the modules themselves are: a change on disk after that is not what runs.
    return Code(aside)


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of definitions that differ, as text: the first of them, and how many more there are."""
    names = changes(before, now)
    shown = ", ".join(names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"


def changed_since(before: Mapping[str, str], roots: Sequence[str]) -> str:
    """What differs now from the definitions that a run with these roots had; empty where nothing does.

    What a run notes of its task (`task: ...`) is not code and is not compared.
    """
    noted = {name: value for name, value in before.items() if not name.startswith("task: ")}
    try:
        return changed(noted, reached(tuple(roots)))
    except LookupError as error:
        return str(error)
