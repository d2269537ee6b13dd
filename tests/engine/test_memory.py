"""Freed memory is reused instead of being fetched from the system page by page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# The C library's own calls: a tensor's block may land behind a freed one for as long as small allocations
# settle in between, which says nothing about the setting.
SCRIPT = """
import ctypes, resource
from bench.engine import memory
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
SIZE = 64 * 2**20  # more than the C library keeps by default

def fill():
    block = ctypes.c_void_p(library.malloc(ctypes.c_size_t(SIZE)))
    ctypes.memset(block, 1, SIZE)
    library.free(block)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.keep_freed()
print(min(faults() for _ in range(8)))
"""


def fewest_faults() -> int:
    """Minimum page faults for a block of 16,384 pages after one of the same size was freed."""
    command = [sys.executable, "-c", SCRIPT]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_freed_block_is_used_again():
    assert fewest_faults() < 8192
