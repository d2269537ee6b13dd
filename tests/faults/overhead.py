"""The overhead of a sweep: seconds to plan 10,000 cells, milliseconds per cell run.

    python tests/faults/overhead.py

Planning is timed for the embedded tasks in an empty folder and in one with a finished run of
every cell. Running is timed with the work of a cell replaced by writing a run of one row.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from bench import registry
from bench.records import schema, store
from bench.running import run, sweep
from bench.running.cell import Cell
from bench.running.plan import Selection, plan
from bench.system.progress import Quiet

CELLS = 10_000
RUN = 300  # cells that are run


def write_run(cell: Cell, results: Path, code: str) -> Path:
    name = f"{cell.entry.name}-{cell.task.name}-{cell.preset}-s{cell.seed}-{cell.key()[:8]}"
    place = {"run": name, "method": cell.entry.name, "task": cell.task.name, "seed": cell.seed, "schema": 1}
    row = schema.row("accuracy", 0.5, **place)
    about = {"cell": cell.key(), "code": code, "created": "2026", "failure": None}
    return store.write_run(results, name, [row], {}, about)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def main() -> None:
    embedded = [name for name in registry.tasks() if registry.task(name).embedded]
    methods = list(registry.methods())
    seeds = tuple(range(-(-CELLS // (len(methods) * len(embedded)))))
    selection = Selection(methods, embedded, "smoke", seeds)
    few = Selection(["standard_ensemble"], embedded[:1], "smoke", tuple(range(RUN)))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        plan(few, results)  # imports what planning needs
        seconds, (planned, _) = timed(lambda: plan(selection, results))
        print(f"planning {len(planned):,} cells, none done: {seconds:.2f} s")
        for item in planned:
            write_run(item.cell, results, item.cell.code() if item.cell.seed == 0 else "")
        seconds, _ = timed(lambda: plan(selection, results))
        print(f"planning {len(planned):,} cells, all done: {seconds:.2f} s")

        def write(cell: Cell, data: object, results: Path, *rest: object) -> Path:
            return write_run(cell, results, "")

        own = sum(
            timed(lambda i=i: write_run(i.cell, results / "alone", ""))[0] for i in plan(few, results)[0]
        )
        with mock.patch.object(run, "run", write):
            swept = timed(lambda: sweep.run(few, results / "swept", Quiet()))[0]
            crowded = timed(lambda: sweep.run(few, results, Quiet(), force=True))[0]
        print(f"running {RUN} cells: {(swept - own) / RUN * 1000:.1f} ms of overhead per cell")
        extra = (crowded - own) / RUN * 1000
        print(f"the same in a folder of {len(planned):,} runs: {extra:.1f} ms per cell")


if __name__ == "__main__":
    main()
