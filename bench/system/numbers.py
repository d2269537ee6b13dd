"""Numbers that people type, in an option or an environment variable."""

from __future__ import annotations

import re

# int() and float() also accept blanks, underscores and the digits of all scripts, float() also nan.
_WHOLE = re.compile(r"[0-9]{1,25}")
_DECIMAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")


def whole(text: str, most: int) -> int:
    """An integer from 0 to `most` in decimal digits. Raises ValueError for any other text."""
    if not _WHOLE.fullmatch(text) or int(text) > most:
        raise ValueError(f"expected a whole number up to {most}, found {text:.80}")
    return int(text)


def positive(text: str, most: float) -> float:
    """A number above 0, at most `most`, in decimal digits. Raises ValueError for any other text."""
    if not _DECIMAL.fullmatch(text) or not 0 < float(text) <= most:
        raise ValueError(f"expected a number above 0 and at most {most:g}, found {text:.80}")
    return float(text)
