"""Where the page's numbers come from: runs by task and method, commits, machines, changes of code since."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import BenchError
from bench.records import store
from bench.report.layout.tables import Cell, TextTable
from bench.report.rows import Material
from bench.system.code import NOT_STORED, changed_since


class Run(NamedTuple):
    """One run: seed, name, digest of its configuration, commit, device and day."""

    seed: int
    run: str
    config: str
    commit: str
    device: str
    day: str
    failed: bool


def runs_of(material: Material, preset: str, device: str) -> dict[tuple[str, str], list[Run]]:
    """The runs of a preset and device by task and method, by seed; all their numbers are made of these."""
    rows = material.rows
    own = rows[(rows["preset"] == preset) & (rows["device"] == device)]
    lines = own[["task", "method", "seed", "run", "config"]].drop_duplicates()
    lines = lines.sort_values(["task", "method", "seed", "run"])
    found: dict[tuple[str, str], list[Run]] = {}
    for task, method, seed, run, config in lines.itertuples(index=False):
        about = material.abouts.get(run, {})
        where = about.get("environment") or {}
        found.setdefault((str(task), str(method)), []).append(
            Run(
                int(seed),
                str(run),
                str(config)[:8],
                short(about.get("commit")) + (" (dirty)" if about.get("dirty") else ""),
                str(where.get("device_name") or where.get("device") or device),
                str(about.get("created", ""))[:10],
                bool(about.get("failure")),
            )
        )
    return found


def provenance(material: Material) -> TextTable:
    """The number of runs by commit, code, device and library versions."""
    headings = ["commit", "tree", "code", "device", "torch", "Python", "threads", "runs"]
    counts: Counter[tuple[str, ...]] = Counter()
    for about in material.abouts.values():
        where = about.get("environment") or {}
        tree = "dirty" if about.get("dirty") else "clean"
        machine = (str(where.get(key, "")) for key in ("device", "torch", "python", "threads"))
        counts[(short(about.get("commit")), tree, short(about.get("code")), *machine)] += 1
    lines = [[Cell(text) for text in (*key, str(n))] for key, n in sorted(counts.items())]
    return TextTable({}, headings, lines, lead=7)


def changed(material: Material) -> TextTable:
    """How many runs other code would make now, by the definitions that have changed since."""
    counts: Counter[str] = Counter()
    for about in material.abouts.values():
        if about["failure"]:
            continue
        since = _since(material.results, about["code"])
        if since:
            counts[since] += 1
    lines: Sequence[list[Cell]] = [[Cell(since), Cell(str(count))] for since, count in sorted(counts.items())]
    return TextTable({}, ["changed since", "runs"], list(lines), lead=1)


def _since(results: Path, code: str) -> str:
    """What has changed since a code version; empty if nothing has."""
    try:
        known = store.read_code(results, code)
    except BenchError as error:
        return str(error)
    return NOT_STORED if known is None else changed_since(known.definitions, known.roots)


def short(value: Any) -> str:
    """The first twelve digits of a hash; a mapping of hashes as JSON."""
    if isinstance(value, dict):
        return json.dumps({k: str(v)[:12] for k, v in value.items()}, sort_keys=True)
    return str(value or "")[:12]
