"""Texts that are stored and published name no folder of the machine that they were made on."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent  # or the folder of installed packages
PACKAGES = ("bench", "methods", "datasets")
# A place where a path can begin: not within a word, an address or another path.
_BEGIN = r"(?<![\w./~-])"
_NAME = r"[^\s/'\"<>|,;:()\[\]{}]+"
_ABSOLUTE = re.compile(rf"{_BEGIN}/(?:{_NAME}/)*({_NAME})")


def without_folders(text: str, known: Mapping[str, Path] | None = None) -> str:
    """The text with absolute paths shortened: relative to known folders, else to `…/` and their last name.

    Known are those of code (`bench/...`, `site-packages/torch/...`, `python/...` of the standard library), of
    temporary files, the user's and the current one. known: others, before these, by the word for them.
    """
    for folder, word in _folders(known or {}):
        pattern = rf"{_BEGIN}{re.escape(folder)}(?:(/)(?={_NAME})|(?![\w.-]))"
        text = re.sub(pattern, partial(_in_place, word), text)
    return _ABSOLUTE.sub(r"…/\1", text)


def _in_place(word: str, found: re.Match[str]) -> str:
    """What stands for a folder: nothing where the word is `.` and a path goes on."""
    return "" if found[1] and word == "." else word + (found[1] or "")


def _folders(known: Mapping[str, Path]) -> list[tuple[str, str]]:
    """Folders and the words for them, the longest path first, as they are named and with links resolved."""
    installed = [Path(place) for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    words = [(Path.home(), "~"), (Path(tempfile.gettempdir()), "TMP"), (Path.cwd(), "CWD")]
    words += [(Path(sysconfig.get_path(kind)), "python") for kind in ("stdlib", "platstdlib")]
    words += [(CHECKOUT, "."), *((place, place.name) for place in installed)]
    words += [(CHECKOUT / name, name) for name in PACKAGES]  # also where it is one of the installed ones
    words += [(folder, word) for word, folder in known.items()]
    found = {form: word for path, word in words for form in (str(path), str(path.resolve()))}
    found.pop(os.sep, None)
    return sorted(found.items(), key=lambda item: -len(item[0]))
