"""Source code of modules: their definitions, imports and compiled files, parsed without importing them."""

from __future__ import annotations

import ast
import builtins
import re
import sys
import tokenize
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError, distribution, entry_points
from importlib.util import find_spec
from pathlib import Path

# Suffixes of a module's compiled kernels: `kernels.cpp` and `kernels_more.cpp` are part of `kernels.py`.
COMPILED = (".c", ".cpp", ".cu", ".h")
STATEMENTS = "statements"  # name for top-level statements that define nothing and run on import
CONFIG = "Config"  # the attribute of a method that refers to its settings class
# Statements that only report: these functions of these objects. `self.progress(...)` of a method may compute.
MESSAGES = frozenset({"say", "progress", "warn", "debug", "info", "warning"})
MESSENGERS = frozenset({"reporter", "settings", "subject", "warnings", "log", "logger", "logging"})
REGISTERING = frozenset({"add_method", "add_task", "add_source"})  # what they name is a root of its own
SUITE = "ensemble-bench"  # the distribution whose own requirements are not followed
FIELD = "field"  # marks an assignment that was annotated
Function = ast.FunctionDef | ast.AsyncFunctionDef
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try)


@dataclass(frozen=True)
class Module:
    """A parsed module, without comments, docstrings, annotations, imports and messages.

    definitions: by name; functions of a class are separate entries, `Class.function` (a property
    together with its setter). imports: dotted targets by the name they are bound to, several where imports
    differ from place to place; stars: modules all of whose names are imported; loads: modules imported as
    such. annotations: of each definition; they are followed, as objects of these classes are passed in, but
    not hashed. lines: first and last line of each definition. compiled: C and C++ sources next to it, without
    comments, by file name; empty if no library was built from them. configs: names of settings classes.
    """

    name: str
    package: bool
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, list[str]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    annotations: dict[str, list[ast.expr]] = field(default_factory=dict)
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
    top, *names = module.split(".")
    file, folders = _top(top)
    for depth, name in enumerate(names):
        places = [
            path for folder in folders for path in (folder / name / "__init__.py", folder / f"{name}.py")
        ]
        file = next((path for path in places if path.exists()), None)
        folders = [folder / name for folder in folders if (folder / name).is_dir()]
        if file is None and not folders and depth == 0 and _follows(top):
            # A subpackage may be in another folder, as `bench.methods` is.
            file = _origin(find_module(f"{top}.{name}"))
            folders = [file.parent] if file is not None and file.name == "__init__.py" else []
    return file


def _top(module: str) -> tuple[Path | None, list[Path]]:
    """The file of a top-level module and the folders of its submodules, if it is followed."""
    spec = find_module(module) if _follows(module) else None
    if spec is None:
        return None, []
    return _origin(spec), [Path(folder) for folder in spec.submodule_search_locations or []]


def _follows(module: str) -> bool:
    if module in sys.stdlib_module_names:
        return False
    spec = find_module(module)
    places = [] if spec is None else [*(spec.submodule_search_locations or []), spec.origin or ""]
    installed = any(Path(place).is_relative_to(folder) for place in places for folder in _installed())
    return not installed or module in _plugins()


def find_module(module: str) -> ModuleSpec | None:
    """The specification of a module; None if there is none. Imports the packages above it."""
    try:
        return find_spec(module)
    except (ImportError, ValueError):
        return None


def _origin(spec: ModuleSpec | None) -> Path | None:
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


