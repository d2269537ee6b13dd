"""Settings of a cell: dataclass defaults, overridden by the preset, the variant and `--set`.

A method's `Config` is a class decorated with `@settings`, whose fields have a type and a range or choices:

    @settings
    class MyConfig:
        epochs: Count = 100
        p: Annotated[float, Field(ge=0, lt=1)] = 0.5
        kernel: Literal["full", "weight"] = "full"

Direct construction is checked too. Rules that involve several fields are checked in `__post_init__`, which
raises ValueError. Integers given for float settings become floats; nothing else is converted; NaN and
infinity are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, dataclass_transform, get_args, get_origin

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from bench.errors import BenchError, UsageError, nearest
from bench.registry import PRESETS, MethodEntry

T = TypeVar("T")
MAX_INTEGER = 2**63 - 1  # of tensors and rows

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]  # a fraction that must be below 1, such as a dropout rate
# The logarithm of a standard deviation, in a range where the variance is a normal float32 number.
LogSd = Annotated[float, Field(ge=-40, le=40)]

_SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_NAMES: dict[Any, str] = {int: "an integer", float: "a finite number", bool: "true or false", str: "text"}


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose values are checked against the types and ranges of its fields.

    Construction raises pydantic's ValidationError, a ValueError.
    """
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    made: Any = pydantic.dataclasses.dataclass(frozen=True, config=strict)(cls)
    return made


@settings
class LoopConfig:
    """Settings of the training loop, the same for every method and given in the same TOML tables."""

    trace_every: CountOrZero = 0  # rounds between traces; 0: a tenth of all rounds
    tf32: bool = False  # train with TF32 on a GPU; evaluation always uses float32


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


