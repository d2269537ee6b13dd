"""Nobody reads what a sweep says: its cells end as if somebody did."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from kills import command


def failures(results):
    """The failure of every run, None for one that succeeded."""
    return [json.loads(path.read_text())["failure"] for path in (results / "raw").glob("*.json")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_reader_that_leaves_fails_no_cell_and_adds_no_run(tmp_path, jobs):
    words = command(tmp_path, "standard_ensemble", jobs)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as sweep:
        sweep.stdout.readline()
        sweep.stdout.close()
    assert sweep.returncode == 0
    assert failures(tmp_path) == [None] and len(list((tmp_path / "raw").glob("*.csv"))) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_on_a_full_disk_that_knows_only_ascii_fails_no_cell(tmp_path):
    words = command(tmp_path, "standard_ensemble", 1)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with open("/dev/full", "wb") as full:
        assert subprocess.run(words, check=False, stdout=full, stderr=full, env=environment).returncode == 0
    assert failures(tmp_path) == [None]
