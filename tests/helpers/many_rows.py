"""Results folders of any size, cloned from stored runs: for measuring how long a report takes.

python tests/helpers/many_rows.py results /tmp/many 25000
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

import numpy as np

from bench.records import runs, schema, store


def clones(source: Path, target: Path, rows: int) -> int:
    """Runs of a folder under further seeds until there are this many rows; returns their number.

    The first round has the numbers of the source, later ones vary them by up to a hundredth, within the
    limits of the metric. Arrays are copied as they are.
    """
    rng = np.random.default_rng(0)
    found = [run for run in runs.find(source).runs.values() if not run.about["failure"]]
    written = 0
    for turn in count():
        for run in found:
            if written >= rows:
                return written
            frame = run.rows.astype(object).where(run.rows.notna(), None)
            own = frame.to_dict("records")
            for row in own:
                low, high = schema.limits(row["metric"])
                varied = row["value"] * (1 + 0.01 * turn * rng.uniform(-1, 1) / (turn + 1))
                row["value"] = float(min(max(varied, low), high))
                row["seed"] = 100 * turn + row["seed"]
            name = f"{run.path.stem}-t{turn}"
            about = run.about | {"cell": f"{run.about['cell']}-{turn}"}
            arrays = store.read_arrays(source, run.path.stem)
            store.write_run(target, name, [row | {"run": name} for row in own], arrays, about)
            written += len(own)
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps({"rows": clones(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))}))
