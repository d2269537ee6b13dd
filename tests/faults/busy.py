"""What a busy machine costs: a run beside loops that take whole cores, against the same run without them.

    python tests/faults/busy.py --loops 4

Runs `bench run` twice, each time into a new results folder: first with nothing beside it, then beside busy
loops, and prints wall seconds, CPU seconds and the ratio of the wall seconds. On 2 cores beside 4 loops two
threads get a third of the machine, so that 3 times as long is a fair share. Exit code 1: more than `--most`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST = 3.5  # times as long as idle
# Ends with the process that started it, even where that was killed.
LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"


def timed(method: str, task: str, preset: str, *more: str) -> dict[str, float]:
    """Wall and CPU seconds of a run into a new folder."""
    words = [sys.executable, "-c", "from bench.cli.main import main; main()", "run", "--method", method]
    with tempfile.TemporaryDirectory() as folder:
        words += ["--task", task, "--preset", preset, "--results", str(Path(folder) / "results"), *more]
        begun = time.perf_counter()
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"expected the run to end well, found exit code {process.returncode}")
    return {"seconds": round(seconds, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1)}


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Inside, this many processes compute without a pause."""
    words = [sys.executable, "-c", LOOP, str(os.getpid())]
    running = [subprocess.Popen(words) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="hypergan")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--most", type=float, default=MOST)
    options, more = parser.parse_known_args()  # others are those of `bench run`, as --threads 1
    work = (options.method, options.task, options.preset, *more)
    idle = timed(*work)
    print(f"idle: {idle['seconds']} s, {idle['cpu_seconds']} CPU seconds", flush=True)
    with busy(options.loops):
        beside = timed(*work)
    print(f"beside {options.loops} loops: {beside['seconds']} s, {beside['cpu_seconds']} CPU seconds")
    ratio = beside["seconds"] / idle["seconds"]
    print(json.dumps({"idle": idle, "busy": beside, "loops": options.loops, "ratio": round(ratio, 2)}))
    sys.exit(ratio > options.most)


if __name__ == "__main__":
    main()
