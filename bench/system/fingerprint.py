"""The version of the code that computes a result: hashes of all definitions that it can reach, in any file.

A definition is a function, a class without its functions, a function of a class, or a constant at the top
of a module. Each is hashed as abstract syntax with names of definitions and imports resolved: comments,
docstrings, annotations, messages, the file and the order do not matter. Starting from the roots of a
computation, all names in reached definitions are followed, and every function of a reached class
whose name appears as an attribute: this may include too much, never too little. Nothing is imported.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.system import sources
from bench.system.sources import CONFIG, STATEMENTS, Module

# External base classes that call no functions of their subclasses.
PLAIN_BASES = frozenset({"object", "abc.ABC", "typing.Protocol", "typing.Generic", "Exception"})
LOOKUPS = ("getattr", "hasattr")  # functions that access an attribute by a name in quotes


@dataclass(frozen=True)
class Place:
    """The location of a definition: its module and name, `Class.function` for a function of a class."""

    module: str
    name: str


def place_of(thing: Any) -> str:
    """`module:name` of a function, a class, a partial or an instance, as `Code.definitions` takes it.

    A lambda or nested function has the place of the enclosing top-level definition.
    """
    thing = getattr(thing, "func", thing)
    thing = getattr(thing, "__wrapped__", thing)
    if not hasattr(thing, "__qualname__"):
        thing = type(thing)
    if "<" in thing.__qualname__:
        return f"{thing.__module__}:@{thing.__code__.co_firstlineno}"
    return f"{thing.__module__}:{thing.__qualname__}"


def version(definitions: Mapping[str, str]) -> str:
    """The first 12 hex digits of SHA-256 over definitions, sorted by name."""
    lines = [f"{name}\0{definitions[name]}\0" for name in sorted(definitions)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of definitions that differ: changed, added or removed."""
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


