"""Provenance of results: commit and environment."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.system.machine import kernels, processor

PACKAGE = Path(__file__).parent.parent
LIBRARIES = ("torch", "torchvision", "torchattacks", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


@cache
def commit() -> tuple[str, bool]:
    """The checkout's commit and whether its code has uncommitted changes; ("", False) outside a checkout."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head, bool(_git("status", "--porcelain", "--", "*.py", "*.cpp", "*.h", "*.toml"))
    except (OSError, subprocess.CalledProcessError):
        return "", False


def _git(*arguments: str) -> str:
    # A package installed inside another repository is not a checkout of this one.
    if not (PACKAGE.parent / "pyproject.toml").exists():
        raise OSError("not a checkout")
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@cache
def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, device, kernels, threads and platform, for the run's JSON."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["device"] = device
    found["device_name"] = torch.cuda.get_device_name() if device == "cuda" else processor()
    found |= kernels()
    found["torch_instructions"] = torch.backends.cpu.get_cpu_capability()
    found["threads"] = threads
    return found
