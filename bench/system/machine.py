"""What this process may use of its machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# Where Linux says how much a group of processes may hold and holds, in bytes: cgroup 2, then 1.
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cores() -> int:
    """Number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The model name of the processor; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def memory_bytes() -> int | None:
    """Memory that this process may come to hold: what it holds now and what is free; None where unknown.

    Free: what Linux can give without swapping (MemAvailable), or what the process's group (cgroup) may
    still take where that is less.
    """
    try:
        free = _lines("/proc/meminfo")["MemAvailable:"] * 1024
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return held + min([free, *_group_free()])


def _group_free() -> list[int]:
    """What each group that this process lies in may still take; none where nothing is limited."""
    try:
        paths = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
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
                    # Pages of files that were read go as soon as memory is needed.
                    found.append(max(0, most - now + _lines(folder / "memory.stat").get(cache, 0)))
                except (OSError, ValueError):  # "max", or another kind of group
                    continue
    return found


def _lines(path: str | Path) -> dict[str, int]:
    """The first word and the number after it of every line."""
    words = (line.split() for line in Path(path).read_text().splitlines())
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}
