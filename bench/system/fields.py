"""What stands beside the fields of a settings class in its source, read without importing it.

A field's comment says what the setting is for and, last and in square brackets, where it comes from:

    lr: Positive = 1e-3  # of the mixer [the reference code has 5e-4]

A comment on lines of its own stands above its field.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bench.system import sources


@dataclass(frozen=True)
class Field:
    """A field as written. about, source: of its comment; default: None if it is no plain value.

    choices: the values of a `Literal`, true and false of a `bool`; empty for others.
    """

    about: str = ""
    source: str = ""
    default: Any = None
    choices: tuple[Any, ...] = ()


def fields(module: str, name: str) -> dict[str, Field]:
    """The fields of a class, or of the class that its `Config` names, in the order of its source.

    Empty where the source is not at hand, or the class is not in that module.
    """
    path = sources.find(module)
    if path is None:
        return {}
    text = path.read_text("utf-8")
    with suppress(SyntaxError):
        classes = {n.name: n for n in ast.parse(text).body if isinstance(n, ast.ClassDef)}
        found = classes.get(_config(classes, name))
        return {} if found is None else dict(_fields(found, text))
    return {}


def _config(classes: Mapping[str, ast.ClassDef], name: str) -> str:
    """The name of a class's settings class, the class's own if it names none."""
    for node in classes[name].body if name in classes else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if sources.CONFIG in targets:
                return node.value.id
    return name


def _fields(found: ast.ClassDef, text: str) -> Iterator[tuple[str, Field]]:
    comments, lines = _comments(text), text.splitlines()
    for node in found.body:
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        parts: list[str] = []
        above = node.lineno - 1
        while above in comments and lines[above - 1].lstrip().startswith("#"):
            parts.insert(0, comments[above])
            above -= 1
        end = node.end_lineno or node.lineno
        parts += [comments[end]] if end in comments else []
        about, source = _split(" ".join(parts))
        yield node.target.id, Field(about, source, _value(node.value), _choices(node.annotation))


def _comments(text: str) -> dict[int, str]:
    """Comments by line, without their sign."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("#").strip() for t in tokens if t.type == tokenize.COMMENT}


def _split(comment: str) -> tuple[str, str]:
    """What a comment says, and the source in square brackets at its end."""
    text = comment.rstrip(" .")
    begin = text.rfind("[")
    if begin < 0 or not text.endswith("]"):
        return text, ""
    return text[:begin].rstrip(), text[begin + 1 : -1].strip()


def _value(node: ast.expr | None) -> Any:
    with suppress(ValueError):
        return None if node is None else ast.literal_eval(node)
    return None


def _choices(annotation: ast.expr) -> tuple[Any, ...]:
    text = ast.unparse(annotation)
    if text == "bool":
        return (True, False)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal"):
        found = _value(annotation.slice)
        return found if isinstance(found, tuple) else (found,)
    return ()
