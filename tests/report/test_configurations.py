"""One name a fit: which settings the plain name of a method stands for."""

import pandas as pd
import pytest

from bench.records.schema import COLUMNS, FLOATS, INTEGERS
from bench.report.configurations import DEFAULT, OTHER, VARIANT, configurations
from bench.report.rows import Material, notes_on_fits, plain, prepare, shared_fits


def frame(*lines):
    """Rows of accuracy with these columns over the usual ones."""
    usual = {"method": "m", "task": "mnist", "train": "mnist", "preset": "quick", "device": "cpu", "seed": 0}
    usual |= {"members": 10, "evaluation": "accuracy", "dataset": "mnist", "metric": "accuracy", "value": 0.9}
    made = pd.DataFrame([usual | line for line in lines]).reindex(columns=list(COLUMNS))
    words = [c for c in COLUMNS if c not in (*INTEGERS, *FLOATS)]
    made[words] = made[words].astype(object).fillna("").astype("str")
    return made.astype(dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(FLOATS, "float64"))


def run(name, config, order=1, **more):
    return {"run": name, "config": config, **more}, {"order": order, "cell": name}


def named(runs, settings):
    """Prepared rows. runs: of `run`; settings: config and what was changed, by digest."""
    abouts = {}
    for row, about in runs:
        config, changed = settings[row["config"]]
        abouts[row["run"]] = about | {"config": config} | ({} if changed is None else {"changed": changed})
    return prepare(frame(*(row for row, _ in runs)), abouts), abouts


SETTINGS = {
    "c1": ({"epochs": 10, "lr": 0.1}, {}),
    "c2": ({"epochs": 20, "lr": 0.1}, {"epochs": 20}),
    "c3": ({"epochs": 12, "lr": 0.1}, {}),
}


def test_the_plain_name_is_that_of_unchanged_settings_even_with_fewer_seeds():
    rows, abouts = named(
        [run("a", "c1"), run("b", "c2", 2, seed=1), run("c", "c2", 3, seed=2)], SETTINGS
    )  # fmt: skip
    assert rows.set_index("run")["method"].to_dict() == {"a": "m", "b": "m [epochs=20]", "c": "m [epochs=20]"}
    told = configurations(rows, abouts)
    assert told["quick", "cpu", "mnist", "m"][:3] == ("m", DEFAULT, "")
    assert told["quick", "cpu", "mnist", "m [epochs=20]"][:3] == ("m", OTHER, "epochs=20")
    assert told["quick", "cpu", "mnist", "m [epochs=20]"].settings == "epochs=20, lr=0.1"


def test_changed_settings_never_have_the_plain_name_even_alone():
    rows, _ = named([run("b", "c2")], SETTINGS)
    assert set(rows["method"]) == {"m [epochs=20]"}


def test_of_the_defaults_before_and_after_a_change_of_the_file_the_newer_has_the_plain_name():
    rows, _ = named([run("a", "c1", 1), run("b", "c3", 2)], SETTINGS)
    assert rows.set_index("run")["method"].to_dict() == {"a": "m [epochs=10]", "b": "m"}


def test_a_fit_has_one_name_in_all_tasks_that_share_it():
    shared = {"task": "notmnist"}
    rows, _ = named([run("a", "c1"), run("b", "c2", 2), run("c", "c2", 3, **shared)], SETTINGS)
    assert set(rows.loc[rows["config"] == "c2", "method"]) == {"m [epochs=20]"}


@pytest.mark.parametrize("config", ["c2", "c1", ""])
def test_failed_attempts_change_no_name(config):
    before, _ = named([run("a", "c1")], SETTINGS)
    failed = run("z", config, 9, metric="failed", seed=1)
    after, _ = named([run("a", "c1"), failed], SETTINGS | {"": ({}, None)})
    assert set(after["method"]) == set(before["method"]) == {"m"}


def test_variants_are_told_from_defaults():
    rows, abouts = named(
        [run("a", "c1", method="hypergan"), run("b", "c1", 2, method="hypergan-no-mixer")], SETTINGS
    )
    told = configurations(rows, abouts)
    assert [told["quick", "cpu", "mnist", name].kind for name in ("hypergan", "hypergan-no-mixer")] == [
        DEFAULT, VARIANT,
    ]  # fmt: skip


def test_tasks_that_share_a_fit_show_its_numbers_once():
    lines = [{"run": f"{m}-{t}", "method": m, "task": t} for m, t in (("a", "mnist"), ("a", "notmnist"))]
    lines += [
        {"run": "b", "method": "b", "task": "notmnist"},
        {"run": "c", "task": "digits", "train": "digits"},
    ]
    lines += [
        {"run": "a-notmnist", "method": "a", "task": "notmnist", "metric": "auroc", "evaluation": "ood"}
    ]
    rows = prepare(frame(*lines), {})
    once = shared_fits(rows)
    accuracy = plain(once, ("accuracy",))
    # notmnist has more methods, so all stand under it.
    assert sorted(zip(accuracy["method"], accuracy["task"], accuracy["run"], strict=True)) == [
        ("a", "notmnist", "a-notmnist"), ("b", "notmnist", "b"), ("m", "digits", "c"),
    ]  # fmt: skip
    assert len(once) == len(rows) - 1
    (note,) = notes_on_fits(rows, accuracy)
    assert note == (("quick", "cpu", "notmnist", "mnist"), "Also of mnist, which share the fits of notmnist.")


def test_a_material_is_its_own_key(tmp_path):
    rows, abouts = named([run("a", "c1")], SETTINGS)
    one, other = (Material(tmp_path, rows, abouts, rows) for _ in range(2))
    assert one != other and hash(one) == hash(one)
