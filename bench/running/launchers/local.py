"""Workers as processes of this machine; a worker that dies is replaced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from bench.running.launchers import Workers, shares, visible_gpus
from bench.running.worker import run_worker
from bench.system.machine import cores

if TYPE_CHECKING:
    from bench.running.worker import Job
    from bench.system.progress import Reporter

COUNT_SECONDS = 5.0  # between two looks at how many cells have ended
MAX_DEATHS = 3  # per worker, consecutive deaths without a cell finished or failed
STOP_SECONDS = 3600.0  # for workers to end the rounds that they are in; a second Ctrl-C waits no longer


def launch(job: Job, workers: Workers, reporter: Reporter) -> None:
    """Distribute the cells to `workers.jobs` processes, which share cores and GPUs."""
    count = min(workers.jobs or 1, len(job.todo))
    jobs = [replace(job, threads=part) for part in shares(count, cores(), job.threads)]
    running = {i: _start(jobs[i], i) for i in range(count)}
    deaths = ended = 0
    try:
        while running:
            reporter.progress("cells", _ended(job), len(job.todo))
            connection.wait([process.sentinel for process in running.values()], timeout=COUNT_SECONDS)
            for i, process in [item for item in running.items() if not item[1].is_alive()]:
                del running[i]
                if process.exitcode == 0:
                    continue
                before, ended = ended, _ended(job)
                deaths = 1 if ended > before else deaths + 1
                reporter.say(f"worker {i} died ({_cause(process.exitcode)})")
                if deaths < MAX_DEATHS * count and ended < len(job.todo):
                    running[i] = _start(jobs[i], i)
    except KeyboardInterrupt:
        reporter.say("stopping when the rounds that run have ended; Ctrl-C again stops now")
        _stop(list(running.values()))
        raise


def _ended(job: Job) -> int:
    """Number of runs written since the sweep began."""
    return sum(path.stem not in job.known for path in (job.results / "raw").glob("*.csv"))


def _start(job: Job, index: int) -> SpawnProcess:
    # Spawned: a forked process would inherit PyTorch's threads and locks.
    process = get_context("spawn").Process(target=run_worker, args=(job, f"worker {index}: "))
    # The process inherits that Ctrl-C is ignored, until it can end a round with a checkpoint.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _environment(job, index):
            process.start()
    finally:
        signal.signal(signal.SIGINT, before)
    return process


@contextmanager
def _environment(job: Job, index: int) -> Iterator[None]:
    """Environment variables that the worker inherits: the threads of its libraries' pools, and its GPU."""
    wanted = {"OMP_NUM_THREADS": str(job.threads)}
    if job.selection.device == "cuda":
        gpus = visible_gpus()
        wanted["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
    before = {name: os.environ.get(name) for name in wanted}
    os.environ |= wanted
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _stop(processes: list[SpawnProcess]) -> None:
    """Let workers write their checkpoints; signals repeat, as a new worker may ignore the first."""
    end = time.monotonic() + STOP_SECONDS
    try:
        while (left := [process for process in processes if process.is_alive()]) and time.monotonic() < end:
            for process in left:
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGINT)
            connection.wait([process.sentinel for process in left], timeout=0.5)
    finally:
        for process in processes:
            process.kill()
