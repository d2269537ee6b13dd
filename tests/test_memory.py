"""Memory that was freed is used again instead of being fetched from the system page by page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# 64 MiB, more than the C library keeps by itself; the second block should cost few new pages.
SCRIPT = """
import resource, torch
from bench.engine import memory
memory.keep_freed()
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults() -> int:
    """Pages fetched for a block of 16,384 pages after one of the same size was freed."""
    command = [sys.executable, "-c", SCRIPT]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_freed_block_is_used_again():
    assert faults() < 100
