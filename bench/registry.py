"""Names of methods, tasks and data sources, registered by plug-ins as targets that are imported on use.

A plug-in is a light module listed in the entry-point group `bench.plugins`; importing it calls
`add_method`, `add_task` and `add_source` with targets of the form "package.module:attribute". The
targets are imported only when used, so that listing and reporting need no torch.

A plug-in that cannot be used is skipped with a warning that names its package, and the others remain
usable: if it fails to import, a method has no readable TOML file, or a name is already taken (this
suite's own names are registered first). Requesting a skipped name gives the reason.
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import space
from bench.errors import BenchError, UsageError, unknown

PRESETS = {
    "smoke": "a few seconds per cell: checks that everything runs (CI)",
    "quick": "the default: minutes per cell on two CPU cores",
    "paper": "the published scale, for a GPU",
}

MAX_TOML_BYTES = 2**20
# Headers of a method's file that are no presets.
OTHERS = ("about", "variants", "search")
# Names become parts of file names and must not leave their folder.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_REPAIR = "repair the package, or uninstall it"


@dataclass(frozen=True)
class Entry:
    """A registered name. target: its code; about: a one-line description; owner: the plug-in."""

    name: str
    target: str
    about: str
    owner: str = field(default="", kw_only=True)

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    def load(self) -> Any:
        """Import and return the target. Raises BenchError if that fails."""
        try:
            return getattr(import_module(self.module), self.target.partition(":")[2])
        except (Exception, SystemExit) as error:  # a plug-in's code may raise anything
            raise BenchError(
                f"{self.owner or self.name}: expected to import {self.target} for {self.name!r}, "
                f"found {_line(error)}; {_REPAIR}"
            ) from error


@dataclass(frozen=True)
class MethodEntry(Entry):
    """A method or a variant of it. base: the method; settings: the variant's; toml: the method's file.

    settings: of all presets by name, and tables of presets as in the file.
    """

    base: str
    settings: Mapping[str, Any]
    toml: Mapping[str, Any]

    def values(self, preset: str, train: str) -> dict[str, Any]:
        """Settings under a preset for a train key: the method's tables, then the variant's own."""
        return preset_values(self.toml, preset, train) | self.own(preset, train)

    def own(self, preset: str, train: str) -> dict[str, Any]:
        """A variant's settings: those of all presets, then its tables of presets."""
        always = {key: value for key, value in self.settings.items() if not isinstance(value, dict)}
        return always | preset_values(_presets_of(self.settings), preset, train)


_methods: dict[str, Entry] = {}
_tasks: dict[str, Entry] = {}
_sources: dict[str, Entry] = {}
_skipped: dict[str, str] = {}  # reasons, by name
_owner = ""  # the plug-in that is being imported
_log = logging.getLogger("bench")


def add_method(name: str, target: str) -> None:
    """Register a method class; its TOML file has the module's path, with suffix `.toml`."""
    _add("method", _methods, Entry(name, target, "", owner=_owner))


def add_task(name: str, target: str, about: str) -> None:
    """Register a `bench.task.Task`."""
    _add("task", _tasks, Entry(name, target, about, owner=_owner))


def add_source(name: str, target: str, about: str) -> None:
    """Register a `bench.task.Source`: files of a data set, for `bench data`."""
    _add("data source", _sources, Entry(name, target, about, owner=_owner))


def _add(kind: str, table: dict[str, Entry], entry: Entry) -> None:
    try:
        _check_name("registered", entry.name)
    except ValueError as error:
        _skip(str(entry.name), f"{entry.owner or entry.target}: {error}; {kind} skipped, rename it")
        return
    before = table.setdefault(entry.name, entry)
    if before != entry:
        _clash(kind, entry, before)


def _clash(kind: str, entry: Entry, before: Entry) -> None:
    _skip(
        entry.name,
        f"{entry.owner or entry.target}: {kind} {entry.name!r} ({entry.target}) is skipped, since "
        f"{before.owner or before.target} has registered that name; rename it, or uninstall its package",
    )


def _skip(name: str, reason: str) -> None:
    _skipped.setdefault(name, reason)
    _log.warning("Warning: %s", reason)


@cache
def _load_plugins() -> None:
    # This suite's own names come first: of equal names, the first is kept.
    own = f"{__package__}."
    for point in sorted(
        entry_points(group="bench.plugins"), key=lambda p: (not p.value.startswith(own), p.value)
    ):
        _load_plugin(point)


def _load_plugin(point: EntryPoint) -> None:
    global _owner
    package = (
        "an unknown package" if point.dist is None else f"package {point.dist.name} {point.dist.version}"
    )
    _owner = f"plug-in {point.name!r} of {package}"
    try:
        point.load()
    except (Exception, SystemExit) as error:  # a plug-in's code may raise anything
        _skip(point.name, f"{_owner}: expected to import {point.value}, found {_line(error)}; {_REPAIR}")
    finally:
        _owner = ""


