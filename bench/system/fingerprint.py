"""The version of the code that computes a result: the definitions that it can reach, wherever they lie.

A definition is a function, a class without its functions, a function of a class, or a constant at the top
of a module. Each is hashed as abstract syntax, in which names that mean a definition or an import stand for
what they mean: comments, docstrings, annotations, messages, the file and the order do not count. From the
definitions that a computation starts with, all that names in them refer to is followed, and every function
of the classes so reached whose name appears as an attribute: rather too much than too little. Nothing is
imported for it.
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

# Bases from elsewhere that call none of a class's functions by names of their own.
PLAIN_BASES = frozenset({"object", "abc.ABC", "typing.Protocol", "typing.Generic", "Exception"})
ASKING = ("getattr", "hasattr")  # functions that ask by a name in quotes


@dataclass(frozen=True)
class Place:
    """A definition by its module and its name there, `Class.function` for a function of a class."""

    module: str
    name: str


def place_of(thing: Any) -> str:
    """`module:name` of a function, a class, a partial or an instance, as `Code.definitions` takes it.

    A lambda, or a function made by another, has the place of the definition around its first line.
    """
    thing = getattr(thing, "func", thing)
    thing = getattr(thing, "__wrapped__", thing)
    if not hasattr(thing, "__qualname__"):
        thing = type(thing)
    if "<" in thing.__qualname__:
        return f"{thing.__module__}:@{thing.__code__.co_firstlineno}"
    return f"{thing.__module__}:{thing.__qualname__}"


def version(definitions: Mapping[str, str]) -> str:
    """The first 12 hex digits of SHA-256 over definitions, in order of their names."""
    lines = [f"{name}\0{definitions[name]}\0" for name in sorted(definitions)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of definitions that differ: changed, new or gone."""
    return [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]


class Code:
    """Sources as far as they were read.

    find: the file of a module, None for one that is not followed. aside: modules (with what lies below
    them) and definitions (`module:name`) whose results enter no result.
    """

    def __init__(self, aside: Iterable[str] = (), find: Callable[[str], Path | None] = sources.find) -> None:
        self.aside = frozenset(aside)
        self._find = find
        self._modules: dict[str, Module | None] = {}
        self._hashes: dict[Place, str] = {}

    def definitions(self, roots: Iterable[str]) -> dict[str, str]:
        """What the roots (`module:name`) reach: the first 8 hex digits of SHA-256 by name of definition.

        `module:TABLE[key]` is the definition under a key of a dictionary, if it has the key.
        Definitions of one name in several modules stand together. A root that is no longer in its
        module is looked for in its package. Raises LookupError for one that is nowhere.
        """
        reached = self._reach([place for root in roots for place in self._root(root)])
        found: dict[str, list[str]] = {}
        for place in reached:
            found.setdefault(place.name, []).append(self._hash(place))
        return {name: "+".join(sorted(set(hashes))) for name, hashes in sorted(found.items())}

    def module(self, name: str) -> Module | None:
        """A module taken apart; None for one that is not followed."""
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
        """The definition that a name or a chain of attributes means, as far as it is followed."""
        dotted = self._dotted(self._owner(place), node)
        found = None if dotted is None else self._lookup(dotted)
        return [] if found is None or self._is_aside(found) else [found]

    def _beside(self, place: Place) -> list[Place]:
        """What runs or is compiled with a module, whatever of it is reached."""
        module = self._owner(place)
        names = [*module.compiled, *([STATEMENTS] if STATEMENTS in module.definitions else [])]
        return [Place(place.module, name) for name in names]

    def _called(self, reached: Iterable[Place], attributes: set[str]) -> Iterator[Place]:
        """Functions of the classes reached that something reached may call."""
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
        """Whether a base lies outside and calls a class's functions by names that are not seen here."""
        base = base.value if isinstance(base, ast.Subscript) else base
        dotted = self._dotted(module, base) or ast.unparse(base)
        return self._lookup(dotted) is None and dotted not in PLAIN_BASES

    def _is_aside(self, place: Place) -> bool:
        parts = place.module.split(".")
        above = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return not self.aside.isdisjoint({*above, f"{place.module}:{place.name}"})

    def _dotted(self, module: Module, node: ast.AST) -> str | None:
        """What a name or a chain of attributes stands for, from the top; None for a local one."""
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
        """The definition that a dotted name means, through re-exports; None where it is not followed."""
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
        """The definition under a key of a table at the top of a module; none where it has no such key."""
        module = self._owner(table)
        for node in self._nodes(table):
            if isinstance(node, ast.Dict):
                for name, value in zip(node.keys, node.values, strict=True):
                    if isinstance(name, ast.Constant) and name.value == key:
                        found = self._lookup(self._dotted(module, value) or "")
                        return [] if found is None else [found]
        return []

    def _moved(self, package: str, name: str) -> Place | None:
        """The one definition of that name in a package; None where there is none, or several."""
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
        """A syntax tree as text, the same under every version of Python: what is empty is left out.

        config: a class of settings, whose fields are left out, since a cell's settings name their values.
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
    """Names under which a node may ask an object for something."""
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ASKING:
        return {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return set()
