"""`bench list`, `bench data where` and shell completion: what they say without torch and without data."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from commands import bench, run

from bench import registry
from bench.cli.main import main
from bench.cli.options import DEFAULT_RESULTS


def listed(*words):
    """`bench list settings` off a terminal: each setting's columns by name."""
    head, *rows = (line.split("\t") for line in bench("list", "settings", *words).output.splitlines())
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_settings_have_type_range_default_purpose_and_source():
    found = listed("hypergan")
    assert found["beta"] == {
        "name": "beta", "type": "number", "range": "at least 0", "default": "1.0", "tuned": "",
        "what for": "weight of the adversarial term", "source": "paper, equation 2",
    }  # fmt: skip
    assert found["lr"]["tuned"] == "0.0005 to 0.002 (log)"
    assert found["gain"]["tuned"] == "0.25, 0.41, 0.7, 1.0"
    assert found["statistics"]["range"] == "frozen, batch" and found["statistics"]["type"] == "choice"
    assert found["mixer"]["default"] == "true" and found["tf32"]["what for"]


def test_settings_of_a_preset_on_a_task_are_those_that_a_run_has():
    assert listed("standard_ensemble")["networks"]["default"] == "10"
    assert listed("standard_ensemble", "--preset", "quick", "--task", "digits")["networks"]["default"] == "20"
    assert listed("mc_dropout-p01", "--preset", "smoke")["p"]["default"] == "0.1"
    assert listed("mc_dropout", "--task", "digits")["batch"]["tuned"] == "16, 32, 64"


def test_a_list_without_a_name_shows_every_name_whole():
    done = bench("list")
    assert done.exit_code == 0
    for name in (*registry.methods(), *registry.tasks(), *registry.PRESETS):
        assert f" {name}" in done.output.replace("\n", " ")
    assert "bench list settings METHOD" in done.output


def test_presets_say_what_they_cost_where_something_like_it_has_run(tmp_path):
    words = ("list", "presets", "--task", "stripes", "--method", "standard_ensemble")
    before = bench(*words, results=tmp_path)
    assert before.exit_code == 0 and before.output.count("1, 2, 5 networks") == 3
    assert "networks = 10" in before.output
    assert run(tmp_path).exit_code == 0
    smoke, quick = bench(*words, results=tmp_path).output.split("  quick  ")
    assert "  smoke  about " in smoke and "  paper  " in quick


def test_presets_of_a_task_whose_data_are_missing_exit_with_one(tmp_path):
    done = bench("list", "presets", "--task", "mnist", "--method", "mnf", "--data", str(tmp_path))
    assert done.exit_code == 1 and "could not plan mnist" in done.output


def test_without_a_data_folder_where_says_what_runs_and_what_to_fetch():
    done = bench("data", "where")
    assert done.exit_code == 1 and done.stdout == ""
    assert "export BENCH_DATA=DIR" in done.stderr and "digits, digits-open" in done.stderr
    for name in registry.sources():
        assert f"bench data fetch {name} --data DIR" in done.stderr


def test_where_prints_the_folder_alone(tmp_path):
    assert bench("data", "where", "--data", str(tmp_path)).output == f"{tmp_path.resolve()}\n"


def completed(*words, incomplete):
    shell = ShellComplete(main, {}, "bench", "_BENCH_COMPLETE")
    return [item.value for item in shell.get_completions(list(words), incomplete)]


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        (["run", "--method", "hypergan", "--set"], "hypergan.be", ["hypergan.beta=1.0"]),
        (["plan", "--method", "apd,sgld", "--set"], "sgld.dis", ["sgld.distil=none"]),
        (
            ["tune", "apd", "--set"],
            "apd.distil=",
            ["apd.distil=wgan", "apd.distil=gaussian", "apd.distil=none"],
        ),
        (["run", "--set"], "mnf.tf", ["mnf.tf32=false"]),
        (["run", "--method", "apd", "--set"], "mnf.", []),
        (["run", "--task"], "digits,to", ["digits,toy"]),
    ],
)
def test_settings_and_tasks_are_completed(words, incomplete, found):
    assert completed(*words, incomplete=incomplete) == found


def test_runs_are_completed_from_the_results_folder(tmp_path, monkeypatch):
    raw = tmp_path / DEFAULT_RESULTS / "raw"
    raw.mkdir(parents=True)
    for name in ("a-1", "a-2", "b-1"):
        (raw / f"{name}.csv").touch()
        (raw / f"{name}.json").touch()
    assert completed("verify", "--results", str(raw.parent), incomplete="b-1,a") == ["b-1,a-1", "b-1,a-2"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_RESULTS", raising=False)
    assert completed("verify", incomplete="") == ["a-1", "a-2", "b-1", "all"]


def test_completion_does_not_wait_for_torch():
    code = (
        "import sys; from click.shell_completion import ShellComplete; from bench.cli.main import main; "
        "shell = ShellComplete(main, {}, 'bench', '_BENCH_COMPLETE'); "
        "found = shell.get_completions(['run', '--set'], 'hypergan.be'); "
        "sys.exit(not found or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