class Code:
    """Source code, read on demand.

    excluded: modules (with their submodules) and definitions (`module:name`) that do not affect results.
    find: returns the file of a module, None for one that is not followed.
    """

    def __init__(
        self, excluded: Iterable[str] = (), find: Callable[[str], Path | None] = sources.find
    ) -> None:
        self.excluded = frozenset(excluded)
        self._find = find
        self._modules: dict[str, Module | None] = {}
        self._hashes: dict[Place, str] = {}

    def definitions(self, roots: Iterable[str]) -> dict[str, str]:
        """Hashes of the definitions that the roots (`module:name`) reach: 8 hex digits of SHA-256, by name.

        `module:TABLE[key]` is the definition under a key of a dictionary, if it has the key.
        Hashes of definitions with the same name in several modules are joined. A root that is no longer in
        its module is searched in its package. Raises LookupError if it is not found.
        """
        reached = self._reach([place for root in roots for place in self._root(root)])
        found: dict[str, list[str]] = {}
        for place in reached:
            found.setdefault(place.name, []).append(self._hash(place))
        return {name: "+".join(sorted(set(hashes))) for name, hashes in sorted(found.items())}

    def module(self, name: str) -> Module | None:
        """A parsed module; None for one that is not followed."""
        if name not in self._modules:
            path = self._find(name)
            self._modules[name] = None if path is None else sources.read(name, path)
        return self._modules[name]

    def _reach(self, roots: Iterable[Place]) -> set[Place]:
        reached: set[Place] = set()
        attributes: set[str] = set()
        todo = list(roots)
        while todo:
            while todo:
                place = todo.pop()
                if place in reached:
                    continue
                reached.add(place)
                for node in self._nodes(place):
                    attributes |= _attributes(node)
                    todo += self._referred(place, node)
                todo += self._beside(place)
            todo = [p for p in self._called(reached, attributes) if p not in reached]
        return reached

    def _nodes(self, place: Place) -> Iterator[ast.AST]:
        for statement in self._owner(place).definitions.get(place.name, []):
            yield from ast.walk(statement)

    def _owner(self, place: Place) -> Module:
        module = self.module(place.module)
        assert module is not None
        return module

    def _referred(self, place: Place, node: ast.AST) -> list[Place]:
        """The definition that a name or a chain of attributes refers to, if it is followed."""
        dotted = self._dotted(self._owner(place), node)
        found = None if dotted is None else self._lookup(dotted)
        return [] if found is None or self._is_excluded(found) else [found]

    def _beside(self, place: Place) -> list[Place]:
        """Statements and compiled sources that belong to a module, whichever definition of it is reached."""
        module = self._owner(place)
        names = [*module.compiled, *([STATEMENTS] if STATEMENTS in module.definitions else [])]
        return [Place(place.module, name) for name in names]

    def _called(self, reached: Iterable[Place], attributes: set[str]) -> Iterator[Place]:
        """Functions of reached classes that reached code may call."""
        for place in reached:
            module = self._owner(place)
            nodes = module.definitions.get(place.name, [])
            if not (nodes and isinstance(nodes[0], ast.ClassDef)):
                continue
            whole = any(self._is_foreign(module, base) for base in nodes[0].bases)
            for name in module.definitions:
                owner, _, member = name.partition(".")
                special = member.startswith("__") or member == CONFIG
                if owner == place.name and member and (whole or special or member in attributes):
                    yield Place(place.module, name)

    def _is_foreign(self, module: Module, base: ast.expr) -> bool:
        """Whether a base class is external and may call functions of its subclasses."""
        base = base.value if isinstance(base, ast.Subscript) else base
        dotted = self._dotted(module, base) or ast.unparse(base)
        return self._lookup(dotted) is None and dotted not in PLAIN_BASES

    def _is_excluded(self, place: Place) -> bool:
        parts = place.module.split(".")
        above = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return not self.excluded.isdisjoint({*above, f"{place.module}:{place.name}"})

    def _dotted(self, module: Module, node: ast.AST) -> str | None:
        """The full dotted name of a name or a chain of attributes; None for a local one."""
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return None
        base = module.imports.get(node.id)
        if base is None and node.id in module.definitions:
            base = f"{module.name}.{node.id}"
        return None if base is None else ".".join([base, *chain])

    def _lookup(self, dotted: str, hops: int = 20) -> Place | None:
        """The definition that a dotted name refers to, through re-exports; None if it is not followed."""
        parts = dotted.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = self.module(".".join(parts[:count]))
            if module is None:
                continue
            name, rest = parts[count], parts[count + 1 :]
            if name in module.definitions:
                return Place(module.name, name)
            if name in module.imports and hops:
                return self._lookup(".".join([module.imports[name], *rest]), hops - 1)
            return None
        return None

    def _root(self, root: str) -> list[Place]:
        name, _, inner = root.partition(":")
        inner, _, entry = inner.partition("[")
        module = self.module(name)
        if inner.startswith("@") and module is not None:
            inner = module.around(int(inner[1:])) or STATEMENTS
        first = inner.partition(".")[0]
        found = self._lookup(f"{name}.{first}") or self._moved(name.partition(".")[0], first)
        if found is None:
            raise LookupError(f"expected the definition {root} among the sources, found none")
        return [found] if not entry else self._entry(found, entry.rstrip("]"))

    def _entry(self, table: Place, key: str) -> list[Place]:
        """The definition under a key of a module's dictionary; empty if it has no such key."""
        module = self._owner(table)
        for node in self._nodes(table):
            if isinstance(node, ast.Dict):
                for name, value in zip(node.keys, node.values, strict=True):
                    if isinstance(name, ast.Constant) and name.value == key:
                        found = self._lookup(self._dotted(module, value) or "")
                        return [] if found is None else [found]
        return []

    def _moved(self, package: str, name: str) -> Place | None:
        """The only definition of that name in a package; None if there is none or several."""
        top = self._find(package)
        if top is None or top.name != "__init__.py":
            return None
        found = []
        for path in sorted(top.parent.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            module = self.module(".".join((package, *parts)).removesuffix(".__init__"))
            if module is not None and name in module.definitions:
                found.append(Place(module.name, name))
        return found[0] if len(found) == 1 else None

    def _hash(self, place: Place) -> str:
        if place not in self._hashes:
            module = self._owner(place)
            text = module.compiled.get(place.name) or "".join(
                self._text(module, s, place.name in module.configs) for s in module.definitions[place.name]
            )
            self._hashes[place] = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self._hashes[place]

    def _text(self, module: Module, value: Any, config: bool = False) -> str:
        """A syntax tree as text that does not depend on the Python version: empty fields are omitted.

        config: a class of settings, whose fields are omitted, as a cell's key contains their values.
        """
        if isinstance(value, list):
            return f"[{','.join(self._text(module, v) for v in value)}]"
        if not isinstance(value, ast.AST):
            return repr(value)
        if (dotted := self._dotted(module, value)) is not None:
            found = self._lookup(dotted)
            return f"<{dotted if found is None else found.name}>"
        if isinstance(value, ast.Constant):
            return f"{type(value.value).__name__} {value.value!r}"
        parts = []
        for name, part in ast.iter_fields(value):
            if config and name == "body":
                part = [s for s in part if not isinstance(s, ast.Assign)]
            if name not in ("ctx", "type_comment", "kind", "type_ignores") and part not in (None, []):
                parts.append(f"{name}={self._text(module, part)}")
        return f"{type(value).__name__}({','.join(parts)})"


def _attributes(node: ast.AST) -> set[str]:
    """Names of the attributes that a node may access."""
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in LOOKUPS:
        return {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return set()
