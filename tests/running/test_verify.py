"""Repeating a stored run: agreement is confirmed, every change is detected and named."""

from __future__ import annotations

import csv
import hashlib
import io
import json

import numpy as np
import pytest
from commands import bench, run
from sealing import sealed

from bench import registry
from bench.errors import BenchError
from bench.running import verify as verifying
from bench.running.locks import Locks
from bench.settings import from_document, resolve


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files of one run, by path in a results folder, and its name."""
    folder = tmp_path_factory.mktemp("made")
    assert run(folder).exit_code == 0
    (name,) = (path.stem for path in (folder / "raw").glob("*.csv"))
    return {path.relative_to(folder): path.read_bytes() for path in files(folder)}, name


@pytest.fixture
def stored(made, tmp_path):
    """A new results folder with a copy of the run, and the run's name."""
    contents, name = made
    for path, data in contents.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path, name


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digests(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files(folder)}


def verify(results, *arguments):
    return bench("verify", *arguments, results=results)


def edit_json(results, name, **changes):
    path = results / "raw" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def about(results, name):
    return json.loads((results / "raw" / f"{name}.json").read_text())


def edit_rows(results, name, change):
    """Rewrite the CSV with rows (dicts, in order) changed in place or returned by `change`, sealed again."""
    path = results / "raw" / f"{name}.csv"
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    rows = change(rows) or rows
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue())
    sealed(results, name)


def accuracy_of(rows, members="5"):
    wanted = {"evaluation": "accuracy", "metric": "accuracy", "members": members}
    (row,) = (r for r in rows if all(r[c] == v for c, v in wanted.items()))
    return row


def test_a_run_verifies_bit_for_bit_and_its_folder_is_unchanged(stored):
    results, name = stored
    before = digests(results)
    done = verify(results, name)
    assert done.exit_code == 0, done.output
    assert f"ok       {name}" in done.output and "bit for bit · no difference" in done.output
    assert "fit reused" in done.output and "1 ok, 0 differ, 0 could not" in done.output
    assert digests(results) == before


def test_without_a_stored_fit_training_again_gives_the_same_rows(stored):
    results, _ = stored
    (fit,) = results.rglob("fit.safetensors")
    fit.unlink()
    before = digests(results / "raw")
    done = verify(results, "all")
    assert done.exit_code == 0, done.output
    assert (
        "training again" in done.output and "bit for bit · no difference · fit trained again" in done.output
    )
    assert digests(results / "raw") == before
    assert fit.exists()  # the new fit is stored, as in a run


def test_a_changed_value_is_reported(stored):
    results, name = stored
    values = {}

    def change(rows):
        row = accuracy_of(rows)
        values["true"] = row["value"]
        row["value"] = "0.123"

    edit_rows(results, name, change)
    done = verify(results, name)
    assert done.exit_code == 1
    assert f"differs  {name}" in done.output and "0 ok, 1 differ" in done.output
    named = "members=5 evaluation=accuracy dataset=stripes metric=accuracy"
    assert f"largest difference: {named}: expected 0.123, found {values['true']}" in done.output
    assert f"\n  {named}: expected 0.123, found {values['true']}\n" in done.output


def test_rows_are_equal_only_as_text(stored):
    results, name = stored

    def change(rows):
        row = accuracy_of(rows)
        row["value"] += "0"

    edit_rows(results, name, change)
    assert verify(results, name).exit_code == 1


def test_costs_may_differ(stored):
    results, name = stored

    def change(rows):
        changed = [r for r in rows if r["metric"] in ("fit_seconds", "peak_memory_bytes")]
        assert len(changed) == 2
        for row in changed:
            row["value"] = "1e9"

    edit_rows(results, name, change)
    assert verify(results, name).exit_code == 0


@pytest.mark.parametrize("removed", ["stored", "added"])
def test_a_missing_or_additional_row_is_reported(stored, removed):
    results, name = stored

    def change(rows):
        row = accuracy_of(rows)
        if removed == "stored":
            return [r for r in rows if r is not row]
        return [*rows, row | {"members": "3"}]

    edit_rows(results, name, change)
    done = verify(results, name)
    assert done.exit_code == 1
    if removed == "stored":
        named = "members=5 evaluation=accuracy dataset=stripes metric=accuracy: not expected, found"
        assert named in done.output and "0 missing, 1 additional" in done.output
    else:
        named = "members=3 evaluation=accuracy dataset=stripes metric=accuracy: expected, not found"
        assert named in done.output and "1 missing, 0 additional" in done.output


