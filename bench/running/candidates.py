"""Candidates of `bench tune`: the preset's settings, the published ones, then draws from the search space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from bench import registry, space
from bench.errors import BenchError
from bench.registry import MethodEntry
from bench.rng import Streams
from bench.settings import Refused, Settings, changed, resolve

PUBLISHED = "paper"  # the preset that keeps the published values
# Draws in a row that give nothing new end the candidates. Of a space with one value left among a hundred,
# 1,000 draws miss it once in 20,000 times.
MISSES = 1000


@dataclass(frozen=True)
class Candidate:
    """Settings to try. number: its place, from 0; origin: where they come from, in words.

    settings: at the preset's length, as they would stand in the method's file.
    """

    number: int
    origin: str
    settings: Settings

    @property
    def digest(self) -> str:
        """Equal for candidates with the same settings."""
        return self.settings.digest()


@dataclass(frozen=True)
class Search:
    """The search space of a method on tasks with a train key, over its settings under a preset.

    base: the preset's settings with `--set`. stated: the preset's without it. sets: of `--set`, fixed for all
    candidates, as are a variant's settings.
    """

    entry: MethodEntry
    preset: str
    train: str
    base: Settings
    stated: Settings
    space: space.Space
    sets: Mapping[str, str]

    def candidates(self, seed: int) -> Iterator[Candidate]:
        """All candidates in order, each once; candidate i depends on the seed and the space alone."""
        seen: set[str] = set()
        misses = number = 0
        for origin, settings in self._settings(seed):
            if settings is None or settings.digest() in seen:
                misses += 1
                if misses == MISSES:
                    return
                continue
            seen.add(settings.digest())
            yield Candidate(number, origin, settings)
            number, misses = number + 1, 0

    def _settings(self, seed: int) -> Iterator[tuple[str, Settings | None]]:
        """Origin and settings, with repetitions; None for a combination that the method refuses."""
        yield f"preset {self.preset}", self.base
        yield f"preset {PUBLISHED}", self._published()
        names = sorted(set(self.space.settings) - self._held())
        draw = 0
        while names:
            rng = Streams(seed, "tune", draw)
            # A stream for each setting: another setting in the space changes no other's values.
            share = {n: float(torch.rand((), generator=rng(n), dtype=torch.float64)) for n in names}
            drawn = {n: self.space.settings[n].at(share[n]) for n in names}
            yield "drawn", self._with(drawn)
            draw += 1

    def _published(self) -> Settings | None:
        """The published settings, at the length of this preset."""
        known = resolve(self.entry, self.entry.load().Config, PUBLISHED, self.train, self.sets).document()
        own = self.base.document()
        kept = {*self.space.length, *self.space.fixed, "trace_every", "tf32"}
        return self._with({n: v for n, v in known.items() if n not in kept and n in own})

    def _with(self, values: Mapping[str, Any]) -> Settings | None:
        try:
            return changed(self.base, values)
        except Refused:
            return None

    def _held(self) -> set[str]:
        """Settings that are the same for all candidates."""
        return {*self.space.fixed, *self.sets, *self.entry.own(self.preset, self.train)}

    def shortened(self, candidate: Candidate, length: Fraction) -> Settings:
        """The settings of a trial of a part of the preset's length: each length setting times it, rounded.

        At least 1, but what is 0 stays so. Settings with a single choice have it.
        """
        document = candidate.settings.document()
        free = set(self.space.fixed) - set(self.sets) - set(self.entry.own(self.preset, self.train))
        values = {n: v for n, v in self.space.fixed.items() if n in free}
        for name in self.space.length:
            whole = values.get(name, document[name])
            values[name] = max(1, math.floor(whole * length + Fraction(1, 2))) if whole else whole
        try:
            return changed(candidate.settings, values)
        except Refused as error:
            raise BenchError(
                f"{self.entry.name}, length {length}: {error}; correct [search] in {file_of(self.entry)}"
            ) from error

    def differing(self, settings: Settings, base: Settings | None = None) -> dict[str, Any]:
        """The settings that differ from the preset's (with `--set`, or from `base`), by name."""
        before, now = (base or self.base).document(), settings.document()
        return {name: value for name, value in now.items() if value != before[name]}

    def toml(self, candidate: Candidate, comment: str) -> str:
        """The lines for the method's file that make the preset's settings these; a comment alone if they are.

        Of a method under `[preset.train]`, which precedes every other table; of a variant under its own.
        """
        values = self.differing(candidate.settings, self.stated)
        lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
        header = f"[{self.preset}.{_key(self.train)}]"
        for suffix, variant in self.entry.toml.get("variants", {}).items():
            if self.entry.name == variant.get("name", f"{self.entry.base}-{suffix}"):
                header = f"[variants.{_key(suffix)}]"
        return "\n".join([comment, *([header, *lines] if lines else [])])


def search(entry: MethodEntry, preset: str, train: str, sets: Mapping[str, str]) -> Search:
    """The search of a method, variant or not. Raises BenchError for a space that its settings refuse."""
    config = entry.load().Config
    base, stated = (resolve(entry, config, preset, train, each) for each in (sets, {}))
    values = registry.search_values(entry.toml, train)
    if not any(name != space.LENGTH for name in values):
        raise BenchError(
            f"{file_of(entry)}: expected a table [search] with the values to try, found none for {train}; "
            "add one, as lr = {low = 1e-4, high = 1e-2, log = true}"
        )
    found = Search(entry, preset, train, base, stated, space.parse(values), sets)
    if wrong := list(_wrong(found)):
        raise BenchError(f"{file_of(entry)}, search, {train}: {'; '.join(wrong)}; correct the file")
    return found


def _wrong(search: Search) -> Iterator[str]:
    """What a method's settings refuse in its search space."""
    known = search.base.document()
    for header, table in search.entry.toml["search"].items():
        if space.is_table(table) and header in known:
            yield f"{header}: expected a list of choices or a range {{low, high}}, found {table}"
    for name in search.space.length:
        if type(known.get(name)) is not int:
            yield (
                f"{space.LENGTH} names {name}, which is no whole-numbered setting; name those that make a "
                f'fit long, as {space.LENGTH} = ["epochs"]'
            )
    for name, way in search.space.settings.items():
        for value in way.ends():
            try:
                changed(search.base, {name: value})
            except Refused as error:
                # A rule over several settings is asked of each candidate.
                if name in error.found:
                    yield f"{name}: {error.found[name]}"
                    break


def file_of(entry: MethodEntry) -> str:
    """The name of a method's TOML file."""
    return f"{entry.module.rpartition('.')[2]}.toml"


def _key(name: str) -> str:
    """A name as a key of TOML."""
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else f'"{name}"'


def _toml(value: Any) -> str:
    """A setting in TOML syntax."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
