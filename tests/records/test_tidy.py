"""All rows in one frame: settings as columns, no number twice; and the README that explains them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.records import export, readme, runs, schema, store

RESULTS = Path(__file__).parents[2] / "results"


def write(results, name, config, cell="", sizes=(1, 5), order=1, value=0.5, checksums=None, **more):
    common = {"run": name, "method": "m", "task": "t", "train": "t", "preset": "quick", "seed": 0,
              "device": "cpu", "config": str(sorted(config.items())), "schema": 2} | more  # fmt: skip
    rows = [schema.row("accuracy", value, members=n, dataset="d", **common) for n in sizes]
    about = {"cell": cell or name, "order": order, "failure": None, "config": config, "checksums": checksums}
    store.write_run(results, name, rows, {}, about)


def tidy(results):
    return export.tidy(runs.read(results))


def test_settings_are_columns_and_keep_their_types(tmp_path):
    write(tmp_path, "a", {"lr": 0.1, "epochs": 3, "wide": True, "mode": "x"})
    write(tmp_path, "b", {"lr": 1.0, "epochs": 4, "epsilon": 2.0}, method="n", checksums={"f": "1"})
    found = tidy(tmp_path)
    assert list(found.columns[: len(schema.COLUMNS)]) == list(schema.COLUMNS)
    assert list(found.columns[len(schema.COLUMNS) :]) == [
        "data", "setting_epochs", "setting_epsilon", "setting_lr", "setting_mode", "setting_wide",
    ]  # fmt: skip
    first, last = found.iloc[0], found.iloc[-1]
    assert (first["setting_epochs"], first["setting_lr"], first["setting_wide"]) == (3, 0.1, True)
    assert pd.isna(first["setting_epsilon"]) and pd.isna(last["setting_mode"])
    assert found["setting_epochs"].dtype == "Int64" and found["setting_lr"].dtype == "Float64"
    assert first["data"] == "" and len(last["data"]) == 8


def test_two_configurations_of_a_method_differ_in_a_column(tmp_path):
    write(tmp_path, "a", {"lr": 0.1}, value=0.2)
    write(tmp_path, "b", {"lr": 0.3}, value=0.4)
    found = tidy(tmp_path)
    assert found.groupby(["method", "setting_lr"])["value"].mean().tolist() == [0.2, 0.4]


def test_a_number_that_runs_repeat_is_the_newest_run_s(tmp_path):
    write(tmp_path, "a", {"lr": 0.1}, cell="sizes 1 5", sizes=(1, 5), order=2, value=0.7)
    write(tmp_path, "b", {"lr": 0.1}, cell="sizes 1 9", sizes=(1, 9), order=1, value=0.6)
    found = tidy(tmp_path)
    assert found[["members", "value"]].values.tolist() == [[1, 0.7], [5, 0.7], [9, 0.6]]


def test_runs_on_other_data_keep_their_rows(tmp_path):
    write(tmp_path, "a", {"lr": 0.1}, sizes=(1,), checksums={"f": "1"})
    write(tmp_path, "b", {"lr": 0.1}, sizes=(1,), checksums={"f": "2"}, order=2)
    assert len(set(tidy(tmp_path)["data"])) == 2


def test_settings_of_several_types_become_text(tmp_path):
    write(tmp_path, "a", {"mode": 1})
    write(tmp_path, "b", {"mode": "wide"}, method="n")
    assert set(tidy(tmp_path)["setting_mode"]) == {"1", "wide"}


def test_the_readme_explains_every_column_and_metric():
    assert list(readme.MEANINGS) == list(schema.COLUMNS)
    text = readme.text()
    for name in (*schema.COLUMNS, *schema.METRICS, *(array.name for array in readme.ARRAYS)):
        assert f"| `{name}` |" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| `")}
    assert widths <= {3, 4, 7}


def test_the_reading_that_the_readme_shows_averages_seeds_alone(tmp_path, monkeypatch):
    write(tmp_path, "a", {"lr": 0.1}, value=0.2)
    write(tmp_path, "b", {"lr": 0.1}, value=0.4, seed=1)
    write(tmp_path, "c", {"lr": 0.3}, value=0.9)
    (tmp_path / "export").mkdir()
    tidy(tmp_path).to_csv(tmp_path / "export" / "rows.csv", index=False)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(readme.text().split("```python\n")[1].split("```")[0], found)
    assert sorted(found["means"]["mean"].round(9)) == [0.3, 0.3, 0.9, 0.9]
    assert sorted(found["means"]["count"]) == [1, 1, 2, 2]


@pytest.mark.parametrize("folder", ["raw", "tuning/raw"])
def test_the_readme_explains_every_array_of_the_committed_runs(folder):
    if not (RESULTS / folder).exists():
        pytest.skip("not in a checkout")
    found = set()
    for path in (RESULTS / folder).glob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            found |= {name.removesuffix(".npy") for name in archive.namelist()}
    assert found and [n for n in sorted(found) if not any(a.matches(n) for a in readme.ARRAYS)] == []
    assert np.all([array.meaning for array in readme.ARRAYS])