def test_a_changed_array_is_reported(stored):
    results, name = stored
    path = results / "raw" / f"{name}.npz"
    with np.load(path) as packed:
        arrays = dict(packed)
    arrays["noise/5/entropy_nats"][3] += 1e-6
    np.savez_compressed(path, **arrays)
    sealed(results, name)
    done = verify(results, name)
    assert done.exit_code == 1
    assert "array noise/5/entropy_nats, 1 of 20 values differ, mean: expected" in done.output


def test_changed_data_are_an_error_that_names_the_file(stored):
    results, name = stored
    edit_json(results, name, checksums={"stripes": "ffff"})
    done = verify(results, name)
    assert done.exit_code == 1
    assert (
        f"error    {name}: expected data with checksum ffff (stripes), found 0 (1 of 1 files" in done.output
    )
    assert "--data" in done.output and "1 could not be compared" in done.output


def test_with_other_code_a_tolerance_applies_and_additional_rows_are_counted(stored):
    results, name = stored
    edit_json(results, name, code="older")

    def change(rows):
        row = accuracy_of(rows)
        row["value"] = repr(float(row["value"]) - 0.004)
        return [r for r in rows if r["metric"] != "brier"]

    edit_rows(results, name, change)
    done = verify(results, name)
    assert done.exit_code == 0, done.output
    assert "within 0.005 + n^-1 (fractions), 0.001 + n^-1 (relative): code was older, is " in done.output
    assert "0 missing, 3 additional" in done.output and "metric=accuracy: expected" in done.output


def test_differences_beyond_the_tolerance_fail(stored):
    results, name = stored
    edit_json(results, name, code="older")
    edit_rows(results, name, lambda rows: accuracy_of(rows).update(value="0.1"))
    done = verify(results, name)
    assert done.exit_code == 1 and "differs" in done.output and "expected 0.1, found" in done.output


def test_another_processor_and_a_new_fit_have_the_wider_tolerance(stored):
    results, name = stored
    environment = about(results, name)["environment"]
    edit_json(results, name, environment=environment | {"device_name": "abacus"})
    (fit,) = results.rglob("fit.safetensors")
    fit.unlink()
    done = verify(results, name)
    assert done.exit_code == 0, done.output
    assert (
        "within 0.1 + n^-0.5 (fractions), 0.5 + n^-0.5 (relative): device_name was abacus, is " in done.output
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"torch": "9.9"}, "torch was 2, is 9.9"),
        ({"device_name": "b"}, "device_name was a, is b"),
        ({"device": "cuda"}, "device was cpu, is cuda"),
        ({"device": "cuda"}, "a GPU sums in no fixed order"),
        ({"blas": "openblas Haswell"}, "blas was openblas SkylakeX, is openblas Haswell"),
        ({"kernel_settings": "A=1"}, "kernel_settings was , is A=1"),
    ],
)
def test_a_changed_environment_is_a_reason_for_a_tolerance(change, reason):
    environment = {"device": "cpu", "device_name": "a", "torch": "2", "python": "3"}
    environment |= {"blas": "openblas SkylakeX", "kernel_settings": ""}
    recorded = {"code": "c", "environment": environment}
    assert verifying.departures(recorded, recorded) == []
    now = {"code": "c", "environment": environment | change}
    assert reason in verifying.departures(recorded, now)


def test_an_unrecorded_environment_is_a_reason_for_a_tolerance():
    now = {"code": "c", "environment": {"torch": "2"}}
    assert verifying.departures({"code": "c", "environment": {}}, now) == ["torch was not recorded, is 2"]


@pytest.mark.parametrize("name", verifying.KERNELS)
def test_other_kernels_are_a_reason_for_a_tolerance(stored, name):
    results, run_name = stored
    environment = about(results, run_name)["environment"]
    assert verifying.unrecorded({"environment": environment}) == []
    now = {"code": "c", "environment": environment}
    before = {"code": "c", "environment": environment | {name: "other"}}
    (reason,) = verifying.departures(before, now)
    assert reason == f"{name} was other, is {environment[name]}"


def test_kernels_that_an_older_run_does_not_record_are_no_reason_and_are_named(stored):
    results, name = stored
    environment = about(results, name)["environment"]
    older = {k: v for k, v in environment.items() if k not in verifying.KERNELS}
    edit_json(results, name, environment=older)
    done = verify(results, name)
    assert done.exit_code == 0, done.output
    assert "bit for bit" in done.output
    assert f"not recorded then, may differ: {', '.join(verifying.KERNELS)}" in done.output


