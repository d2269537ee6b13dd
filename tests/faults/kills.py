"""Kill a sweep at random times until it is done: no row may be lost, duplicated, truncated or changed.

    python tests/faults/kills.py --kills 100

Runs a grid of smoke cells without interruption, then again in a second folder, where every command is killed
(SIGKILL to its process group) after a random time, and compares the rows. If the grid is done before all
kills, it starts again in another folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from bench.records import runs, schema, store

METHODS = "standard_ensemble,hypergan,mnf,apd,sgld"
QUICK = ("--set", "standard_ensemble.networks=5")


def command(results: Path, methods: str, jobs: int, *more: str) -> list[str]:
    words = [sys.executable, "-c", "from bench.cli.main import main; main()", "run", "--method", methods]
    words += ["--task", "digits", "--preset", "smoke", "--jobs", str(jobs), "--results", str(results)]
    return [*words, *(QUICK if "standard_ensemble" in methods else ()), *more]


def values(results: Path) -> pd.DataFrame:
    """All rows except costs and provenance, sorted independently of runs."""
    frame = runs.read(results).newest()
    frame = frame[~frame["metric"].str.contains("seconds|bytes|per_s")].drop(columns=["run", "commit"])
    keys = [name for name in schema.KEY if name != "run"]
    return frame.sort_values(keys, kind="stable").reset_index(drop=True)


@dataclass
class Tally:
    """The result: number of kills, grids completed meanwhile, and faults found."""

    kills: int = 0
    grids: int = 0
    faults: list[str] = field(default_factory=list)


def finish_or_kill(words: list[str], seconds: float | None) -> bool:
    """Run a command; True if it exited before it was killed."""
    log = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=log, stderr=subprocess.PIPE, text=True, start_new_session=True) as p:
        try:
            _, errors = p.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.communicate()
            return False
    if p.returncode != 0:
        raise RuntimeError(f"expected the sweep to end well, found exit code {p.returncode}: {errors}")
    return True


def faults(results: Path, cells: int, expected: pd.DataFrame) -> list[str]:
    """What is lost, duplicated, truncated or changed in a folder whose grid is done."""
    held = runs.find(results)
    found = list(held.left_out)
    if len(held.runs) != cells or len({run.about["cell"] for run in held.runs.values()}) != cells:
        found.append(f"{cells} cells, {len(held.runs)} runs")
    if any(run.about["failure"] for run in held.runs.values()):
        found.append("failed runs")
    parts = [str(path) for path in results.rglob("*.part")]
    if parts:
        found.append(f"half-written files: {parts}")
    for name in held.runs:
        store.read_arrays(results, name)
    try:
        pd.testing.assert_frame_equal(values(results), expected, check_exact=True)
    except AssertionError as error:
        found.append(f"other rows: {error}")
    return found


def storm(kills: int, seed: int, methods: str = METHODS, jobs: int = 2, longest: float = 20.0) -> Tally:
    """Kill sweeps this many times, each at a random time in [0, longest) seconds after its start."""
    draw = random.Random(seed)
    cells = len(methods.split(","))
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        finish_or_kill(command(root / "calm", methods, jobs), None)
        expected = values(root / "calm")
        results = root / "storm-0"
        while True:
            ended = finish_or_kill(
                command(results, methods, jobs), draw.uniform(0, longest) if tally.kills < kills else None
            )
            tally.kills += not ended
            if not ended:
                print(f"kill {tally.kills}/{kills}: {_state(results, cells)}", flush=True)
                continue
            tally.grids += 1
            tally.faults += faults(results, cells, expected)
            print(
                f"grid {tally.grids} done after {tally.kills} kills: {tally.faults or 'no fault'}", flush=True
            )
            if tally.kills >= kills:
                return tally
            results = root / f"storm-{tally.grids}"


def _state(results: Path, cells: int) -> str:
    done = len(list((results / "raw").glob("*.csv")))
    fits = len(list(results.rglob("*.safetensors")))
    return f"{done} of {cells} cells done, {fits} checkpoint files"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    begun = time.perf_counter()
    tally = storm(options.kills, options.seed, jobs=options.jobs)
    about = {"kills": tally.kills, "grids": tally.grids, "faults": tally.faults}
    print(json.dumps(about | {"seconds": round(time.perf_counter() - begun)}))
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
