"""The picture of who may import whom, held by parsing the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# For each room: what of this suite it may import. A name allows what lies below it.
ALLOWED = {
    "methods": {
        "config", "method", "training", "ensemble", "engine", "networks", "diversity", "rng", "registry",
        "task",
    },
    "datasets": {"task", "networks", "registry", "errors", "datasets"},
    "bench/engine": {"engine", "networks"},
    "bench/evaluations": {
        "evaluations", "adaptive", "attacks", "metrics", "diversity", "symmetry", "ensemble", "rng",
        "records", "task", "errors",
    },
    "bench/report": {"report", "statistics", "records", "errors", "registry", "machine"},
    "bench/launchers": {"launchers", "sweep", "runner", "progress", "errors", "machine"},
    "bench/claims.py": {"records"},
    "bench/agreement.py": {"records", "errors"},
    "bench/verify.py": {
        "agreement", "claims", "config", "errors", "provenance", "records", "registry", "runner", "task",
    },
    "bench/plan.py": {"runner", "records", "registry", "config", "errors", "task"},
    "bench/attacks.py": {"ensemble", "metrics"},
    "bench/adaptive.py": {"attacks", "ensemble", "rng"},
    "bench/symmetry.py": {"engine"},
    "bench/metrics.py": set(),
    "bench/diversity.py": set(),
    "bench/statistics.py": set(),
    "bench/rng.py": set(),
    "bench/errors.py": set(),
    "bench/machine.py": set(),
    "bench/limits.py": {"errors", "machine"},
    "bench/config.py": {"errors", "registry"},
    "bench/records.py": {"errors"},
    "bench/registry.py": {"errors"},
    "bench/networks.py": set(),
    "bench/task.py": set(),
    "bench/ensemble.py": {"engine"},
}  # fmt: skip


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imported(path: Path) -> set[str]:
    """Modules of this suite that a file imports, without the leading `bench.`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = node.module == "bench"
            found |= {f"bench.{a.name}" for a in node.names} if whole else {node.module or ""}
    return {name.removeprefix("bench.") for name in found if name.startswith("bench.")}


@pytest.mark.parametrize("place", ALLOWED)
def test_rooms_import_only_what_the_picture_allows(place):
    for path in sources(place):
        rooms = {name.split(".")[0] for name in imported(path)} - {"__version__"}
        assert rooms <= ALLOWED[place], f"{path.relative_to(ROOT)} imports {rooms - ALLOWED[place]}"


def test_the_machinery_names_no_method_and_no_data_set():
    for path in sources("bench"):
        assert not {name for name in imported(path) if name.startswith(("methods", "datasets"))}, path


def test_methods_do_not_import_each_other():
    for path in sources("methods"):
        assert not {name for name in imported(path) if name.startswith("methods")}, path


@pytest.mark.parametrize("module", ["bench.cli", "bench.report", "bench.methods", "bench.datasets"])
def test_the_command_line_and_the_report_need_neither_torch_nor_pydantic(module):
    heavy = ("torch", "torchvision", "sklearn", "pydantic")
    code = f"import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_files_and_functions_stay_readable():
    for place in ("bench", "methods", "datasets", "tests"):
        for path in sources(place):
            text = path.read_text("utf-8")
            assert len(text.splitlines()) <= LONGEST_FILE, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno is not None
                    assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{path}: {node.name}"


def test_public_functions_say_what_they_are():
    for place in ("bench", "methods", "datasets"):
        for path in sources(place):
            tree = ast.parse(path.read_text("utf-8"))
            assert ast.get_docstring(tree), path
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path}: {node.name}"
