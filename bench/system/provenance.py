"""Provenance of results: commit and environment."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.system.machine import kernels, processor

CHECKOUT = Path(__file__).parent.parent.parent  # the folder of the package, if it is one
CODE = ("*.py", "*.cpp", "*.h", "*.toml")
LIBRARIES = ("torch", "torchvision", "torchattacks", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


@cache
def commit() -> tuple[str, bool]:
    """The checkout's commit and whether its code has uncommitted changes; ("", False) outside a checkout."""
    try:
        # A package that lies inside another repository is not a checkout of this one.
        if Path(os.fsdecode(_git("rev-parse", "--show-toplevel"))).resolve() != CHECKOUT.resolve():
            return "", False
        head = _git("rev-parse", "--short=12", "HEAD").decode("ascii")
        int(head, 16)  # what is no number was not written by git
        changed = _git("status", "--porcelain", "--untracked-files=normal", "--", *CODE)
        return head, bool(changed)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return "", False


def _git(*arguments: str) -> bytes:
    """What git says of the folder that the package lies in, whatever the environment and settings say."""
    # GIT_DIR, GIT_WORK_TREE, GIT_INDEX_FILE and others, as git sets them in hooks, would name another one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # several processes ask at once
    settings = ("-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false")
    command = ["git", "-C", str(CHECKOUT), *settings, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, env=environment, stdin=subprocess.DEVNULL)
    return done.stdout.strip()


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
