"""Settings of one cell: dataclass defaults, then the preset, the variant and `--set`, then frozen."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from bench.errors import BenchError, UsageError, nearest
from bench.registry import PRESETS, MethodEntry


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the training loop, the same for every method; they stand in the same TOML tables."""

    trace_every: int = 0  # rounds between traces; 0: a tenth of the fit
    tf32: bool = False  # train with TF32 on a GPU; evaluation is float32 always


@dataclass(frozen=True)
class Settings:
    """The resolved settings of a cell: the method's config and the loop's."""

    method: Any
    loop: LoopConfig

    def document(self) -> dict[str, Any]:
        """All settings as plain values, by name."""
        return dataclasses.asdict(self.method) | dataclasses.asdict(self.loop)

    def digest(self) -> str:
        """The first 12 hex digits of SHA-256 over the settings, for the `config` column."""
        return digest(self.document())[:12]


def digest(document: Any) -> str:
    """SHA-256 of a JSON document with sorted keys, in hex."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def resolve(entry: MethodEntry, config: type, preset: str, train: str, sets: Mapping[str, str]) -> Settings:
    """Settings of a method under a preset, for tasks with this train key.

    A TOML table `[quick]` holds for every task, `[quick.mnist]` for the train key `mnist` alone; a
    variant's own settings come after, `--set` last. Raises UsageError for a key of `--set` that does
    not exist or has another type, BenchError for one in the TOML file.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    types = get_type_hints(config) | get_type_hints(LoopConfig)
    table = entry.toml.get(preset, {})
    values = {k: v for k, v in table.items() if not isinstance(v, dict)}
    values |= table.get(train, {}) | dict(entry.settings)
    try:
        values = {key: _typed(key, value, types) for key, value in values.items()}
    except UsageError as error:
        raise BenchError(f"{entry.base}.toml, {preset}: {error}; correct the file") from error
    values |= {key: _typed(key, _parse(text), types, entry.name) for key, text in sets.items()}
    return _settings(config, values)


def from_document(config: type, document: Mapping[str, Any]) -> Settings:
    """Settings with these values: the inverse of `Settings.document`.

    config: the method's `Config`. Raises BenchError where a setting is missing, is not one of the
    method's or has another type: its code has changed since the document was written.
    """
    types = get_type_hints(config) | get_type_hints(LoopConfig)
    missing = [key for key in types if key not in document]
    strange = [key for key in document if key not in types]
    if missing or strange:
        raise BenchError(
            f"expected the settings {', '.join(types)}, found {', '.join(missing) or 'none'} missing "
            f"and {', '.join(strange) or 'none'} unknown; use the code that wrote them"
        )
    try:
        values = {key: _typed(key, value, types) for key, value in document.items()}
    except UsageError as error:
        raise BenchError(f"{error}; use the code that wrote it") from error
    return _settings(config, values)


def _settings(config: type, values: Mapping[str, Any]) -> Settings:
    loop = {f.name for f in dataclasses.fields(LoopConfig)}
    return Settings(
        config(**{k: v for k, v in values.items() if k not in loop}),
        LoopConfig(**{k: v for k, v in values.items() if k in loop}),
    )


def parse_sets(texts: Iterable[str], methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """`hypergan.beta=0.1` and its like, as {method: {key: text}}.

    Raises UsageError where the form is another or the method is not among those of the command.
    """
    methods = list(methods)
    found: dict[str, dict[str, str]] = {}
    for text in texts:
        address, equals, value = text.partition("=")
        name, dot, key = address.rpartition(".")
        if not (equals and dot and name and key and value):
            raise UsageError(f"--set {text}: expected METHOD.KEY=VALUE, as in hypergan.beta=0.1")
        if name not in methods:
            raise UsageError(f"--set {text}: method {name!r} is not in this command ({', '.join(methods)})")
        found.setdefault(name, {})[key] = value
    return found


def _parse(text: str) -> Any:
    """A value as TOML writes it; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _typed(key: str, value: Any, types: Mapping[str, type], method: str = "") -> Any:
    where = f"--set {method}.{key}={value}" if method else key
    if key not in types:
        hint = nearest(key, types) or f"known: {', '.join(types)}"
        raise UsageError(f"{where}: no such setting; {hint}")
    wanted = types[key]
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise UsageError(f"{where}: expected {wanted.__name__}, found {type(value).__name__}")
    return value
