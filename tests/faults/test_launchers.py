"""Ray and submitit give the rows of a single process, even if a node is lost."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from kills import command, faults, finish_or_kill, values

METHODS = "standard_ensemble,mc_dropout"


def test_submitit_without_slurm_runs_the_grid(tmp_path):
    pytest.importorskip("submitit")
    finish_or_kill(command(tmp_path / "calm", METHODS, 1), None)
    finish_or_kill(command(tmp_path / "jobs", METHODS, 2, "--launcher", "slurm"), None)
    assert faults(tmp_path / "jobs", 2, values(tmp_path / "calm")) == []


def test_a_ray_cluster_that_loses_a_node_completes_the_grid(tmp_path):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    finish_or_kill(command(tmp_path / "calm", METHODS, 1), None)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        doomed = cluster.add_node(num_cpus=1)
        words = command(tmp_path / "ray", METHODS, 2, "--launcher", "ray", "--address", cluster.address)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sweep:
            while sweep.poll() is None and not begun(tmp_path / "ray", cells=2):
                time.sleep(0.1)
            cluster.remove_node(doomed, allow_graceful=False)
            said = sweep.communicate()[0]
        assert sweep.returncode == 0, said
    finally:
        cluster.shutdown()
    assert faults(tmp_path / "ray", 2, values(tmp_path / "calm")) == []


def begun(results: os.PathLike[str], cells: int) -> bool:
    """Whether this many cells are locked: both workers are running one."""
    return len(list((results / "locks").glob("*.attempts"))) >= cells
