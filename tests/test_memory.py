"""Memory that was freed is used again instead of being fetched from the system page by page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of 64 MiB, more than the C library keeps by itself. The first ones land behind each other, for as
# long as small allocations settle between them and leave each hole a little too small (8 were seen).
SCRIPT = """
import resource, torch
from bench.engine import memory
memory.keep_freed()
for _ in range(32):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults() -> int:
    """Pages fetched for eight blocks of 16,384 pages each after blocks of that size were freed."""
    command = [sys.executable, "-c", SCRIPT]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_a_freed_block_is_used_again():
    assert faults() < 4 * 16_384
