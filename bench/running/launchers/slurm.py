"""Workers as SLURM jobs through submitit; without `sbatch`, as local processes of submitit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bench.running.launchers import Workers, require, shares, visible_gpus
from bench.running.worker import run_worker
from bench.system.machine import cores

if TYPE_CHECKING:
    from bench.running.worker import Job
    from bench.system.progress import Reporter

CPUS = 4  # per worker on a cluster, if neither --threads nor OMP_NUM_THREADS says
DAYS = 30  # time limit without SLURM; submitit's default is five minutes


def launch(job: Job, workers: Workers, reporter: Reporter) -> None:
    """Distribute the cells to `workers.jobs` SLURM jobs (default 1) and wait for them.

    Partition, account and time limit come from SLURM's own variables, as SBATCH_PARTITION; logs are
    written to `<results>/logs`. A job that is killed loses nothing: the same command resumes. On SLURM each
    job requests a GPU of its own; without SLURM the machine's GPUs are assigned in turn.
    """
    submitit = require("submitit", "slurm")
    count = min(workers.jobs or 1, len(job.todo))
    executor = submitit.AutoExecutor(folder=job.results / "logs")
    on_slurm = executor.cluster == "slurm"
    threads = shares(count, CPUS * count if on_slurm else cores(), job.threads)
    executor.update_parameters(
        name="bench",
        gpus_per_node=1 if job.selection.device == "cuda" else 0,
        **({} if on_slurm else {"timeout_min": DAYS * 24 * 60}),
    )
    where = "SLURM" if on_slurm else "submitit without SLURM (no sbatch here)"
    reporter.say(f"{where}: {count} workers on {sum(threads)} cores, logs in {job.results / 'logs'}")
    gpus: list[str | None] = [None]  # SLURM has chosen
    if job.selection.device == "cuda" and not on_slurm:
        gpus = [*visible_gpus()]  # submitit itself would give all of them the first
    submitted = []
    for i, part in enumerate(threads):
        executor.update_parameters(cpus_per_task=part)
        own = replace(job, threads=part)
        submitted.append(executor.submit(run_worker, own, f"worker {i}: ", gpus[i % len(gpus)]))
    try:
        for one in submitted:
            if (error := one.exception()) is not None:
                reporter.say(f"worker {one.job_id} was lost: {str(error).splitlines()[0]}")
    except KeyboardInterrupt:
        for one in submitted:
            one.cancel()
        raise
