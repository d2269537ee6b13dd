"""Where a number came from: code version, commit, environment; and what it cost in memory."""

from __future__ import annotations

import ast
import hashlib
import io
import platform
import subprocess
import tokenize
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench.system.machine import processor

PACKAGE = Path(__file__).parent.parent
# What decides trained weights, beside the method's own module. How they are stored does not.
TRAINING = ("ensemble.py", "engine", "metrics/diversity.py", "networks.py", "rng.py", "training")
# What decides rows once networks are drawn, beside the task's own module.
EVALUATION = ("attacks", "evaluations", "metrics", "running/run.py", "task.py")
SOURCES = (".py", ".cpp")
LIBRARIES = ("torch", "torchvision", "torchattacks", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


def code_version(names: Iterable[str], modules: Iterable[str]) -> str:
    """The first 12 hex digits of SHA-256 over sources: parts of this package, and whole modules.

    Comments, docstrings and empty lines of Python files do not count: they compute nothing.
    """
    files: list[Path] = []
    for name in names:
        path = PACKAGE / name
        files += sorted(f for f in path.rglob("*") if f.suffix in SOURCES) if path.is_dir() else [path]
    for module in modules:
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            files.append(Path(spec.origin))
    whole = hashlib.sha256()
    for path in files:
        whole.update(path.name.encode() + b"\0" + _statements(path, path.stat().st_mtime_ns))
    return whole.hexdigest()[:12]


@cache
def _statements(path: Path, modified: int) -> bytes:
    """A source as far as it computes something. modified: when it was changed, so that a change is seen."""
    source = path.read_text("utf-8")
    return (without_comments(source) if path.suffix == ".py" else source).encode()


def without_comments(source: str) -> str:
    """A Python source without comments, docstrings, empty lines and blanks at the ends of lines."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as text, *_]:
                    for row in range(text.lineno - 1, text.end_lineno or text.lineno):
                        lines[row] = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())


@cache
def commit() -> tuple[str, bool]:
    """The checkout's commit and whether its code has uncommitted changes; ("", False) outside one."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head, bool(_git("status", "--porcelain", "--", "*.py", "*.cpp", "*.toml"))
    except (OSError, subprocess.CalledProcessError):
        return "", False


def _git(*arguments: str) -> str:
    # A wheel in somebody else's repository is not a checkout of ours.
    if not (PACKAGE.parent / "pyproject.toml").exists():
        raise OSError("not a checkout")
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@cache
def environment(device: str) -> dict[str, Any]:
    """Versions, device, threads and platform, for the run's JSON."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["device"] = device
    found["device_name"] = torch.cuda.get_device_name() if device == "cuda" else processor()
    found["threads"] = torch.get_num_threads()
    return found
