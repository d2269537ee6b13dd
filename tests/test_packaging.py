"""The installed package is complete."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILED = (".pyc", ".so", ".pyd")  # created by each installation
FOLDERS = {"bench": "bench", "methods": "bench.methods", "datasets": "bench.datasets"}


@pytest.mark.parametrize(("folder", "name"), FOLDERS.items())
def test_every_file_of_the_source_tree_is_installed(folder: str, name: str) -> None:
    (installed,) = importlib.import_module(name).__path__
    for path in (ROOT / folder).rglob("*"):
        if path.is_file() and path.suffix not in COMPILED:
            copy = Path(installed) / path.relative_to(ROOT / folder)
            assert copy.read_bytes() == path.read_bytes(), f"install again: {path} has changed"


def test_the_plugins_of_the_suite_are_entry_points() -> None:
    points = {point.value for point in entry_points(group="bench.plugins")}
    assert {"bench.methods", "bench.datasets"} <= points


def test_kernels_are_compiled_where_there_is_a_compiler() -> None:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler on this machine")
    spec = find_spec("bench.engine")  # without importing it, which needs torch
    assert spec is not None and spec.submodule_search_locations is not None
    (installed,) = spec.submodule_search_locations
    assert [p for p in Path(installed).glob("_kernels*") if p.suffix in (".so", ".pyd")], (
        "expected bench/engine/_kernels next to kernels.cpp; install again and check the compiler output"
    )


@pytest.mark.parametrize("name", ["raw/a.csv", "raw/a.json", "code/a.json", "report.html"])
def test_git_never_changes_the_bytes_of_recorded_evidence(name: str) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    words = ["git", "-c", "core.autocrlf=true", "check-attr", "text", "--", f"results/{name}"]
    asked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert asked.stdout.strip().endswith("text: unset")
