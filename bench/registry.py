"""Names of methods, tasks and data sources, filled by plug-ins without importing what they name.

A plug-in is a light module listed under the entry-point group `bench.plugins`; importing it calls
`add_method`, `add_task` and `add_source` with targets of the form "package.module:attribute". The
targets are imported only when used, so that listing and reporting need no torch.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.errors import BenchError, unknown

PRESETS = {
    "smoke": "a few seconds a cell: does everything work? (CI)",
    "quick": "the default: minutes a cell on two CPU cores",
    "paper": "the published scale, for a GPU",
}

MAX_TOML_BYTES = 2**20
_NAME = re.compile(
    r"[A-Za-z][A-Za-z0-9_.-]{0,63}"
)  # names become parts of file names, and stay in their folder


@dataclass(frozen=True)
class Entry:
    """A registered name: what it is in one line, and where its code is."""

    name: str
    target: str
    about: str

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    def load(self) -> Any:
        return getattr(import_module(self.module), self.target.partition(":")[2])


@dataclass(frozen=True)
class MethodEntry(Entry):
    """A method or one of its variants; `settings` are the variant's own, `toml` the method's file."""

    base: str
    settings: Mapping[str, Any]
    toml: Mapping[str, Any]


_methods: dict[str, Entry] = {}
_tasks: dict[str, Entry] = {}
_sources: dict[str, Entry] = {}


def add_method(name: str, target: str) -> None:
    """Register a method class; its TOML file lies beside the module under the same stem."""
    _add(_methods, Entry(name, target, ""))


def add_task(name: str, target: str, about: str) -> None:
    """Register a `bench.task.Task`."""
    _add(_tasks, Entry(name, target, about))


def add_source(name: str, target: str, about: str) -> None:
    """Register a `bench.task.Source`: files of a data set, for `bench data`."""
    _add(_sources, Entry(name, target, about))


def _add(table: dict[str, Entry], entry: Entry) -> None:
    try:
        _check_name("registered", entry.name)
    except ValueError as error:
        raise BenchError(f"plug-in {entry.target}: {error}; rename it") from error
    before = table.setdefault(entry.name, entry)
    if before != entry:
        raise BenchError(
            f"two plug-ins register {entry.name!r}: {before.target} and {entry.target}; "
            "rename one, or uninstall its package"
        )


@cache
def _load_plugins() -> None:
    for point in sorted(entry_points(group="bench.plugins"), key=lambda p: p.value):
        point.load()


def _toml_of(entry: Entry) -> dict[str, Any]:
    spec = find_spec(entry.module)
    if spec is None or spec.origin is None:
        raise BenchError(f"method {entry.name!r}: module {entry.module} not found; reinstall its package")
    return read_toml(Path(spec.origin).with_suffix(".toml"), entry.name)


def read_toml(path: Path, method: str) -> dict[str, Any]:
    """A method's file: what it is in one line, a table a preset, and its variants.

    Raises BenchError where it cannot be read or holds anything else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
        if len(data) > MAX_TOML_BYTES:
            raise ValueError(f"more than {MAX_TOML_BYTES:,} bytes")
        found = tomllib.loads(data.decode())
        for key, value in found.items():
            if key not in ("about", "variants", *PRESETS) or not isinstance(
                value, str if key == "about" else dict
            ):
                raise ValueError(f"{key} = {value!r}, which is neither about, a preset nor variants")
        for suffix, variant in found.get("variants", {}).items():
            if not (isinstance(variant, dict) and isinstance(variant.get("about", ""), str)):
                raise ValueError(f"variant {suffix} = {variant!r}, which is no table")
            _check_name("variant", variant.get("name", suffix))
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(
            f"method {method!r}: expected a readable {path}; {error}; correct the file"
        ) from error


def _check_name(kind: str, name: Any) -> None:
    """Raises ValueError for a name that cannot be part of a file's name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name!r}: expected letters, digits, _ and - and ., a letter first")


@cache
def methods() -> dict[str, MethodEntry]:
    """Every method and variant by name, in order of registration, variants after their method."""
    _load_plugins()
    found: dict[str, MethodEntry] = {}
    for name, entry in _methods.items():
        toml = _toml_of(entry)
        found[name] = MethodEntry(name, entry.target, toml.get("about", ""), name, {}, toml)
        for suffix, variant in toml.get("variants", {}).items():
            full = variant.get("name", f"{name}-{suffix}")
            settings = {k: v for k, v in variant.items() if k not in ("name", "about")}
            found[full] = MethodEntry(full, entry.target, variant.get("about", ""), name, settings, toml)
    return found


def tasks() -> dict[str, Entry]:
    """Every task by name, in order of registration."""
    _load_plugins()
    return dict(_tasks)


def sources() -> dict[str, Entry]:
    """Every data source by name, in order of registration."""
    _load_plugins()
    return dict(_sources)


def method(name: str) -> MethodEntry:
    """The method or variant of that name. Raises `UsageError` where there is none."""
    return _get("method", methods(), name)


def task(name: str) -> Any:
    """The `bench.task.Task` of that name, imported. Raises `UsageError` where there is none."""
    return _get("task", tasks(), name).load()


def source(name: str) -> Any:
    """The `bench.task.Source` of that name, imported. Raises `UsageError` where there is none."""
    return _get("data source", sources(), name).load()


def _get(kind: str, table: Mapping[str, Any], name: str) -> Any:
    if name not in table:
        raise unknown(kind, name, list(table))
    return table[name]
