"""Search spaces: which values `bench tune` may give to settings, as a method's TOML file declares them.

A table `[search]` holds for all tasks, `[search."cifar10,cifar5"]` for train keys. A setting has a list of
choices, `batch = [20, 100]`, or a range with both ends, `lr = {low = 1e-4, high = 1e-2, log = true}`. The key
`length` lists the settings that make a fit long, which trials shorten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LENGTH = "length"
_RANGE = {"low", "high", "log"}
DIGITS = 3  # significant digits of a number drawn from a range: it is read and copied by people


@dataclass(frozen=True)
class Choice:
    """Values of equal chance; a single one is fixed for all trials."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Values to check: all of them."""
        return self.values

    def at(self, share: float) -> Any:
        """The value at a share of the way, from 0 to below 1."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, whole if both ends are; log: evenly by their logarithm, not by themselves."""

    low: float
    high: float
    log: bool = False

    def ends(self) -> tuple[float, float]:
        """Values to check: the smallest and the largest."""
        return self.low, self.high

    def at(self, share: float) -> float:
        """The number at a share of the way, from 0 to below 1, with three significant digits."""
        low, high = self.low, self.high
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        if isinstance(low, int) and isinstance(high, int):
            return min(max(round(value), low), high)
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)


@dataclass(frozen=True)
class Space:
    """The values of each setting by name, and the names of the settings that make a fit long."""

    settings: Mapping[str, Choice | Range]
    length: tuple[str, ...] = ("epochs",)

    @property
    def fixed(self) -> dict[str, Any]:
        """Settings with a single choice."""
        single = {n: w.values for n, w in self.settings.items() if isinstance(w, Choice)}
        return {name: values[0] for name, values in single.items() if len(values) == 1}


def is_table(value: Any) -> bool:
    """Whether a value is a table of train keys, not a setting's range."""
    return isinstance(value, dict) and not _RANGE & set(value)


def parse(values: Mapping[str, Any]) -> Space:
    """The space of a table's values. Raises ValueError for what is neither a list of choices nor a range."""
    length = values.get(LENGTH, ["epochs"])
    if not (isinstance(length, list) and length and all(isinstance(name, str) for name in length)):
        raise ValueError(f'search: {LENGTH} = {length!r}: expected a list of settings, as ["epochs"]')
    return Space({n: _values(n, v) for n, v in values.items() if n != LENGTH}, tuple(length))


def _values(name: str, value: Any) -> Choice | Range:
    if isinstance(value, list):
        if not value or any(value.count(each) > 1 for each in value):
            raise ValueError(f"search: {name} = {value!r}: expected different choices, at least one")
        return Choice(tuple(value))
    if not isinstance(value, dict) or not {"low", "high"} <= set(value) <= _RANGE:
        raise ValueError(
            f"search: {name} = {value!r}: expected a list of choices, or a range "
            "{low = 1e-4, high = 1e-2, log = true}"
        )
    low, high, log = value["low"], value["high"], value.get("log", False)
    numbers = all(type(end) in (int, float) and math.isfinite(end) for end in (low, high))
    if not numbers or not low < high or not isinstance(log, bool):
        raise ValueError(f"search: {name} = {value!r}: expected numbers low < high, and log = true or false")
    if log and low <= 0:
        raise ValueError(f"search: {name} = {value!r}: expected low > 0 where log = true")
    return Range(low, high, log)
