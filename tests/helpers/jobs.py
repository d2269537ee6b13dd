"""A sweep of one small cell, as the job of a worker."""

from __future__ import annotations

from dataclasses import replace

from commands import SMALL

from bench.running import worker
from bench.running.plan import Selection, plan

SELECTION = Selection(["standard_ensemble"], ["stripes"], "smoke", sets=SMALL[1::2])


def job_of(results, selection=SELECTION, **changes):
    todo = frozenset(item.cell.key() for item in plan(selection, results)[0])
    return replace(worker.Job("s", selection, results, todo, frozenset()), **changes)
