"""Processors, their kernels, and memory available to this process."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

# Files with a control group's memory limit and usage in bytes: cgroup 2, then 1.
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)

# What chooses kernels besides the processor: of oneDNN, MKL, OpenBLAS, PyTorch and NumPy.
_CHOOSE_KERNELS = (
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY",
    "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "GLIBC_TUNABLES",
)  # fmt: skip
_VECTORS = ("sse", "ssse", "avx", "amx", "fma", "f16c", "asimd", "sve", "bf16", "i8mm")


def cores() -> int:
    """Number of processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The model name of the processor; empty if unknown."""
    about = _processor_lines()
    return about.get("model name", "") if about else platform.processor()


def kernels() -> dict[str, str]:
    """What decides which kernels compute on this processor, by name: equal bits need all of it equal.

    processor_model: vendor, family and model, since a virtual machine may give all generations one name;
    instructions: the vector instructions of the processor; numpy_instructions: those that NumPy uses; blas:
    the cores that loaded BLAS libraries have kernels for; libc: of the elementary functions; kernel_settings:
    the variables that choose among the kernels of oneDNN, MKL, OpenBLAS, PyTorch and NumPy. Empty if unknown.
    """
    from threadpoolctl import threadpool_info  # the report needs no such libraries

    about = _processor_lines()
    flags = f"{about.get('flags', '')} {about.get('Features', '')}".split()
    model = [about[k] for k in ("vendor_id", "cpu family", "model", "stepping") if about.get(k)]
    extensions = np.show_config(mode="dicts") or {}
    cores_of = {
        f"{library.get('internal_api')} {library.get('architecture') or library.get('version')}"
        for library in threadpool_info()
        if library.get("user_api") == "blas"
    }
    return {
        "processor_model": " ".join(model),
        "instructions": " ".join(sorted({f for f in flags if f.startswith(_VECTORS)})),
        "numpy_instructions": " ".join(extensions.get("SIMD Extensions", {}).get("found", ())),
        "blas": ", ".join(sorted(cores_of)),
        "libc": " ".join(platform.libc_ver()).strip(),
        "kernel_settings": " ".join(f"{n}={os.environ[n]}" for n in _CHOOSE_KERNELS if os.environ.get(n)),
    }


def _processor_lines() -> dict[str, str]:
    """What /proc/cpuinfo says of the first processor; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


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
