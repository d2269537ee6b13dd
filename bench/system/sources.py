"""Source code of modules: their definitions, imports and compiled files, parsed without importing them."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, entry_points
from importlib.util import find_spec
from pathlib import Path

COMPILED = (".c", ".cpp", ".cu")  # suffixes of a module's compiled kernels, which share its file name
STATEMENTS = "statements"  # name for top-level statements that define nothing and run on import
CONFIG = "Config"  # the attribute of a method that refers to its settings class
# Statements that call one of these functions only print messages.
MESSAGES = frozenset({"say", "progress", "warn"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed module, without comments, docstrings, annotations, imports and messages.

    definitions: by name; functions of a class are separate entries, `Class.function` (a property
    together with its setter). imports: dotted targets by the name they are bound to. lines: first and last
    line of each definition. compiled: C and C++ sources next to it, without comments, by file name.
    configs: names of settings classes.
    """

    name: str
    package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    lines: dict[str, tuple[int, int]] = field(default_factory=dict)
    compiled: dict[str, str] = field(default_factory=dict)
    configs: set[str] = field(default_factory=set)

    def around(self, line: int) -> str | None:
        """The top-level definition that contains this line."""
        found = [name for name, (first, last) in self.lines.items() if first <= line <= last]
        return found[0] if found else None


def find(module: str) -> Path | None:
    """The file of a module of this suite, of a plug-in or of no installed package; None for others.

    Imports only top-level packages; those of plug-ins have been imported at registration.
    """
    package, _, last = module.rpartition(".")
    if not package:
        return _top(module)
    above = find(package)
    if above is None or above.name != "__init__.py":
        return None
    for path in (above.parent / last / "__init__.py", above.parent / f"{last}.py"):
        if path.exists():
            return path
    # A subpackage may be in another folder, as `bench.methods` is.
    return None if "." in package else _origin(module)


def _top(module: str) -> Path | None:
    path = None if module in sys.stdlib_module_names else _origin(module)
    installed = path is not None and any(path.is_relative_to(folder) for folder in _installed())
    return None if installed and module not in _plugins() else path


def _origin(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


@cache
def _installed() -> tuple[Path, ...]:
    """Folders of installed packages, whose versions are part of the recorded environment."""
    return tuple(Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages")))


@cache
def _plugins() -> frozenset[str]:
    """Top-level packages of all distributions that declare a plug-in, including this suite."""
    found: set[str] = set()
    for point in entry_points(group="bench.plugins"):
        found.add(point.module.partition(".")[0])
        if point.dist is not None:
            found |= _tops(point.dist)
    return frozenset(found)


def _tops(distribution: Distribution) -> set[str]:
    listed = distribution.read_text("top_level.txt")
    if listed:
        return set(listed.split())
    files = distribution.files or []
    return {path.parts[0].removesuffix(".py") for path in files if path.suffix == ".py"}


def read(name: str, path: Path) -> Module:
    """Parse a module's source."""
    tree = ast.parse(path.read_text("utf-8"))
    module = Module(name, package=path.name == "__init__.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports.update(_bound(node, module))
    clean = _Clean().visit(tree)
    for statement in clean.body:
        _take(module, statement)
    for suffix in COMPILED:
        source = path.with_suffix(suffix)
        if source.exists():
            module.compiled[source.name] = without_comments(source.read_text("utf-8"))
    return module


def without_comments(text: str) -> str:
    """C or C++ source without comments and trailing blanks."""
    kept = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])*'"
    bare = re.sub(rf"({kept})|//[^\n]*|/\*.*?\*/", lambda m: m[1] or " ", text, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in bare.splitlines() if line.strip())


def _bound(node: ast.Import | ast.ImportFrom, module: Module) -> dict[str, str]:
    """Names that an import binds, with the dotted names they refer to."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names}  # fmt: skip
    parts = module.name.split(".")
    above = parts[: len(parts) - node.level + module.package] if node.level else []
    start = ".".join([*above, *([node.module] if node.module else [])])
    return {a.asname or a.name: f"{start}.{a.name}" for a in node.names}


def _take(module: Module, statement: ast.stmt) -> None:
    """Add a top-level statement of a module under the names that it defines."""
    names = _names(statement)
    if isinstance(statement, ast.ClassDef):
        for part in list(statement.body):
            if isinstance(part, Function):
                module.definitions.setdefault(f"{statement.name}.{part.name}", []).append(part)
                statement.body.remove(part)
            elif isinstance(part, ast.Assign) and _target(part) == CONFIG:
                module.definitions.setdefault(f"{statement.name}.{CONFIG}", []).append(part)
                statement.body.remove(part)
                if isinstance(part.value, ast.Name):
                    module.configs.add(part.value.id)
    for name in names or [STATEMENTS]:
        module.definitions.setdefault(name, []).append(statement)
        if names:
            first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
            module.lines[name] = (first, statement.end_lineno or first)


def _names(statement: ast.stmt) -> list[str]:
    """Names that a top-level statement defines, including those inside `if` and `try`."""
    if isinstance(statement, Function | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        parts = [part for target in statement.targets for part in ast.walk(target)]
        return [n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)] + [
        n.name for n in ast.walk(statement) if isinstance(n, Function | ast.ClassDef)
    ]


def _target(statement: ast.Assign) -> str:
    target = statement.targets[0]
    return target.id if isinstance(target, ast.Name) else ""


class _Clean(ast.NodeTransformer):
    """Removes from a syntax tree what computes nothing: annotations, docstrings, imports, messages."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # A field without a value keeps its name and position.
        value = node.value or ast.Constant(...)
        return self.generic_visit(ast.copy_location(ast.Assign([node.target], value), node))

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func  # keep the type of error, drop its message
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        if isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr in MESSAGES:
                return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'"):
            return None
        return self.generic_visit(node)
