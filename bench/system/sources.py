"""Modules as sources: what each defines, what its imports bind, and what of it computes.

Reading one imports nothing of it.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, entry_points
from importlib.util import find_spec
from pathlib import Path

COMPILED = (".c", ".cpp", ".cu")  # sources of a module's own kernels, which bear its name
STATEMENTS = "statements"  # of a module that define nothing: they run when it is imported
CONFIG = "Config"  # the attribute under which a method names the class of its settings
# Statements that call one of these tell somebody something; they compute nothing.
MESSAGES = frozenset({"say", "progress", "warn"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module taken apart; the syntax is without comments, docstrings, annotations, imports and messages.

    definitions: by name; a class is without its functions, which stand beside it as `Class.function` (a
    property and its setter together). imports: dotted targets by the name they are bound to. compiled: C and
    C++ sources beside it, without comments, by file name. configs: names of classes of settings.
    """

    name: str
    package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    lines: dict[str, tuple[int, int]] = field(default_factory=dict)
    compiled: dict[str, str] = field(default_factory=dict)
    configs: set[str] = field(default_factory=set)

    def around(self, line: int) -> str | None:
        """The definition at the top of the module that has this line."""
        found = [name for name, (first, last) in self.lines.items() if first <= line <= last]
        return found[0] if found else None


def find(module: str) -> Path | None:
    """The file of a module that belongs to this suite, to a plug-in or to no package; None for others.

    Imports nothing but the packages at the top, which for plug-ins have been imported to register.
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
    # A package may have a part of another folder, as this suite has `bench.methods`.
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
    """Folders of packages that were installed, whose versions the environment names."""
    return tuple(Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages")))


@cache
def _plugins() -> frozenset[str]:
    """Packages at the top of every distribution that declares a plug-in, this suite's among them."""
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
    """A module's source taken apart."""
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
    """C or C++ without comments and without blanks at the ends of lines."""
    kept = r'"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])*'"
    bare = re.sub(rf"({kept})|//[^\n]*|/\*.*?\*/", lambda m: m[1] or " ", text, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in bare.splitlines() if line.strip())


def _bound(node: ast.Import | ast.ImportFrom, module: Module) -> dict[str, str]:
    """Names that an import binds, with the dotted names they stand for."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                for a in node.names}  # fmt: skip
    parts = module.name.split(".")
    above = parts[: len(parts) - node.level + module.package] if node.level else []
    start = ".".join([*above, *([node.module] if node.module else [])])
    return {a.asname or a.name: f"{start}.{a.name}" for a in node.names}


def _take(module: Module, statement: ast.stmt) -> None:
    """Put a statement of the top of a module under the names that it defines."""
    names = _names(statement)
    if isinstance(statement, ast.ClassDef):
        for part in [s for s in statement.body if isinstance(s, Function)]:
            module.definitions.setdefault(f"{statement.name}.{part.name}", []).append(part)
            statement.body.remove(part)
        for own in [s for s in statement.body if isinstance(s, ast.Assign) and _target(s) == CONFIG]:
            statement.body.remove(own)
            if isinstance(own.value, ast.Name):
                module.configs.add(own.value.id)
                module.definitions.setdefault(f"{statement.name}.{CONFIG}", []).append(own)
    for name in names or [STATEMENTS]:
        module.definitions.setdefault(name, []).append(statement)
        if names:
            first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
            module.lines[name] = (first, statement.end_lineno or first)


def _names(statement: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module defines, within `if` and `try` too."""
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
    """Leaves out of a tree what computes nothing: annotations, texts that stand alone, imports, messages."""

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
        # A field without a value still has its name and its place among the others.
        value = node.value or ast.Constant(...)
        return self.generic_visit(ast.copy_location(ast.Assign([node.target], value), node))

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        node.cause = None
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func  # the kind of error counts, its text does not
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
