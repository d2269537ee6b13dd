"""Parts of the report import only lower parts, and sections do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bench.report

FOLDER = Path(bench.report.__file__).parent
NUMBERS = {
    "arrays",
    "configurations",
    "costs",
    "data_sets",
    "flags",
    "paired",
    "published",
    "rows",
    "uncertainty",
}
# Top down: what each part may import besides itself.
BELOW = {
    "__init__": {"output", "claims", "sections", "layout", *NUMBERS},
    "export": {"output", "sections", "layout", *NUMBERS},
    "outcome": set(),
    "standings": {"families", "questions", *NUMBERS},
    "output": {"first_screen", "methods", "families", "claims", "layout", *NUMBERS},
    "first_screen": {"families", "claims", "layout", "ranks", "questions", *NUMBERS},
    "methods": {"families", "configurations", "rows"},
    "families": {"layout", "ranks", "questions", *NUMBERS},
    "claims": {"layout", *NUMBERS},
    "sections": {"layout", *NUMBERS},
    "layout": {"arrays", "configurations", "data_sets", "rows"},
    "ranks": {"questions", *NUMBERS},
    "questions": NUMBERS,
    "paired": {"arrays", "rows", "uncertainty"},
    "arrays": {"published", "rows"},
    "costs": {"rows"},
    "flags": {"rows"},
    "published": set(),
    "rows": {"configurations", "data_sets", "uncertainty"},
    "configurations": set(),
    "data_sets": set(),
    "uncertainty": set(),
}
# A section that may use numbers of another one.
BESIDE = {("paper", "diversity")}


def imported(path: Path) -> set[tuple[str, ...]]:
    """Names that a file imports from the report, as parts of their dotted path."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bench.report"):
            module = node.module.split(".")[2:]
            found |= {(*module, alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("part", BELOW)
def test_a_part_imports_only_lower_parts(part):
    floors = list(BELOW)
    assert BELOW[part] <= set(floors[floors.index(part) + 1 :])
    path = FOLDER / part
    for file in sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        parts = {names[0] for names in imported(file)} - {part}
        assert parts <= BELOW[part], f"{file.name} imports {parts - BELOW[part]}"


def test_all_parts_are_listed():
    files = {path.stem for path in FOLDER.glob("*.py")}
    assert files | {path.parent.name for path in FOLDER.glob("*/__init__.py")} == set(BELOW)


def test_sections_do_not_import_each_other():
    names = {path.stem for path in (FOLDER / "sections").glob("*.py")} - {"__init__"}
    found = {
        (name, other)
        for name in names
        for part, *others in imported(FOLDER / "sections" / f"{name}.py")
        for other in others
        if part == "sections" and other in names
    }
    assert found <= BESIDE
