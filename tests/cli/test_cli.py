"""The command line: rows, exit codes, and error messages that say what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from commands import SMALL, bench, run
from hypothesis import given
from hypothesis import strategies as st

from bench import registry
from bench.cli.options import parse_members, parse_seeds
from bench.errors import UsageError
from bench.records import runs, store
from bench.running import launchers
from bench.running.plan import Selection, cells

ROOT = Path(__file__).parents[2]


def values(results):
    """All rows except costs, without columns that may differ between equal runs."""
    frame = runs.read(results).newest()
    cost = frame["metric"].str.contains("seconds|bytes|per_s")
    return frame[~cost].drop(columns=["run"]).reset_index(drop=True)


def test_a_run_writes_rows_of_the_schema_and_no_partial_files(tmp_path):
    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    frame = runs.read(tmp_path).newest()
    assert set(frame["evaluation"]) == {"data", "canary", "accuracy", "diversity", "ood", "cost", "trace"}
    accuracy = frame[(frame["metric"] == "accuracy") & (frame["evaluation"] == "accuracy")]
    assert accuracy["members"].tolist() == [1, 2, 5]
    assert set(frame["method"]) == {"standard_ensemble"}
    assert not list(tmp_path.rglob("*.part"))
    name = frame["run"].iloc[0]
    arrays = store.read_arrays(tmp_path, name)
    assert arrays["noise/5/entropy_nats"].shape == (20,)
    assert arrays["stripes/1/brier"].dtype == "f4"
    about = json.loads((tmp_path / "raw" / f"{name}.json").read_text())
    assert about["config"]["networks"] == 5 and about["failure"] is None


def test_the_same_seed_gives_the_same_rows_bit_for_bit(tmp_path):
    for folder in ("a", "b"):
        assert run(tmp_path / folder).exit_code == 0
    pd.testing.assert_frame_equal(values(tmp_path / "a"), values(tmp_path / "b"), check_exact=True)


def test_finished_cells_are_skipped_and_force_repeats_them(tmp_path):
    run(tmp_path)
    again = run(tmp_path)
    assert "done" in again.output and "0 run, 1 already done" in again.output
    forced = run(tmp_path, "--force")
    assert "fit: reusing" in forced.output and "1 run" in forced.output
    assert len(list((tmp_path / "raw").glob("*.csv"))) == 2
    # Of other sizes too, the next run is the newer one, without asking a clock.
    assert "1 run" in run(tmp_path, "--members", "1,2").output
    orders = [json.loads(path.read_text())["order"] for path in (tmp_path / "raw").glob("*.json")]
    assert sorted(orders) == [1, 2, 3]


def test_stale_cells_run_again_only_on_request(tmp_path):
    run(tmp_path)
    (path,) = (tmp_path / "raw").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "older"}))
    assert "by older code, the definitions of its code were not stored" in run(tmp_path).output
    assert "1 run" in run(tmp_path, "--stale").output


def test_a_stale_cell_names_the_changed_definition(tmp_path):
    run(tmp_path)
    (path,) = (tmp_path / "code").glob("*.json")
    found = json.loads(path.read_text())
    found["definitions"] |= {"Minibatches._order": "00000000", "gone": "1"}
    (path.with_name("older.json")).write_text(json.dumps(found))
    (about,) = (tmp_path / "raw").glob("*.json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"code": "older"}))
    assert "by older code, changed: Minibatches._order, gone; --stale" in run(tmp_path).output
    assert "1 stale: changed: Minibatches._order, gone" in run(tmp_path, command="plan").output


def test_the_device_is_part_of_a_cell_except_in_names_on_a_cpu():
    selection = Selection(["standard_ensemble"], ["stripes"], "smoke")
    task = registry.task("stripes")
    (cell,) = cells(selection, task, task.load(None))
    on_gpu = replace(cell, device="cuda")
    assert cell.key() != on_gpu.key() and "cuda" in on_gpu.name
    assert cell.checkpoint(Path()) != on_gpu.checkpoint(Path())
    assert "device" not in cell.identity()


def test_a_failure_becomes_a_row_and_the_sweep_continues_with_exit_code_one(tmp_path):
    done = bench(
        "run", "--method", "standard_ensemble,hypergan", "--task", "stripes", "--preset", "smoke", *SMALL,
        "--set", "standard_ensemble.lr=1e30", "--set", "hypergan.hidden=8", "--set", "hypergan.epochs=1",
        results=tmp_path,
    )  # fmt: skip
    assert done.exit_code == 1
    frame = runs.read(tmp_path).newest()
    failed = frame[frame["metric"] == "failed"]
    assert failed["unit"].tolist() == ["BenchError"]
    assert "hypergan" in set(frame["method"])
    assert "expected finite losses" in done.output
    about = json.loads((tmp_path / "raw" / f"{failed['run'].iloc[0]}.json").read_text())
    assert 'File "bench/training/fit.py"' in about["failure"]["traceback"]
    assert str(Path.cwd()) not in json.dumps(about) and str(tmp_path) not in json.dumps(about)
    assert "1 run, 0 already done, 0 failed" in run(tmp_path).output


def test_sizes_beyond_a_finite_method_are_skipped_with_a_message(tmp_path):
    done = run(tmp_path, "--members", "2,5,100")
    assert done.exit_code == 0
    assert "skipped: size 100 (the method holds 5 networks)" in done.output
    done = run(tmp_path, "--members", "100")
    assert done.exit_code == 1
    assert "holds 5 networks, the smallest requested size is 100" in done.output


def test_one_network_has_an_accuracy_but_no_pairwise_metrics(tmp_path):
    done = run(tmp_path, "--members", "1")
    assert done.exit_code == 0, done.output
    assert "skipped: diversity of 1 network" in done.output
    frame = runs.read(tmp_path).newest()
    assert set(frame.loc[frame["evaluation"] == "accuracy", "members"]) == {1}
    assert not {"disagreement", "weight_spread"} & set(
        frame.loc[frame["evaluation"] == "diversity", "metric"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "hypergam"], "unknown method 'hypergam'; did you mean hypergan"),
        (["--task", "minst"], "unknown task 'minst'; did you mean mnist"),
        (["--preset", "huge"], "'huge' is not one of"),
        (["--seed", "0-"], "--seed 0-: expected 0 or 0,1,2 or 0-4"),
        (["--members", "1,x"], "--members 1,x: expected sizes"),
        (["--set", "hypergan.beta=1"], "method 'hypergan' is not in this command"),
        (["--set", "beta=1"], "expected METHOD.KEY=VALUE"),
        (["--set", "standard_ensemble.epoch=1"], "did you mean epochs"),
        (["--set", "standard_ensemble.epochs=many"], "expected an integer of at least 1, found 'many'"),
        (["--set", "standard_ensemble.epochs=0"], "expected an integer of at least 1, found 0"),
        (["--set", f"standard_ensemble.epochs={2**63}"], "expected an integer of at least 1, within 64 bits"),
        (
            ["--set", f"standard_ensemble.epochs={10**300}"],
            "expected an integer of at least 1, within 64 bits",
        ),
        (["--set", "standard_ensemble.networks=-2"], "expected an integer of at least 1, found -2"),
        (["--set", "standard_ensemble.lr=nan"], "expected a number above 0, found nan"),
        (["--seed", "²"], "--seed ²: expected 0 or 0,1,2 or 0-4"),
        (["--seed", str(2**63)], "none above 9223372036854775807"),
        (["--seed", f"0-{2**63 - 1}"], "expected at most 100,000 seeds"),
        (["--members", "²"], "--members ²: expected sizes"),
        (["--members", "9" * 5000], "expected sizes from 1 to 1,000,000"),
        (["--members", "1000000000"], "expected sizes from 1 to 1,000,000"),
        (["--members", "1e9"], "expected sizes from 1 to 1,000,000"),
        (["--seed", "0-99999999"], "expected at most 100,000 seeds"),
        (["--jobs", "²"], "expected a whole number from 1 to 10000, found ²"),
        (["--jobs", "٣"], "expected a whole number from 1 to 10000, found ٣"),
        (["--threads", "1_0"], "expected a whole number from 1 to 10000, found 1_0"),
        (["--threads", "1000000000"], "expected a whole number from 1 to 10000"),
        (["--limit", "nan"], "expected a number above 0 and at most 1e+07, found nan"),
        (["--limit", "inf"], "expected a number above 0 and at most 1e+07, found inf"),
        (["--limit", "1e300"], "expected a number above 0"),
        (["--limit", "0"], "expected a number above 0"),
    ],
)
def test_a_wrong_command_line_exits_with_two_and_writes_nothing(tmp_path, arguments, said):
    done = run(tmp_path / "results", *arguments)
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "standard_ensemble", "--task", "stripes", "--seed", str(2**63)],
        ["tune", "standard_ensemble", "--task", "stripes", "--budget", "nan"],
        ["tune", "standard_ensemble", "--task", "stripes", "--budget", "²"],
        ["verify", "all", "--seed", "²"],
        ["verify", "all", "--cells", "0"],
    ],
)
def test_numbers_out_of_range_exit_with_two(tmp_path, words):
    done = bench(*words, results=tmp_path / "results")
    assert done.exit_code == 2 and "expected a" in done.output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("text", ["²", "٣", "-1", "1,2", "1e3", " 2", ""])
def test_threads_that_are_no_number_in_the_environment_do_not_count(monkeypatch, text):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert launchers.shares(2, 8) == [4, 4]


def test_missing_data_is_one_error_and_exit_code_one(tmp_path):
    done = run(tmp_path / "results", "--data", str(tmp_path))
    assert done.exit_code == 1
    assert "stripes.txt" in done.output and "digits" in done.output
    assert not list((tmp_path / "results").rglob("*.csv"))


def test_results_that_cannot_be_written_are_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "results")
    assert done.exit_code == 1
    assert "choose a writable folder with --results" in done.output


def test_a_checkpoint_of_another_format_fails_the_cell_and_says_so(tmp_path):
    run(tmp_path)
    (path,) = (tmp_path / "checkpoints").rglob("*.safetensors")
    path.write_bytes(b"\x80\x04pickle")
    done = run(tmp_path, "--force")
    assert done.exit_code == 1
    assert "remove the file to train again" in done.output
    (failed,) = (p for p in (tmp_path / "raw").glob("*.json") if "Traceback" in p.read_text())
    failure = json.loads(failed.read_text())["failure"]
    assert failure["message"].startswith("RESULTS/checkpoints/stripes/")
    assert str(tmp_path) not in failed.read_text() and 'File "/' not in failure["traceback"]


def test_report_reads_the_output_of_run(tmp_path):
    run(tmp_path)
    done = bench("report", results=tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report.html").exists()
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines] == ["runs", "claims", "tables", "figures", "page"]
    assert lines[0].split()[1] == "1" and lines[-1].endswith(str(tmp_path / "report.html"))
    every = bench("report", "--verbose", results=tmp_path).output.splitlines()
    assert every[-5:] == lines and str(tmp_path / "tables" / "summary.csv") in every
    empty = bench("report", results=tmp_path / "empty")
    assert empty.exit_code == 1 and "make one: bench run" in empty.output


def test_without_a_name_rows_go_to_a_folder_that_git_ignores_and_the_evidence_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evidence = tmp_path / "results" / "report.html"
    evidence.parent.mkdir()
    evidence.write_text("committed")
    done = run(None)
    assert done.exit_code == 0 and "1 run" in done.output and "bench report --results runs" in done.output
    assert bench("report").exit_code == 0
    assert (tmp_path / "runs" / "report.html").exists()
    assert [path for path in evidence.parent.rglob("*")] == [evidence] and evidence.read_text() == "committed"
    assert "/runs/" in (ROOT / ".gitignore").read_text().splitlines()


def test_lists_print_one_name_per_line_without_a_terminal():
    for kind, known in (
        ("methods", registry.methods()),
        ("tasks", registry.tasks()),
        ("presets", registry.PRESETS),
    ):
        assert bench("list", kind).output.split("\n")[:-1] == list(known)


def test_help_shows_examples():
    assert "bench run --method hypergan --task digits" in bench("run", "--help").output
    assert bench("--version").output.startswith("bench, version")


def test_data_commands_need_a_folder(monkeypatch):
    monkeypatch.delenv("BENCH_DATA", raising=False)
    done = bench("data", "fetch", "mnist")
    assert done.exit_code == 2 and "--data DIR or set BENCH_DATA" in done.output


@given(st.integers(0, 50), st.integers(0, 10))
def test_seed_ranges_count_both_ends(first, more):
    assert parse_seeds(f"{first}-{first + more}") == tuple(range(first, first + more + 1))


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "0,0", "1,,2", "0-2,1"])
def test_other_seed_lists_are_refused(text):
    with pytest.raises(UsageError):
        parse_seeds(text)


def test_members_are_sorted_and_positive():
    assert parse_members("10,1,5") == (1, 5, 10)
    with pytest.raises(UsageError):
        parse_members("0")
