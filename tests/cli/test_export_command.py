"""`bench export`: a file of rows, tables, and a README in the results folder itself."""

from __future__ import annotations

import pandas as pd
import pytest
from commands import bench, run

from bench.records import runs


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    assert run(folder).exit_code == 0
    return folder


def test_csv_has_all_rows_and_settings_and_is_the_same_each_time(results):
    done = bench("export", results=results)
    assert done.exit_code == 0 and str(results / "README.md") in done.output
    path = results / "export" / "rows.csv"
    first = path.read_bytes()
    found = pd.read_csv(path, keep_default_na=False)
    assert len(found) == len(runs.read(results).newest())
    assert set(found["setting_networks"]) == {5} and set(found["setting_batch"]) == {16}
    assert found["value"].tolist() == runs.read(results).newest()["value"].tolist()
    bench("export", results=results)
    assert path.read_bytes() == first


def test_latex_has_a_file_a_table(results):
    done = bench("export", "--format", "latex", results=results)
    assert done.exit_code == 0, done.output
    assert r"\toprule" in (results / "export" / "accuracy.tex").read_text()


def test_parquet_has_the_rows_of_the_csv(results):
    pytest.importorskip("pyarrow")
    assert bench("export", "--format", "parquet", results=results).exit_code == 0
    found = pd.read_parquet(results / "export" / "rows.parquet")
    assert found["value"].tolist() == runs.read(results).newest()["value"].tolist()


def test_parquet_without_its_package_says_how_to_install_it(results, monkeypatch):
    monkeypatch.setattr("bench.report.export.find_spec", lambda name: None)
    done = bench("export", "--format", "parquet", results=results)
    assert done.exit_code == 1 and "pip install 'ensemble-bench[parquet]'" in done.output


def test_nothing_to_export_is_an_error_that_says_how_to_make_a_run(tmp_path):
    done = bench("export", results=tmp_path / "none")
    assert done.exit_code == 1 and "make one: bench run" in done.output
    assert not (tmp_path / "none").exists()
