"""Calls the command line as a user would, with a method that trains quickly."""

from __future__ import annotations

from click.testing import CliRunner

from bench.cli.main import main

SMALL = [
    *("--set", "standard_ensemble.networks=5", "--set", "standard_ensemble.epochs=2"),
    *("--set", "standard_ensemble.batch=16"),
]


def bench(*arguments, results=None):
    extra = ["--results", str(results)] if results is not None else []
    env = {"BENCH_DATA": None, "BENCH_RESULTS": None}
    return CliRunner(env=env).invoke(main, [*arguments, *extra], catch_exceptions=False)


def run(results, *arguments, command="run"):
    return bench(
        command, "--method", "standard_ensemble", "--task", "stripes", "--preset", "smoke", *SMALL,
        *arguments, results=results,
    )  # fmt: skip
