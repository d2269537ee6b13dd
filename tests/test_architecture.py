"""The architecture: which modules may import which, checked by parsing the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# The packages and modules of bench/, top down, and what each may import besides itself.
ALLOWED = {
    "__main__": {"cli"},
    "cli": {
        "report", "running", "perf", "records", "settings", "system", "registry", "errors", "__init__",
    },
    "report": {"records", "system", "registry", "errors"},
    "running": {
        "evaluations", "training", "metrics", "ensemble", "engine", "records", "settings", "registry", "task",
        "space", "rng", "system", "errors",
    },
    "perf": {"training", "engine", "networks", "settings", "registry", "rng", "system"},
    "evaluations": {"attacks", "metrics", "ensemble", "records", "task", "rng", "errors"},
    "training": {
        "metrics", "ensemble", "engine", "networks", "records", "settings", "task", "rng", "system",
        "errors",
    },
    "attacks": {"metrics", "ensemble", "rng"},
    "metrics": {"engine", "task"},
    "ensemble": {"engine"},
    "engine": {"networks"},
    "records": {"system", "errors"},
    "settings": {"registry", "errors"},
    "registry": {"space", "errors"},
    "system": {"errors"},
    "networks": set(),
    "task": set(),
    "space": set(),
    "rng": set(),
    "errors": set(),
    "__init__": set(),
}  # fmt: skip
METHODS = {"training", "registry"}
EXAMPLES = {"bench.training", "bench.registry"}  # all that a method of another package needs
DATASETS = {"task", "networks", "registry", "errors", "datasets"}
# The top-level modules of bench/; all others are in packages.
TOP = {
    "__init__", "__main__", "task", "networks", "ensemble", "registry", "settings", "errors", "rng",
    "space",
}  # fmt: skip
WITHOUT_TORCH = (
    "bench.cli.main", "bench.report", "bench.methods", "bench.datasets", "bench.records.store",
    "bench.running.launchers", "bench.system.code", "bench.system.files", "bench.system.machine",
    "bench.system.progress",
)  # fmt: skip


def sources(place: str) -> list[Path]:
    return sorted((ROOT / place).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def module_of(path: Path) -> str:
    """The import name of a file, `bench.engine` for bench/engine/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ("methods", "datasets"):
        parts = ("bench", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for place in ("bench", "methods", "datasets") for path in sources(place)}


def named(node: ast.ImportFrom, alias: ast.alias) -> str:
    """The module that `from X import Y` imports: X.Y if that is a module, else X."""
    whole = f"{node.module}.{alias.name}"
    return whole if whole in MODULES else node.module or ""


@cache
def imported(path: Path) -> frozenset[str]:
    """Modules of this suite that a file imports, including those inside functions and for types."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {named(node, alias) for alias in node.names}
    return frozenset(found & set(MODULES))


def room(module: str) -> str:
    """The package or module at the top of bench/ that a module belongs to."""
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("place", ALLOWED)
def test_packages_import_only_what_the_architecture_allows(place):
    for module, path in MODULES.items():
        if room(module) == place:
            rooms = {room(name) for name in imported(path)} - {place}
            assert rooms <= ALLOWED[place], f"{module} imports {rooms - ALLOWED[place]}"


def test_the_architecture_lists_all_packages_and_no_upward_import():
    assert {room(m) for m in MODULES} - {"methods", "datasets"} == set(ALLOWED)
    floors = list(ALLOWED)
    for i, place in enumerate(floors):
        assert ALLOWED[place] <= set(floors[i + 1 :]), place


def test_bench_has_only_the_listed_top_level_modules():
    assert {path.stem for path in (ROOT / "bench").glob("*.py")} == TOP


def test_methods_and_datasets_import_only_what_the_architecture_allows():
    for module, path in MODULES.items():
        if room(module) in ("methods", "datasets"):
            allowed = METHODS if room(module) == "methods" else DATASETS
            rooms = {room(name) for name in imported(path)}
            assert rooms <= allowed, f"{module} imports {rooms - allowed}"


def test_examples_import_only_the_facade_and_the_registry():
    for path in sources("examples/swag/swag_example"):
        assert imported(path) <= EXAMPLES, path


def test_there_is_no_import_cycle():
    ended: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in ended:
            for name in sorted(imported(MODULES[module])):
                follow(name, (*way, module))
            ended.add(module)

    for module in MODULES:
        follow(module, ())


def test_planning_does_not_import_modules_of_a_run():
    reached: set[str] = set()
    left = ["bench.running.plan"]
    while left:
        reached.add(module := left.pop())
        left += imported(MODULES[module]) - reached
    assert "bench.running.cell" in reached
    assert not {room(module) for module in reached} & {"evaluations", "training", "attacks", "engine"}


def test_nothing_private_of_another_module_is_used():
    for module, path in MODULES.items():
        modules: set[str] = set()  # local names of modules of this suite
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bench":
                for alias in node.names:
                    assert not private(alias.name), f"{module} imports {node.module}.{alias.name}"
                    if named(node, alias) != node.module:
                        modules.add(alias.asname or alias.name)
        for node in ast.walk(parsed(path)):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in modules:
                    assert not private(attribute), f"{module} uses {name}.{attribute}"


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_bench_mentions_no_method_and_no_data_set():
    for path in sources("bench"):
        assert not {name for name in imported(path) if room(name) in ("methods", "datasets")}, path


def test_methods_do_not_import_each_other():
    for path in sources("methods"):
        assert not {name for name in imported(path) if room(name) == "methods"}, path


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_the_command_line_and_the_report_need_neither_torch_nor_pydantic(module):
    assert loaded(module, "torch", "torchvision", "sklearn", "pydantic") == ""


def test_settings_need_pydantic_and_no_torch():
    pytest.importorskip("pydantic")
    assert loaded("bench.settings", "torch", "torchvision", "sklearn") == ""


def loaded(module, *heavy):
    """Those of these packages that an import of a module loads, by name."""
    code = f"import sys, {module}; print(*(m for m in {heavy} if m in sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_files_and_functions_are_short():
    for place in ("bench", "methods", "datasets", "examples", "tests"):
        for path in sources(place):
            text = path.read_text("utf-8")
            assert len(text.splitlines()) <= LONGEST_FILE, path
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.FunctionDef):
                    assert node.end_lineno is not None
                    assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{path}: {node.name}"


def test_public_functions_have_docstrings():
    for place in ("bench", "methods", "datasets", "examples/swag/swag_example"):
        for path in sources(place):
            tree = parsed(path)
            assert ast.get_docstring(tree), path
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    assert ast.get_docstring(node), f"{path}: {node.name}"
