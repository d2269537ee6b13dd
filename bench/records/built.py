"""Whether a report would be written again as it is: what it was made of, and what it wrote.

Beside the outputs, `.report.json` keeps a digest of all inputs (the stored runs, the sources of this suite
and of plug-ins, versions of libraries, the options), the digest of every output and the warnings that were
given. If inputs and outputs are still the same, nothing needs to be done. Without pandas and matplotlib,
whose import takes longer than the check. Removing the file makes the report anew.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distributions, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.system.files import write_atomic

NAME = ".report.json"
INPUTS = ("raw", "code", "tuning", "published.csv")  # of a results folder
SOURCES = (".py", ".toml", ".html", ".css", ".js", ".csv")


def inputs(results: Path, options: Mapping[str, Any]) -> str:
    """A digest of all that a report is made of. options: of the command, as JSON values."""
    found = hashlib.sha256()
    for top in INPUTS:
        for path in _files(Path(results) / top):
            if not path.name.startswith("."):
                found.update(f"{path.relative_to(results)}\0{_digest(path)}\n".encode())
    for package in sorted(
        {"bench", *(p.module.partition(".")[0] for p in entry_points(group="bench.plugins"))}
    ):
        for path in _sources(package):
            found.update(f"{package}\0{path}\0{_digest(path)}\n".encode())
    versions = sorted((d.name, d.version) for d in distributions())
    found.update(json.dumps([versions, platform.python_version(), options], sort_keys=True).encode())
    return found.hexdigest()


def _files(place: Path) -> Iterable[Path]:
    return [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())


def _sources(package: str) -> Iterable[Path]:
    """The source files of a package, or of a module that is no package."""
    with suppress(ImportError, ValueError, PackageNotFoundError):
        spec = find_spec(package)
        folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
        alone = [Path(spec.origin)] if spec and spec.origin and not folders else []
        return alone + [p for folder in folders for p in _files(folder) if p.suffix in SOURCES]
    return []


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unchanged(results: Path, made_of: str) -> dict[str, Any] | None:
    """What `write` recorded, if the last report was made of the same and is still there; else None."""
    try:
        found = json.loads((Path(results) / NAME).read_text("utf-8"))
        same = (
            found["inputs"] == made_of and bool(found["outputs"]) and {"warnings", "summary"} <= found.keys()
        )
        kept = same and all(_digest(Path(results) / name) == sum_ for name, sum_ in found["outputs"].items())
        return found if kept else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not written, or damaged: the report is made anew


def write(
    results: Path, made_of: str, outputs: Iterable[Path], warnings: Iterable[str], summary: Iterable[str]
) -> None:
    """Record a report that has just been written, and what was said of it.

    made_of: of `inputs`, from before it was.
    """
    names = {str(path.relative_to(results)): _digest(path) for path in sorted(outputs)}
    document = {"inputs": made_of, "outputs": names, "warnings": [*warnings], "summary": [*summary]}
    write_atomic(Path(results) / NAME, (json.dumps(document, indent=1) + "\n").encode())
