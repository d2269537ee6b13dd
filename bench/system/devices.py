"""Devices: choosing one, and its peak memory."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from bench.errors import BenchError


def device_of(name: str) -> torch.device:
    """The requested device; `auto` takes a GPU if there is one. Raises BenchError for `cuda` without one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BenchError("--device cuda: expected a CUDA device, found none; run with --device cpu")
    return torch.device("cuda" if name != "cpu" and available else "cpu")


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak-memory counter, if the system supports it."""
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
