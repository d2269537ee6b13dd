"""The version of the code that computes a result: hashes of all definitions that it can reach, in any file.

A definition is a function, a class without its functions, a function of a class, or a constant at the top
of a module. Each is hashed as abstract syntax with names of definitions and imports resolved: comments,
docstrings, annotations, messages, the file and the order do not matter. Starting from the roots of a
computation, all names in reached definitions are followed, and every function of a reached class
whose name appears as an attribute: rather too much than too little. Nothing is imported. Out of sight are
names computed at run time (except of functions of classes in the module that computes them), modules
imported by a computed name, and data files, whose contents checksums cover.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bench.system import sources
from bench.system.sources import CONFIG, FIELD, STATEMENTS, Module

# External base classes that call no functions of their subclasses.
PLAIN_BASES = frozenset({"object", "abc.ABC", "typing.Protocol", "typing.Generic", "Exception"})
# Functions that access an attribute by a name in quotes, or by one that is computed.
LOOKUPS = ("getattr", "hasattr", "attrgetter", "methodcaller")


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


class _Led(NamedTuple):
    """Where a definition leads: names of attributes, whether it computes others, and definitions."""

    attributes: set[str]
    computed: bool
    places: list[Place]


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
        self._besides: dict[str, list[Place]] = {}
        self._leads: dict[Place, _Led] = {}

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
        computed: set[str] = set()  # modules whose code computes names of attributes
        todo = list(roots)
        while todo:
            while todo:
                place = todo.pop()
                if place in reached:
                    continue
                reached.add(place)
                led = self._led(place)
                attributes |= led.attributes
                computed |= {place.module} if led.computed else set()
                todo += led.places
            todo = [p for p in self._called(reached, attributes, computed) if p not in reached]
        return reached

    def _led(self, place: Place) -> _Led:
        """Where a definition leads. Remembered: several roots reach the same definitions."""
        if place not in self._leads:
            module = self._owner(place)
            nodes = list(self._nodes(place))
            inner = {id(n.value) for n in nodes if isinstance(n, ast.Attribute)}
            attributes: set[str] = set()
            computed, places = False, []
            for node in nodes:
                names = _attributes(node)
                attributes |= names or set()
                computed = computed or names is None
                if id(node) not in inner:  # `a` of `a.b` is followed with `b`
                    places += self._referred(module, node)
            places += [*self._annotated(place), *self._beside(module)]
            self._leads[place] = _Led(attributes, computed, list(dict.fromkeys(places)))
        return self._leads[place]

    def _nodes(self, place: Place) -> Iterator[ast.AST]:
        for statement in self._owner(place).definitions.get(place.name, []):
            yield from ast.walk(statement)

    def _annotated(self, place: Place) -> Iterator[Place]:
        """Classes that a definition's annotations name: objects of them may be passed in."""
        module = self._owner(place)
        nodes = (n for part in module.annotations.get(place.name, []) for n in ast.walk(part))
        for found in (found for node in nodes for found in self._referred(module, node)):
            parts = self._owner(found).definitions.get(found.name, [])
            if any(isinstance(part, ast.ClassDef) for part in parts):
                yield found

    def _owner(self, place: Place) -> Module:
        module = self.module(place.module)
        assert module is not None
        return module

    def _referred(self, module: Module, node: ast.AST) -> list[Place]:
        """The definitions that a name or a chain of attributes refers to, if they are followed."""
        found = []
        for dotted in self._dotted(module, node):
            whole = self.module(dotted)
            if whole is not None:  # a module as a value: whoever gets it may use all of it
                found += [Place(whole.name, name) for name in whole.definitions if "." not in name]
            elif (place := self._lookup(dotted)) is not None:
                found.append(place)
        return [place for place in found if not self._is_excluded(place)]

    def _beside(self, module: Module) -> list[Place]:
        """Compiled sources of a module, and statements that run when it, its packages or its imports do."""
        if module.name not in self._besides:
            targets = [module.name, *(t for bound in module.imports.values() for t in bound)]
            targets += [*module.stars, *module.loads]
            parts = [target.split(".") for target in targets]
            names = dict.fromkeys(".".join(p[: i + 1]) for p in parts for i in range(len(p)))
            modules = [m for m in map(self.module, names) if m is not None]
            found = [Place(m.name, STATEMENTS) for m in modules if STATEMENTS in m.definitions]
            found = [place for place in found if not self._is_excluded(place)]
            self._besides[module.name] = [*found, *(Place(module.name, name) for name in module.compiled)]
        return self._besides[module.name]

    def _called(self, reached: Iterable[Place], attributes: set[str], computed: set[str]) -> Iterator[Place]:
        """Functions of reached classes that reached code may call."""
        for place in reached:
            module = self._owner(place)
            nodes = module.definitions.get(place.name, [])
            if not (nodes and isinstance(nodes[0], ast.ClassDef)):
                continue
            whole = place.module in computed or any(self._is_foreign(module, b) for b in nodes[0].bases)
            for name in module.definitions:
                owner, _, member = name.partition(".")
                special = member.startswith("__") or member == CONFIG
                if owner == place.name and member and (whole or special or member in attributes):
                    found = Place(place.module, name)
                    if not self._is_excluded(found):
                        yield found

    def _is_foreign(self, module: Module, base: ast.expr) -> bool:
        """Whether a base class is external, or has an external one, that may call functions of subclasses."""
        base = base.value if isinstance(base, ast.Subscript) else base
        for dotted in self._dotted(module, base) or [ast.unparse(base)]:
            found = self._lookup(dotted)
            if found is None:
                if dotted not in PLAIN_BASES:
                    return True
                continue
            owner = self._owner(found)
            for node in owner.definitions[found.name]:
                if isinstance(node, ast.ClassDef) and any(self._is_foreign(owner, b) for b in node.bases):
                    return True
        return False

    def _is_excluded(self, place: Place) -> bool:
        parts = place.module.split(".")
        above = {".".join(parts[: i + 1]) for i in range(len(parts))}
        return not self.excluded.isdisjoint({*above, f"{place.module}:{place.name}"})

    def _dotted(self, module: Module, node: ast.AST) -> list[str]:
        """The full dotted names that a name or a chain of attributes may have; none for a local one."""
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return []
        bases = list(module.imports.get(node.id, []))
        if node.id in module.definitions:
            bases.append(f"{module.name}.{node.id}")
        if not bases:
            starred = [f"{star}.{node.id}" for star in module.stars]
            bases = [name for name in starred if self._lookup(name) is not None]
        return [".".join([base, *chain]) for base in bases]

    def _lookup(self, dotted: str, hops: int = 20) -> Place | None:
        """The definition that a dotted name refers to, through re-exports; None if it is not followed."""
        parts = dotted.split(".")
        for count in range(len(parts) - 1, 0, -1):
            module = self.module(".".join(parts[:count]))
            if module is None:
                continue
            name, rest = parts[count], parts[count + 1 :]
            if name in module.definitions:
                member = f"{name}.{rest[0]}" if rest else ""
                return Place(module.name, member if member in module.definitions else name)
            passed = [*module.imports.get(name, []), *(f"{star}.{name}" for star in module.stars)]
            for target in passed if hops else []:
                if (found := self._lookup(".".join([target, *rest]), hops - 1)) is not None:
                    return found
            return None
        return None

    def _root(self, root: str) -> list[Place]:
        name, _, inner = root.partition(":")
        inner, _, entry = inner.partition("[")
        inner = inner.partition(".<locals>")[0]
        module = self.module(name)
        if inner.startswith("@") and module is not None:
            inner = module.around(int(inner[1:])) or STATEMENTS
        first = inner.partition(".")[0]
        found = self._lookup(f"{name}.{first}") or self._moved(name.partition(".")[0], first)
        if found is None:
            raise LookupError(f"expected the definition {root} in a source file, found none")
        if entry:
            return self._entry(found, entry.rstrip("]"))
        member = Place(found.module, inner)
        return [found, member] if inner in self._owner(found).definitions else [found]

    def _entry(self, table: Place, key: str) -> list[Place]:
        """The definition under a key of a module's dictionary, the whole table if it is an expression.

        Empty if there is no such key.
        """
        module = self._owner(table)
        for node in self._nodes(table):
            if isinstance(node, ast.Dict):
                for name, value in zip(node.keys, node.values, strict=True):
                    if isinstance(name, ast.Constant) and name.value == key:
                        found = [self._lookup(dotted) for dotted in self._dotted(module, value)]
                        return [place for place in found if place is not None] or [table]
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
            if place.name in module.compiled:
                text = module.compiled[place.name]
            else:
                config = place.name in module.configs
                text = "".join(self._text(module, s, config) for s in module.definitions[place.name])
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
        if meant := self._dotted(module, value):
            found = ((dotted, self._lookup(dotted)) for dotted in meant)
            return f"<{'|'.join(dotted if place is None else place.name for dotted, place in found)}>"
        if isinstance(value, ast.Constant):
            return f"{type(value.value).__name__} {value.value!r}"
        parts = []
        for name, part in ast.iter_fields(value):
            if config and name == "body":
                part = [statement for statement in part if not getattr(statement, FIELD, False)]
            if isinstance(value, ast.JoinedStr):  # some versions of Python add empty texts
                part = [piece for piece in part if getattr(piece, "value", None) != ""]
            if name not in ("ctx", "type_comment", "kind", "type_ignores") and part not in (None, []):
                parts.append(f"{name}={self._text(module, part)}")
        return f"{type(value).__name__}({','.join(parts)})"


def _attributes(node: ast.AST) -> set[str] | None:
    """Names of the attributes that a node may access; None if a name is computed."""
    if isinstance(node, ast.Attribute):
        return {node.attr}
    if not isinstance(node, ast.Call):
        return set()
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in LOOKUPS:
        return set()
    names = node.args[1:2] if called in ("getattr", "hasattr") else node.args[:1]
    if not all(isinstance(name, ast.Constant) for name in names):
        return None
    return {str(name.value) for name in names if isinstance(name, ast.Constant)}