def _line(error: BaseException) -> str:
    """Type and message of an error, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _toml_of(entry: Entry) -> dict[str, Any]:
    try:
        spec = find_spec(entry.module)  # imports the packages that contain the module
    except (Exception, SystemExit) as error:
        raise BenchError(
            f"method {entry.name!r}: expected to find module {entry.module}, found {_line(error)}; {_REPAIR}"
        ) from error
    if spec is None or spec.origin is None:
        raise BenchError(f"method {entry.name!r}: expected module {entry.module}, found none; {_REPAIR}")
    return read_toml(Path(spec.origin).with_suffix(".toml"), entry.name)


def read_toml(path: Path, method: str) -> dict[str, Any]:
    """A method's TOML file: a one-line description, tables of presets, variants, and a search space.

    Raises BenchError if it cannot be read or contains anything else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TOML_BYTES + 1)
        if len(data) > MAX_TOML_BYTES:
            raise ValueError(f"more than {MAX_TOML_BYTES:,} bytes")
        found = tomllib.loads(data.decode())
        for key, value in found.items():
            presets = all(name in PRESETS for name in listed(key))
            if not (presets or key in OTHERS) or not isinstance(value, str if key == "about" else dict):
                raise ValueError(f"{key} = {value!r}, which is not about, a preset, variants or search")
        for suffix, variant in found.get("variants", {}).items():
            if not (isinstance(variant, dict) and isinstance(variant.get("about", ""), str)):
                raise ValueError(f"variant {suffix} = {variant!r}, which is not a table")
            _check_name("variant", variant.get("name", f"{method}-{suffix}"))
            for header in _presets_of(variant):
                if not all(name in PRESETS for name in listed(header)):
                    raise ValueError(f"variant {suffix}: {header} is not a preset")
        for tables in (found, *map(_presets_of, _variant_settings(found).values())):
            for preset in PRESETS:
                for train in (*_train_keys(tables), ""):
                    preset_values(tables, preset, train)
        for train in (*_train_keys(found), ""):
            space.parse(search_values(found, train))
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise BenchError(
            f"method {method!r}: expected a readable {path}; {error}; correct the file"
        ) from error


def listed(header: str) -> tuple[str, ...]:
    """Names in a table's header, as in `cifar10,cifar5`. Raises ValueError for an empty or repeated name."""
    names = tuple(name.strip() for name in header.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f"header {header!r}: expected different names separated by commas")
    return names


def preset_values(toml: Mapping[str, Any], preset: str, train: str) -> dict[str, Any]:
    """Settings in a method's file for a preset and a train key.

    A header may name several presets and several train keys, as in `["quick,paper".toy]` and
    `[quick."cifar10,cifar5"]`. Tables with this train key take precedence over tables without one; within
    each group, tables whose header names fewer presets and keys (their product) take precedence.
    Raises ValueError if two tables of equal precedence set the same key.
    """
    named = ((listed(header), table) for header, table in toml.items() if header not in OTHERS)
    tables = [(len(presets), table) for presets, table in named if preset in presets]
    return _layered(tables, train, f"preset {preset}")


def search_values(toml: Mapping[str, Any], train: str) -> dict[str, Any]:
    """The search space in a method's file for a train key, with the precedence of `preset_values`."""
    return _layered([(1, toml.get("search", {}))], train, "search")


def _layered(tables: list[tuple[int, Mapping[str, Any]]], train: str, what: str) -> dict[str, Any]:
    """Values of tables and of the tables under them that name a train key, by precedence.

    tables: each with the number of presets that its header names. Raises ValueError as `preset_values`.
    """
    found: dict[str, Any] = {}
    ranks: dict[str, tuple[bool, int]] = {}
    ranked = [item for presets, table in tables for item in _ranked(presets, table, train)]
    for rank, values in sorted(ranked, key=lambda item: item[0]):
        for key, value in values.items():
            if ranks.get(key) == rank:
                raise ValueError(
                    f"{what}, tasks {train}: {key} is set by two tables of equal precedence "
                    "(that name as many presets and tasks); keep one of them"
                )
            found[key], ranks[key] = value, rank
    return found


def _ranked(
    presets: int, table: Mapping[str, Any], train: str
) -> Iterator[tuple[tuple[bool, int], dict[str, Any]]]:
    """(rank, values) of a table and of those under it that name a train key; higher ranks take precedence."""
    yield (False, -presets), {k: v for k, v in table.items() if not space.is_table(v)}
    for name, values in table.items():
        if space.is_table(values) and train in (keys := listed(name)):
            yield (True, -presets * len(keys)), values


