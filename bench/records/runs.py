"""The runs of a results folder: those whose files are as they were written, and what is left out of it.

A file that is no run (a note, a copy made by a file manager or a synchronisation service) and a run that was
edited, cut, renamed or copied are named in one line each and never read, so that they end no command and
enter no mean. Files whose names begin with a dot are skipped.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import BenchError
from bench.records import store
from bench.system.files import read_bytes

_log = logging.getLogger("bench")


@dataclass(frozen=True)
class Run:
    """A run whose files are as they were written. about: its JSON; data: the bytes of its CSV at `path`."""

    path: Path
    about: dict[str, Any]
    data: bytes

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Its rows, parsed on first use. Raises BenchError for rows of another form or of another run."""
        found = store.read_csv(self.path, self.data)
        if strange := sorted(set(found["run"]) - {self.path.stem}):
            raise BenchError(
                f"{self.path}: expected rows of this run, found rows of {strange[0]!r}; give each run its "
                "own files"
            )
        return found


@dataclass(frozen=True)
class Found:
    """What a results folder holds.

    runs: by name, oldest first. left_out: one line for every file that is no run and every run that is not
    as it was written, without the folder's path. unsealed: runs of older versions of this suite, whose JSON
    has no digest of their rows, which are read as they are.
    """

    runs: dict[str, Run]
    left_out: tuple[str, ...]
    unsealed: tuple[str, ...]

    def newest(self) -> pd.DataFrame:
        """All rows of the newest run of each cell, in one frame sorted by run name.

        A failed run never hides an older one that succeeded.
        """
        latest: dict[str, str] = {}
        for name, run in self.runs.items():
            if run.about["failure"] and run.about["cell"] in latest:
                continue
            latest[run.about["cell"]] = name
        newest = [self.runs[name] for name in sorted(latest.values())]
        parse_together(newest)
        return pd.concat([run.rows for run in newest], ignore_index=True)

    def warn(self) -> None:
        """Log a warning for everything left out."""
        for line in self.left_out:
            _log.warning("Warning: left out: %s", line)


def names(results: Path) -> tuple[list[str], list[str]]:
    """Names of runs in alphabetical order, and a line for every CSV file that is no run."""
    found, strays = [], []
    for path in sorted((Path(results) / "raw").glob("*.csv")):
        if path.name.startswith("."):
            continue
        if path.is_file() and path.with_name(f"{path.stem}.json").is_file():
            found.append(path.stem)
        else:
            strays.append(
                f"raw/{path.name}: expected the rows of a run, with {path.stem}.json beside them, found "
                "none; move it away"
            )
    return found, strays


def find(results: Path, parse: bool = True) -> Found:
    """Reads and checks every run of a results folder, which need not exist.

    parse: whether rows are parsed, too, where a digest shows that they are as they were written.
    """
    known, left_out = names(results)
    found, unsealed = {}, []
    whole: list[Run] = []
    for name in known:
        with _named_without(results, left_out):
            whole.append(check(results, name, parse=False))
    if parse:
        parse_together(whole)
    for run in whole:
        name = run.path.stem
        with _named_without(results, left_out):
            if parse or not run.about["rows_sha256"]:
                _ = run.rows
            found[name] = run
            if not run.about["rows_sha256"]:
                unsealed.append(name)
    oldest = {name: found[name] for name in ages({name: run.about for name, run in found.items()})}
    return Found(oldest, tuple(left_out), tuple(unsealed))


@contextmanager
def _named_without(results: Path, left_out: list[str]) -> Iterator[None]:
    """Adds the message of a BenchError to what is left out, without the folder's path."""
    try:
        yield
    except BenchError as error:
        left_out.append(str(error).replace(f"{Path(results)}/", ""))


def parse_together(found: Sequence[Run]) -> None:
    """Parses the rows of runs, in one go where their files are of one version, which is much faster.

    Runs of which anything is not as expected are left to `Run.rows`, which says what.
    """
    versions: dict[bytes, list[Run]] = {}
    for run in found:
        if "rows" not in vars(run) and run.data.endswith(b"\n"):
            versions.setdefault(run.data.partition(b"\n")[0], []).append(run)
    for header, own in versions.items():
        body = b"".join(run.data[len(header) + 1 :] for run in own)
        with suppress(BenchError):
            rows = store.read_csv(own[0].path, header + b"\n" + body)
            counts = [run.data.count(b"\n") - 1 for run in own]
            names = np.repeat([run.path.stem for run in own], counts)
            if len(names) == len(rows) and (rows["run"].to_numpy() == names).all():
                ends = np.cumsum(counts)
                for run, count, end in zip(own, counts, ends, strict=True):
                    part = rows.iloc[end - count : end].reset_index(drop=True)
                    vars(run)["rows"] = part  # where `cached_property` keeps it


def check(results: Path, name: str, parse: bool = True) -> Run:
    """One run. Raises BenchError if one of its files is missing or is not as it was written."""
    about = store.read_about(results, name)
    path = Path(results) / "raw" / f"{name}.csv"
    if (own := about["run"] or name) != name:
        copy = path.with_name(f"{own}.csv").exists()
        raise BenchError(
            f"{path}: expected a run of this name, found run {own}, "
            + ("of which this is a copy; remove the copy" if copy else "renamed; give its files that name")
        )
    run = Run(path, about, _checked(path, about["rows_sha256"], store.MAX_ROWS_BYTES))
    _checked(path.with_name(f"{name}.npz"), about["arrays_sha256"], store.MAX_ARRAYS_BYTES)
    if parse or not about["rows_sha256"]:
        _ = run.rows
    return run


def _checked(path: Path, written: str, limit: int) -> bytes:
    """The bytes of a file whose digest is the one written; none was, if that is empty."""
    try:
        data = read_bytes(path, limit)
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: expected the file of a run, found {error}; run the cell again") from error
    found = hashlib.sha256(data).hexdigest()
    if written and found != written:
        raise BenchError(
            f"{path}: expected the file as it was written (SHA-256 {written[:12]}), found {found[:12]}: "
            "edited or cut; bring it back, or remove the run's files and run the cell again"
        )
    return data


def read(results: Path) -> Found:
    """What a results folder holds; what is left out is logged. Raises BenchError if no run remains."""
    found = find(results)
    found.warn()
    if not found.runs:
        raise BenchError(
            f"expected runs in {Path(results) / 'raw'}, found none; "
            f"make one: bench run --method standard_ensemble --task digits --preset smoke --results {results}"
        )
    return found


def ages(abouts: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The place of each run from the oldest, 0, to the newest. abouts: the JSON of runs by name.

    What decides is the number `order` that a run was written with; of runs with the same (written at once,
    or before there was one), that at the end of the name, and then the name. The time of day does not: runs
    of one folder may come from hosts whose clocks differ.
    """
    keys = {
        run: (about.get("order", 0), _number(run, about.get("cell", "")), run)
        for run, about in abouts.items()
    }
    return {run: i for i, run in enumerate(sorted(keys, key=keys.__getitem__))}


def _number(run: str, cell: str) -> int:
    """How many runs of its cell there were with a run, by its name; 1 for other names."""
    end = run.rpartition(f"-{cell[:8]}-")[2]
    return int(end) if end != run and re.fullmatch("[0-9]{1,9}", end) else 1


def next_order(results: Path, family: str) -> int:
    """A number above `order` of all runs whose names begin with `family`; unreadable ones do not count."""
    highest = 0
    for path in (Path(results) / "raw").glob(f"{glob.escape(family)}*.json"):
        with suppress(BenchError):
            highest = max(highest, store.read_about(results, path.stem)["order"])
    return highest + 1
