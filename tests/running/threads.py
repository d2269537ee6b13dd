"""The same rows and arrays, bit for bit, for any number of threads and workers; costs aside.

    python tests/running/threads.py --task digits --ways 1x1,1x2,1x4,2x2

Runs a grid of smoke cells once for each way, WORKERSxTHREADS (threads of all workers together), each into a
folder of its own, and compares it with the first, or with the finished runs of `--against`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.records import store
from bench.running.agreement import Comparison, compare_arrays, compare_rows, read_rows


def differences(first: Path, second: Path) -> list[str]:
    """Rows and arrays of the second folder's runs that are not bit for bit the first's, costs aside."""
    found = []
    for name in sorted(path.stem for path in (second / "raw").glob("*.csv")):
        part = Comparison()
        compare_rows(*(read_rows(f, name) for f in (first, second)), None, part)
        compare_arrays(*(store.read_arrays(f, name) for f in (first, second)), None, part)
        found += [f"{name}: {text}" for text in [*part.differing, *part.missing, *part.added]]
    return found


def run(results: Path, method: str, task: str, way: str) -> int:
    """Run the grid; the number of its runs."""
    jobs, threads = way.split("x")
    words = [sys.executable, "-c", "from bench.cli.main import main; main()", "run", "--method", method]
    words += ["--task", task, "--preset", "smoke", "--jobs", jobs, "--threads", threads]
    subprocess.run([*words, "--results", str(results)], stdout=subprocess.DEVNULL, check=True)
    return len(list((results / "raw").glob("*.csv")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--method", default="all")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--ways", default="1x1,1x2,1x4,2x2")
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    ways = options.ways.split(",")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        first = options.against or Path(folder) / ways[0]
        for way in ways:
            count = run(Path(folder) / way, options.method, options.task, way)
            other = differences(first, Path(folder) / way)
            print(f"{way}: {count} runs, {len(other)} differences from those of {first.name}", flush=True)
            found += other
    print("\n".join(found[:20]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
