"""Stored texts name no folder of the machine: paths are relative to code, results, or shortened."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

import pytest
import torch

from bench.system import paths
from bench.system.paths import without_folders

HOME = Path.home()
TMP = tempfile.gettempdir()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'File "{paths.CHECKOUT}/bench/running/run.py", line 3', 'File "bench/running/run.py", line 3'),
        (f'File "{paths.CHECKOUT}/methods/apd.py"', 'File "methods/apd.py"'),
        (f"in {Path(torch.__file__).parent}/nn/init.py", "in site-packages/torch/nn/init.py"),
        (f"in {traceback.__file__}", "in python/traceback.py"),
        (f"{HOME}/.cache/x: no", "~/.cache/x: no"),
        (f"{HOME}: no", "~: no"),
        (f"'{TMP}/a b/c'", "'TMP/a b/c'"),
        ("/scratch/runs/raw/x.csv: expected rows", "RESULTS/raw/x.csv: expected rows"),
        ("/scratch/runs-2/raw/x.csv", "…/x.csv"),
        ("cannot write /scratch/runs: no room", "cannot write RESULTS: no room"),
        ("/nfs/lab/alice/MNIST/raw/t10k.gz", "…/t10k.gz"),
        ("(/data)", "(…/data)"),
        ("see https://example.org/a/b, 1/2 and and/or", "see https://example.org/a/b, 1/2 and and/or"),
        ("bench/running/run.py", "bench/running/run.py"),
        ("results/raw/x.csv", "results/raw/x.csv"),
        ("a / b", "a / b"),
    ],
)
def test_absolute_paths_are_shortened(text, expected):
    assert without_folders(text, {"RESULTS": Path("/scratch/runs")}) == expected


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for form in ("real", "link"):
        assert without_folders(f"{tmp_path / form}/x", {"RESULTS": tmp_path / "link"}) == "RESULTS/x"