@cache
def _installed() -> tuple[Path, ...]:
    """Folders of installed packages, whose versions are part of the recorded environment."""
    return tuple(Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages")))


@cache
def _plugins() -> frozenset[str]:
    """Top-level packages of distributions that declare a plug-in, as this suite does, and of their helpers.

    A helper is a distribution that a plug-in requires and this suite does not.
    """
    found: set[str] = set()
    plugins = {}
    for point in entry_points(group="bench.plugins"):
        found.add(point.module.partition(".")[0])
        if point.dist is not None:
            plugins[_canonical(point.dist.name)] = point.dist
    own = {name for dist in plugins.values() if _canonical(dist.name) == SUITE for name in _required(dist)}
    left, seen = list(plugins.values()), {*plugins, *own}
    while left:
        dist = left.pop()
        found |= _tops(dist)
        for name in _required(dist) - seen:
            seen.add(name)
            with suppress(PackageNotFoundError):
                left.append(distribution(name))
    return frozenset(found)


def _required(dist: Distribution) -> set[str]:
    """Names of the distributions that one requires."""
    return {_canonical(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in dist.requires or []}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _tops(dist: Distribution) -> set[str]:
    listed = dist.read_text("top_level.txt")
    if listed:
        return set(listed.split())
    files = dist.files or []
    return {path.parts[0].removesuffix(".py") for path in files if path.suffix == ".py"}


def read(name: str, path: Path) -> Module:
    """Parse a module's source."""
    with tokenize.open(path) as file:  # reads the encoding that a source declares
        tree = ast.parse(file.read())
    module = Module(name, package=path.name == "__init__.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            module.loads.extend(alias.name for alias in node.names)
        if isinstance(node, ast.Import | ast.ImportFrom):
            for bound, target in _bound(node, module).items():
                if bound == "*":
                    module.stars.append(target.removesuffix(".*"))
                elif target not in module.imports.setdefault(bound, []):
                    module.imports[bound].append(target)
    for statement in tree.body:
        _annotations(module, statement)
    clean = _Clean().visit(tree)
    for statement in clean.body:
        _take(module, statement)
    built = any(path.with_name(f"_{path.stem}{end}").exists() for end in EXTENSION_SUFFIXES)
    for source in sorted(path.parent.glob(f"{path.stem}*")):
        if source.suffix in COMPILED and f"{source.stem}_".startswith(f"{path.stem}_"):
            module.compiled[source.name] = without_comments(source.read_text("utf-8")) if built else ""
    return module


def _annotations(module: Module, statement: ast.stmt) -> None:
    """Note the annotations of a top-level definition, and of each function of a class by itself."""
    members = [s for s in getattr(statement, "body", []) if isinstance(s, Function)]
    inside = isinstance(statement, ast.ClassDef)
    for name in _names(statement):
        left = [s for s in statement.body if s not in members] if isinstance(statement, ast.ClassDef) else []
        module.annotations.setdefault(name, []).extend(_annotated(left or [statement]))
        for member in members if inside else []:
            module.annotations.setdefault(f"{name}.{member.name}", []).extend(_annotated([member]))


def _annotated(statements: Iterable[ast.stmt]) -> list[ast.expr]:
    found: list[ast.expr | None] = []
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
        elif isinstance(node, Function):
            found.append(node.returns)
    return [annotation for annotation in found if annotation is not None]


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
    if not names or isinstance(statement, COMPOUND) or _registers(module, statement):
        names = [*names, STATEMENTS]
    for name in names:
        module.definitions.setdefault(name, []).append(statement)
        if name != STATEMENTS:
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


def _registers(module: Module, statement: ast.stmt) -> bool:
    """Whether a decorator may register a function: it is neither the standard library's nor PyTorch's."""
    for decorator in statement.decorator_list if isinstance(statement, Function) else []:
        node: ast.AST = decorator.func if isinstance(decorator, ast.Call) else decorator
        while isinstance(node, ast.Attribute):
            node = node.value
        name = node.id if isinstance(node, ast.Name) else ""
        tops = {target.partition(".")[0] for target in module.imports.get(name, [])}
        if name not in dir(builtins) and not (tops and tops <= {*sys.stdlib_module_names, "torch"}):
            return True
    return False


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
        assigned = ast.copy_location(ast.Assign([node.target], value), node)
        # Of a class of settings: a field, whose value stands in the settings, and no constant of the class.
        vars(assigned)[FIELD] = "ClassVar" not in ast.unparse(node.annotation)
        return self.generic_visit(assigned)

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
            if isinstance(called, ast.Name) and called.id in REGISTERING:
                return None
            told = isinstance(called, ast.Attribute) and called.attr in MESSAGES
            if told and ast.unparse(called).split(".")[-2] in MESSENGERS:
                return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'"):
            visited = (self.visit(statement) for statement in node.orelse)
            return [statement for statement in visited if statement is not None]
        return self.generic_visit(node)
