"""Where a number came from: commit and environment; and what it cost in memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).parent
LIBRARIES = ("torch", "torchvision", "torchattacks", "numpy", "scipy", "scikit-learn", "pandas", "pillow")


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
    found["device_name"] = torch.cuda.get_device_name() if device == "cuda" else _processor()
    found["threads"] = torch.get_num_threads()
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def reset_peak_memory(device: torch.device) -> None:
    """Start counting peak memory anew, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the resident set's high-water mark
    except OSError:
        return


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory since the last reset: allocated on a GPU; on a CPU the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
