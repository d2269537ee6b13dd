"""Where the workers of a sweep run: processes of this machine, Ray or SLURM.

A worker runs `bench.running.worker.work` with the sweep's job: it takes cells that no other process holds,
until all have finished or failed. A launcher starts workers and waits for them; the results of the cells are
read from the results folder, which all workers share.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.system.numbers import whole

if TYPE_CHECKING:
    from bench.running.worker import Job
    from bench.system.progress import Reporter

NAMES = ("local", "ray", "slurm")
MAX_THREADS = 10_000  # a larger number in the environment is a mistake


@dataclass(frozen=True)
class Workers:
    """How many workers a sweep has and where. jobs: None for the launcher's default."""

    launcher: str = "local"
    jobs: int | None = None
    address: str | None = None

    def launch(self, job: Job, reporter: Reporter) -> None:
        """Run the job's cells; returns when all workers have exited."""
        import_module(f"bench.running.launchers.{self.launcher}").launch(job, self, reporter)


def shares(workers: int, cores: int, threads: int | None = None) -> list[int]:
    """The number of threads of each worker, at least 1: equal parts, of which the first may have one more.

    threads: what they share. None: OMP_NUM_THREADS for each where it is set, else they share the cores.
    """
    if threads is None and (asked := _asked_threads()):
        return [asked] * workers
    part, rest = divmod(cores if threads is None else threads, workers)
    return [max(1, part + (i < rest)) for i in range(workers)]


def _asked_threads() -> int:
    """OMP_NUM_THREADS where it is one number, else 0; OpenMP also allows lists, which do not apply here."""
    try:
        return whole(os.environ.get("OMP_NUM_THREADS", ""), MAX_THREADS)
    except ValueError:
        return 0


def visible_gpus() -> list[str]:
    """This machine's GPUs as CUDA_VISIBLE_DEVICES names them, those alone where it is set."""
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    return seen.split(",")


def require(module: str, extra: str) -> ModuleType:
    """The module of an optional dependency. Raises BenchError naming the extra to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise BenchError(
            f"--launcher {extra}: expected the package {module}, found {error}; "
            f"install it: pip install 'ensemble-bench[{extra}]'"
        ) from error