def _train_keys(toml: Mapping[str, Any]) -> set[str]:
    """Train keys in a method's file."""
    tables = [table for header, table in toml.items() if header not in ("about", "variants")]
    headers = [name for table in tables for name, values in table.items() if space.is_table(values)]
    return {key for header in headers for key in listed(header)}


def _presets_of(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's tables of presets, as `[variants.published.smoke]`."""
    return {key: value for key, value in variant.items() if isinstance(value, dict)}


def _variant_settings(toml: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of every variant by suffix: its own over those of the variants that it is `like`.

    Own settings of all presets stand first, then tables of presets, as in a method's file. Raises ValueError
    for a variant that is like one that does not stand before it.
    """
    found: dict[str, dict[str, Any]] = {}
    for suffix, variant in toml.get("variants", {}).items():
        base = variant.get("like")
        if base is not None and base not in found:
            raise ValueError(f"variant {suffix}: like = {base!r}, which is no variant that stands before it")
        own = {k: v for k, v in variant.items() if k not in ("name", "about", "like")}
        found[suffix] = _over(found.get(base, {}), own)
    return found


def _over(table: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A table with another's values over its own, tables within them likewise."""
    return {
        key: _over(table.get(key, {}), own.get(key, {}))
        if isinstance(table.get(key, own.get(key)), dict)
        else own.get(key, table.get(key))
        for key in {**table, **own}
    }


def _check_name(kind: str, name: Any) -> None:
    """Raises ValueError for a name that cannot be part of a file name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "all":
        raise ValueError(
            f"{kind} name {name!r}: expected letters, digits, _, - and ., beginning with a letter, at most "
            "64, and not 'all'"
        )


@cache
def methods() -> dict[str, MethodEntry]:
    """All methods and variants by name, in order of registration, variants after their method."""
    _load_plugins()
    found: dict[str, MethodEntry] = {}
    for entry in _methods.values():
        try:
            toml = _toml_of(entry)
        except BenchError as error:
            _skip(entry.name, f"{entry.owner or entry.target}: {error}")
            continue
        for each in with_variants(entry, toml):
            before = found.setdefault(each.name, each)
            if before is not each:
                _clash("method" if each.name == each.base else f"variant of {each.base}", each, before)
    return found


def with_variants(entry: Entry, toml: dict[str, Any]) -> Iterator[MethodEntry]:
    """A method, then its variants. toml: the method's file."""
    name, target, owner = entry.name, entry.target, entry.owner
    yield MethodEntry(name, target, toml.get("about", ""), name, {}, toml, owner=owner)
    variants = toml.get("variants", {})
    for suffix, settings in _variant_settings(toml).items():
        full, about = variants[suffix].get("name", f"{name}-{suffix}"), variants[suffix].get("about", "")
        yield MethodEntry(full, target, about, name, settings, toml, owner=owner)


def tasks() -> dict[str, Entry]:
    """Every task by name, in order of registration."""
    _load_plugins()
    return dict(_tasks)


def sources() -> dict[str, Entry]:
    """Every data source by name, in order of registration."""
    _load_plugins()
    return dict(_sources)


def method(name: str) -> MethodEntry:
    """The method or variant of that name. Raises `UsageError` if there is none."""
    return _get("method", methods(), name)


def task(name: str) -> Any:
    """The `bench.task.Task` of that name, imported. Raises `UsageError` if there is none.

    Raises BenchError for a task whose own name, which rows contain, differs from its registered name, and for
    a train key that cannot be part of a file name.
    """
    entry = _get("task", tasks(), name)
    found = _named("task", entry)
    try:
        _check_name("train key", getattr(found, "train", None))  # a folder of checkpoints
    except ValueError as error:
        raise BenchError(f"{entry.owner or entry.target}: {error}; {_REPAIR}") from error
    return found


def source(name: str) -> Any:
    """The `bench.task.Source` of that name, imported. Raises as `task` does."""
    return _named("data source", _get("data source", sources(), name))


def _named(kind: str, entry: Entry) -> Any:
    loaded = entry.load()
    own = getattr(loaded, "name", None)
    if own != entry.name:
        raise BenchError(
            f"{entry.owner or entry.target}: expected {entry.target} to be a {kind} named {entry.name!r}, "
            f"as registered, found the name {own!r}; use one name, or uninstall the package"
        )
    return loaded


def _get(kind: str, table: Mapping[str, Any], name: str) -> Any:
    if name not in table:
        raise missing(kind, name, list(table))
    return table[name]


def missing(kind: str, name: str, known: list[str]) -> UsageError:
    """The error for an unknown name: why it was skipped, else the most similar names."""
    return UsageError(_skipped[name]) if name in _skipped else unknown(kind, name, known)