def test_an_unknown_run_is_a_usage_error(stored):
    results, name = stored
    done = verify(results, name[:-1])
    assert done.exit_code == 2 and f"did you mean {name}?" in done.output
    assert verify(results, ",").exit_code == 2
    assert verify(results / "elsewhere", "all").exit_code == 2


def test_a_failed_run_is_skipped(stored):
    results, name = stored
    edit_json(results, name, failure={"type": "TimeLimit", "message": "", "traceback": ""})
    done = verify(results, "all")
    assert done.exit_code == 0
    assert f"skipped {name}: a failed run (TimeLimit)" in done.output
    assert "0 ok, 0 differ" in done.output


def test_cells_samples_runs_reproducibly_by_seed(stored):
    results, name = stored
    for copy in range(2, 6):
        other = f"{name}-{copy}"
        for end in ("csv", "json", "npz"):
            data = (results / "raw" / f"{name}.{end}").read_bytes()
            (results / "raw" / f"{other}.{end}").write_bytes(data)
        edit_rows(results, other, lambda rows, other=other: [r | {"run": other} for r in rows])
        edit_json(results, other, run=other)
    drawn = [verify(results, "all", "--cells", "2", "--seed", s).output for s in ("0", "0", "1")]
    chosen = [{line.split()[1] for line in text.splitlines() if line.startswith("ok")} for text in drawn]
    assert all(len(found) == 2 for found in chosen)
    assert chosen[0] == chosen[1] != chosen[2]


def test_an_unreadable_run_does_not_stop_the_others(stored):
    results, name = stored
    (results / "raw" / "broken.csv").write_text("no rows")
    (results / "raw" / "broken.json").write_text("{}")
    done = verify(results, f"broken,{name}")
    assert done.exit_code == 1
    assert "error    broken: " in done.output and "1 ok, 0 differ, 1 could not" in done.output


def test_an_edited_run_is_an_error_and_a_stray_file_is_named(stored):
    results, name = stored
    path = results / "raw" / f"{name}.csv"
    (results / "raw" / "notes.csv").write_text("remember the milk")
    (results / "raw" / f"._{name}.csv").write_bytes(b"\0\5\x16\7")
    path.write_text(path.read_text().replace("measured", "Measured", 1))
    done = verify(results, "all")
    assert done.exit_code == 1 and "0 ok, 0 differ, 1 could not" in done.output
    assert "edited or cut" in done.output
    (stray,) = (line for line in done.output.splitlines() if "notes.csv" in line)
    assert stray.startswith("left out: ") and stray.endswith("move it away")


def test_a_locked_fit_is_not_used(stored):
    results, name = stored
    (fit,) = results.rglob("fit.safetensors")
    with Locks(results, "other").take(fit.parent.name):
        done = verify(results, name)
    assert done.exit_code == 1 and "found it held by process" in done.output and "verify later" in done.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"config": {"networks": 5}}, "epochs"),
        ({"sizes": "many"}, "expected ensemble sizes"),
        ({"cell": "0" * 64}, "expected cell 00000000"),
        ({"checksums": None}, "expected checksums"),
    ],
)
def test_a_json_that_does_not_match_the_cell_is_an_error(stored, change, said):
    results, name = stored
    edit_json(results, name, **change)
    done = verify(results, name)
    assert done.exit_code == 1 and f"error    {name}: " in done.output and said in done.output


def test_an_unregistered_method_is_an_error_that_says_what_to_do(stored):
    results, name = stored
    edit_rows(results, name, lambda rows: [r | {"method": "tarot"} for r in rows])
    done = verify(results, name)
    assert done.exit_code == 1 and "found 'tarot'; install its package" in done.output


def test_rows_with_the_same_key_are_an_error(stored):
    results, name = stored
    edit_rows(results, name, lambda rows: [*rows, accuracy_of(rows)])
    assert "expected one row of members=5" in verify(results, name).output


@pytest.mark.parametrize("name", list(registry.methods()))
def test_settings_round_trip_through_their_document(name):
    entry = registry.method(name)
    config = entry.load().Config
    settings = resolve(entry, config, "smoke", "stripes", {})
    document = json.loads(json.dumps(settings.document()))
    assert from_document(config, document) == settings
    with pytest.raises(BenchError, match="none missing and depth unknown"):
        from_document(config, document | {"depth": 3})
    with pytest.raises(BenchError, match="tf32 missing and none unknown"):
        from_document(config, {k: v for k, v in document.items() if k != "tf32"})
    with pytest.raises(BenchError, match="expected true or false"):
        from_document(config, document | {"tf32": "yes"})
