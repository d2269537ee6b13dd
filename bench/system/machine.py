"""Processors and memory available to this process."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Files with a control group's memory limit and usage in bytes: cgroup 2, then 1.
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cores() -> int:
    """Number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The model name of the processor; empty if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def memory_bytes() -> int | None:
    """Memory available to this process: what it holds now plus what is free; None if unknown.

    Free: what Linux can provide without swapping (MemAvailable), or the rest of the limit of the process's
    control group (cgroup) if that is less.
    """
    try:
        free = _lines("/proc/meminfo")["MemAvailable:"] * 1024
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return held + min([free, *_group_free()])


def _group_free() -> list[int]:
    """What remains of each control group's memory limit; empty if there is none."""
    try:
        paths = [
            line.split(":", 2)
            for line in Path("/proc/self/cgroup").read_text("utf-8", "replace").splitlines()
        ]
    except OSError:
        return []
    found = []
    for root, limit, used, cache in _GROUPS:
        for _, controllers, path in (p for p in paths if len(p) == 3):
            if ("memory" in controllers.split(",")) != root.endswith("memory"):
                continue
            place = Path(root) / path.lstrip("/")
            for folder in (place, *place.parents):
                if not folder.is_relative_to(root):
                    break
                try:
                    most, now = (int((folder / name).read_text()) for name in (limit, used))
                    # The page cache is freed when memory is needed.
                    found.append(max(0, most - now + _lines(folder / "memory.stat").get(cache, 0)))
                except (OSError, ValueError):  # "max", or files of another cgroup version
                    continue
    return found


def _lines(path: str | Path) -> dict[str, int]:
    """The first word of every line with the number that follows it."""
    words = (line.split() for line in Path(path).read_text().splitlines())
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}
