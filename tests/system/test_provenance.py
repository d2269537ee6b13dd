"""The version of the code changes with what computes, and with nothing else."""

from __future__ import annotations

import ast
import io
import tokenize

import pytest

from bench.system import provenance
from bench.system.provenance import without_comments

SOURCES = sorted(p for p in provenance.PACKAGE.rglob("*.py"))

WITH = '''"""Module.

Two paragraphs.
"""

import os  # a reason

# A comment.
TEXT = "# none"  # one


class A:
    """A fact."""

    def f(self):
        """Another."""
        return f"# {TEXT}"  # it is

    def empty(self):
        """Alone."""
'''
WITHOUT = """import os
TEXT = "# none"
class A:
    def f(self):
        return f"# {TEXT}"
    def empty(self):"""


def test_comments_docstrings_and_empty_lines_do_not_count():
    assert without_comments(WITH) == WITHOUT
    assert without_comments(WITH.replace("a reason", "another").replace("A fact.", "None.")) == WITHOUT


@pytest.mark.parametrize("change", [("import os", "import re"), ('"# none"', '"# one"'), ("{TEXT}", "{A}")])
def test_statements_and_what_looks_like_a_comment_in_a_text_do_count(change):
    assert without_comments(WITH.replace(*change)) != WITHOUT


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_what_is_left_of_a_source_has_the_tokens_of_its_statements(path):
    source = path.read_text("utf-8")
    texts = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node) is not None
    }
    kept = [text for text, start in tokens(source) if start not in texts]
    assert [text for text, _ in tokens(without_comments(source))] == kept


def tokens(source):
    """What a parser sees but for indentation, each with its place."""
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    found = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(t.string, t.start) for t in found if t.type not in blank]


def test_a_change_on_disk_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    path = tmp_path / "a.py"
    path.write_text("x = 1\n")
    before = provenance.code_version(["a.py"], [])
    path.write_text("x = 1  # one\n\n")
    assert provenance.code_version(["a.py"], []) == before
    path.write_text("x = 2\n")
    assert provenance.code_version(["a.py"], []) != before
