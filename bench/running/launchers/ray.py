"""Workers as Ray tasks, on a local cluster or the one at `--address`; lost workers restart elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.running.launchers import Workers, require, shares
from bench.running.worker import run_worker

if TYPE_CHECKING:
    from bench.running.worker import Job
    from bench.system.progress import Reporter

RETRIES = 5  # per worker, if its node is lost


def gpu_share(workers: int, gpus: int) -> float:
    """The part of a GPU that each worker holds, so that all are placed at once; 0 without GPUs.

    One over a whole number: of 2/3 a GPU holds only one, and a third worker would wait for it.
    """
    return 1 / -(-workers // gpus) if gpus else 0.0


def launch(job: Job, workers: Workers, reporter: Reporter) -> None:
    """Distribute the cells to `workers.jobs` Ray tasks: by default one per GPU, or per node on CPUs.

    More workers than GPUs share them evenly. Every node needs this package, the data and the results folder
    under the same paths. Raises BenchError where a GPU is asked for and the cluster has none.
    """
    ray = require("ray", "ray")
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=workers.address, log_to_driver=True, logging_level="WARNING")
    try:
        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0)) if job.selection.device == "cuda" else 0
        if job.selection.device == "cuda" and not gpus:
            raise BenchError(
                "--device cuda: expected a Ray cluster with GPUs, found none; start its nodes with --num-gpus"
            )
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        count = min(workers.jobs or gpus or len(nodes), len(job.todo))
        # Ray would wait for ever for a node with more cores than the largest has.
        threads = [min(part, max(nodes)) for part in shares(count, sum(nodes), job.threads)]
        task, gpu = ray.remote(run_worker), gpu_share(count, gpus)
        sharing = f", {-(-count // gpus)} on a GPU" if count > gpus > 0 else ""
        reporter.say(f"Ray: {count} workers on {sum(threads)} cores{sharing}")
        waiting = [
            task.options(num_cpus=part, num_gpus=gpu, max_retries=RETRIES).remote(
                replace(job, threads=part), f"worker {i}: "
            )
            for i, part in enumerate(threads)
        ]
        for result in waiting:
            try:
                ray.get(result)
            except ray.exceptions.RayError as error:
                reporter.say(f"a worker was lost: {type(error).__name__}: {str(error).splitlines()[0]}")
    finally:
        if started_here:
            ray.shutdown()