class Refused(ValueError):
    """Invalid values for a config. found: messages by setting; "" for a rule over several settings."""

    def __init__(self, found: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" if name else text for name, text in found.items()))
        self.found = found


def digest(document: Any) -> str:
    """SHA-256 of a JSON document with sorted keys, in hex."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def resolve(entry: MethodEntry, config: type, preset: str, train: str, sets: Mapping[str, str]) -> Settings:
    """Settings of a method under a preset, for tasks with this train key.

    In order of precedence: `--set`; a variant's settings, those in its tables first; TOML tables of the
    preset and the train key, as `[quick.mnist]`; tables of the preset, as `[quick]`; the defaults of
    `config`. A header may name several presets and train keys, as `[quick."cifar10,cifar5"]` or
    `["quick,paper".toy]`: among tables of the same kind, those that name fewer take precedence
    (`bench.registry.preset_values`).

    Raises UsageError for a key of `--set` that does not exist or whose value is outside its range,
    BenchError for one in the TOML file.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    values = entry.values(preset, train)
    try:
        found = _settings(config, values)
    except Refused as error:
        file = entry.module.rpartition(".")[2]
        raise BenchError(f"{file}.toml, preset {preset}, {entry.name}: {error}; correct the file") from error
    if not sets:
        return found
    try:
        return _settings(config, values | {key: _parse(text) for key, text in sets.items()})
    except Refused as error:
        wrong = [
            " ".join(
                f"--set {entry.name}.{key}={sets[key]:.80}" for key in ([name] if name in sets else sets)
            )
            + f": {text}"
            for name, text in error.found.items()
        ]
        raise UsageError(f"{'; '.join(wrong)}; see bench list settings {entry.name}") from error


def from_document(config: type, document: Mapping[str, Any]) -> Settings:
    """Settings with these values: the inverse of `Settings.document`.

    config: the method's `Config`. Raises BenchError if a setting is missing, unknown or outside its range:
    then the code has changed since the document was written.
    """
    names = _fields(config) | _fields(LoopConfig)
    missing = [key for key in names if key not in document]
    surplus = [key for key in document if key not in names]
    if missing or surplus:
        raise BenchError(
            f"expected the settings {', '.join(names)}, found {', '.join(missing) or 'none'} missing "
            f"and {', '.join(surplus) or 'none'} unknown; use the code that wrote them"
        )
    try:
        return _settings(config, document)
    except Refused as error:
        raise BenchError(f"{error}; use the code that wrote it") from error


def changed(found: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values for some. Raises Refused for unknown ones and values out of range."""
    return _settings(type(found.method), found.document() | dict(values))


class Described(NamedTuple):
    """A setting: its default, its type in a word, and the range of its values, empty where all are valid."""

    name: str
    default: Any
    kind: str
    range: str


def described(config: type, changed: Mapping[str, Any]) -> Iterator[Described]:
    """Every setting of a method. changed: other defaults, as a variant's."""
    for name, info in (_fields(config) | _fields(LoopConfig)).items():
        kind = _NAMES.get(info.annotation, "value").split()[-1]
        limits = " and ".join(_bounds(info))
        if get_origin(info.annotation) is Literal:
            kind, limits = "choice", ", ".join(map(str, get_args(info.annotation)))
        elif info.annotation is bool:
            kind, limits = "switch", "true, false"
        yield Described(name, changed.get(name, info.default), kind, limits)


def _bounds(info: FieldInfo) -> list[str]:
    """The limits of a number in words, as `at least 0` and `below 1`."""
    return [
        f"{text} {getattr(bound, sign):g}"
        for bound in info.metadata
        for sign, text in _SIGNS.items()
        if hasattr(bound, sign)
    ]


def expected(info: FieldInfo) -> str:
    """The allowed values of a setting in words, as `a number of at least 0 and below 1`."""
    if get_origin(info.annotation) is Literal:
        return f"one of {', '.join(map(str, get_args(info.annotation)))}"
    bounds = _bounds(info)
    kind = _NAMES.get(info.annotation, str(info.annotation)) if info.annotation else "a value"
    if not bounds:
        return kind
    between = " of " if bounds[0].startswith("at ") else " "
    return kind.replace("finite ", "") + between + " and ".join(bounds)


def _fields(config: type) -> dict[str, FieldInfo]:
    if not pydantic.dataclasses.is_pydantic_dataclass(config):
        raise BenchError(
            f"{config.__module__}.{config.__qualname__}: expected a class decorated with "
            "@bench.training.settings, found another, whose settings are not checked; replace its decorator"
        )
    return config.__pydantic_fields__


def _settings(config: type, values: Mapping[str, Any]) -> Settings:
    known = _fields(config) | _fields(LoopConfig)
    hints = {key: nearest(key, known) or f"known: {', '.join(known)}" for key in values if key not in known}
    found = {key: f"no such setting; {hint}" for key, hint in hints.items()}
    for key, value in values.items():
        if type(value) is int and abs(value) > MAX_INTEGER and key in known:
            found[key] = f"expected {expected(known[key])}, within 64 bits, found {value}"[:160]
    parts: list[Any] = []
    for part in (config, LoopConfig):
        try:
            parts.append(part(**{key: value for key, value in values.items() if key in _fields(part)}))
        except ValidationError as error:
            found |= dict(_wrong(part, error))
    if found:
        raise Refused(found)
    return Settings(*parts)


def _wrong(config: type, error: ValidationError) -> Iterator[tuple[str, str]]:
    """The name of each invalid setting and why; the name is empty for a rule over several."""
    for each in error.errors():
        if not each["loc"]:
            yield "", str(each["ctx"]["error"])
            continue
        name = str(each["loc"][0])
        value = "nothing" if each["type"] == "missing" else f"{each['input']!r:.80}"
        yield name, f"expected {expected(_fields(config)[name])}, found {value}"


def parse_sets(texts: Iterable[str], methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """Texts such as `hypergan.beta=0.1` as {method: {key: text}}.

    Raises UsageError if the form is invalid or the method is not among those of the command.
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


def written(value: Any) -> str:
    """A value as `--set` takes it: the inverse of its reading."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(text: str) -> Any:
    """A value in TOML syntax; anything else is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # ValueError is also raised for integers of thousands of digits
        return text
