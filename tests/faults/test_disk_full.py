"""A full disk gives a clear error and does not damage earlier results."""

from __future__ import annotations

import shlex
import subprocess

import pandas as pd
import pytest
from kills import command, finish_or_kill, values


def namespaces() -> bool:
    probe = ["unshare", "--mount", "--map-root-user", "true"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


# A file system of 800 KiB, in a mount namespace of its own, so that nothing of it outlives the test. It
# holds the checkpoint of one network, and not that of five with their optimiser.
SCRIPT = """
mount -t tmpfs -o size=800k none {disk} && {first} && {second}; echo "exit code $?"
df --output=avail {disk} | tail -n 1
find {disk} -name '*.part'
cp -r {disk}/raw {kept}
"""


@pytest.mark.skipif(not namespaces(), reason="needs a mount namespace: unshare --mount --map-root-user")
def test_a_full_disk_is_a_clear_error_and_keeps_earlier_results(tmp_path):
    disk, kept, calm = tmp_path / "disk", tmp_path / "kept", tmp_path / "calm"
    disk.mkdir()
    kept.mkdir()
    script = SCRIPT.format(
        disk=disk,
        kept=kept,
        first=shlex.join(command(disk, "mc_dropout", 1)),
        second=shlex.join(command(disk, "standard_ensemble", 1)),
    )
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert "exit code 1" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and ".part" not in done.stdout
    finish_or_kill(command(calm, "mc_dropout", 1), None)
    rows = values(kept)
    rows = rows[rows["method"] == "mc_dropout"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, values(calm), check_exact=True)
