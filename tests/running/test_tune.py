"""Tuning: the rule, its rungs, and trials that are stored, resumed and blind to test data."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from commands import bench
from small import load_stripes, stripes_task

from bench import registry
from bench.errors import BenchError
from bench.records import runs as stored
from bench.records import store, tuning
from bench.registry import preset_values
from bench.running import candidates, trials, tune
from bench.running.plan import Selection
from bench.running.trials import Score, ranked
from bench.settings import resolve
from bench.system.progress import Plain

CPU = torch.device("cpu")
# Of a few steps; the batch is fixed, so that ten candidates differ by their rates alone.
SETS = [f"mc_dropout.{key}={value}" for key, value in {"epochs": 9, "batch": 32, "p": 0.2}.items()]


def tuned(results, budget=1e-9, name="mc_dropout", sets=SETS, seed=0):
    selection = Selection([name], ["stripes"], "smoke", (seed,), sets=sets)
    return tune.tune(selection, results, CPU, Plain(), budget=budget)


def runs(results):
    return sorted(path.stem for path in (results / "tuning" / "raw").glob("*.csv"))


def test_the_lowest_likelihood_wins_and_within_noise_the_largest_disagreement():
    noise = np.random.default_rng(0).normal(0, 1, 1000)
    noise -= noise.mean()
    best = np.full(1000, 1.0)
    scores = {
        "best": Score(best, 0.1),
        "as good": Score(best + 0.001 + noise, 0.2),
        "better and less diverse": Score(best - 0.0001, 0.05),
        "beaten": Score(best + 0.01, 0.9),
        "far": Score(best + 1, 0.9),
        "failed": Score(None),
    }
    # 0.001 lies within 1.96 standard errors of 0.03; of equal differences the standard error is 0.
    found = ranked(scores)
    assert found[0] == "as good"
    assert found[1] == "better and less diverse"  # the best are those that it does not beat at every image
    assert found[2:] == ["best", "beaten", "far", "failed"]
    assert ranked({"failed": Score(None), "worse": Score(best)}) == ["worse", "failed"]


def test_a_score_is_of_the_ensemble_on_validation_images(train, val):
    from small import small_method

    from bench import training
    from bench.training import FitSettings

    method = small_method("mc_dropout")
    training.fit(method, train, val, FitSettings(seed=0))
    result = trials.scored(method, val, 0)
    ensemble = method.sample(trials.MEMBERS, 0, "tune")
    p = ensemble.probabilities(val.images).double().mean(0)
    nll = -p[torch.arange(len(val)), val.labels].log()
    np.testing.assert_allclose(result.arrays["nll"], nll.numpy(), rtol=1e-5)
    values = {(r["metric"], r.get("members")): r["value"] for r in result.rows}
    assert values["nll_nats", trials.MEMBERS] == pytest.approx(nll.mean().item())
    assert values["accuracy", trials.MEMBERS] == (p.argmax(-1) == val.labels).double().mean().item()
    assert trials.score(result.rows, result.arrays).diversity == values["disagreement", trials.MEMBERS]


def test_candidates_are_the_preset_s_the_published_and_then_draws():
    search = candidates.search(registry.method("mc_dropout"), "quick", "digits", {})
    many = search.candidates(0)
    first = [next(many) for _ in range(5)]
    assert [c.origin for c in first] == ["preset quick", "preset paper", "drawn", "drawn", "drawn"]
    assert not search.differing(first[0].settings)
    published = resolve(registry.method("mc_dropout"), type(search.base.method), "paper", "digits", {})
    assert first[1].settings.method == replace(published.method, epochs=search.base.method.epochs)
    again = search.candidates(0)
    assert [next(again) for _ in range(5)] == first
    assert [c.settings for c in first[2:]] != [next(search.candidates(1)).settings]


def test_a_larger_budget_begins_with_the_same_trials(tmp_path):
    few, more = tuned(tmp_path / "a"), tuned(tmp_path / "b", budget=2.0)
    assert len(few.ranked) == tune.FEWEST
    assert len(more.ranked) > len(few.ranked)
    names = set(runs(tmp_path / "b"))
    assert {run for run in runs(tmp_path / "a") if length_of(tmp_path / "a", run) == "1/9"} <= names
    assert {t.length for t in more.ranked} == set(tune.RUNGS)
    assert more.cpu_seconds == pytest.approx(
        sum(
            store.read_csv(p).query("metric == 'trial_cpu_seconds'")["value"].item()
            for p in csvs(tmp_path / "b")
        )
    )


def test_the_preset_s_own_settings_are_always_tried_at_length(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "ranked", lambda scores: list(scores)[::-1])  # candidate 0 is the worst
    outcome = tuned(tmp_path, budget=1.5)
    longer = [t.candidate.number for t in outcome.ranked if t.length == tune.RUNGS[1]]
    assert 1 < len(longer) < len(outcome.ranked)
    assert longer[-1] == 0 and 1 not in longer  # candidate 1 is the next worst


def length_of(results, run):
    return store.read_about(tuning.folder(results), run)["length"]


def csvs(results):
    return list((results / "tuning" / "raw").glob("*.csv"))


def test_lengths_are_shares_of_the_preset_s(tmp_path):
    tuned(tmp_path)
    folder = tuning.folder(tmp_path)
    abouts = [run.about for run in stored.find(folder).runs.values()]
    assert sorted((a["length"], a["config"]["epochs"]) for a in abouts) == [("1/9", 1)] * 2 + [("2/3", 6)] * 2
    assert {a["config"]["batch"] for a in abouts} == {32}


def test_a_tuning_goes_on_from_its_stored_trials(tmp_path, monkeypatch):
    whole = tuned(tmp_path / "whole")
    lost = tuned(tmp_path / "stopped")
    (tmp_path / "stopped/tuning/raw" / f"{lost.chosen.run}.csv").unlink()
    fitted = []
    fit = tune.training.fit
    monkeypatch.setattr(tune.training, "fit", lambda *a, **k: fitted.append(1) or fit(*a, **k))
    again = tuned(tmp_path / "stopped")
    assert len(fitted) == 1
    assert [t.run for t in again.ranked] == [t.run for t in whole.ranked]
    assert [t.score.mean for t in again.ranked] == [t.score.mean for t in whole.ranked]


def test_test_data_and_outliers_do_not_change_what_is_chosen(tmp_path, monkeypatch):
    def nothing(split):
        return replace(split, images=torch.full_like(split.images, torch.nan))

    honest = tuned(tmp_path / "a")
    data = load_stripes(None)
    poisoned = replace(data, test=nothing(data.test), outliers=nothing(data.outliers))
    task = replace(stripes_task, load=lambda root: poisoned)
    monkeypatch.setattr(registry, "task", lambda name: task)
    blind = tuned(tmp_path / "b")
    assert [t.score.mean for t in blind.ranked] == [t.score.mean for t in honest.ranked]
    assert blind.lines == honest.lines


def test_a_tuning_on_other_data_replaces_none(tmp_path, monkeypatch):
    tuned(tmp_path)
    data = load_stripes(None)
    other = replace(data, checksums={name: "f" * 64 for name in data.checksums})
    task = replace(stripes_task, load=lambda root: other)
    monkeypatch.setattr(registry, "task", lambda name: task)
    for _ in range(2):  # the second replaces that on the same data
        tuned(tmp_path)
    assert sorted(tuning.chosen(tmp_path)) == ["mc_dropout-stripes-smoke-s0", "mc_dropout-stripes-smoke-s0-2"]


def test_trials_that_diverge_are_rows_and_no_choice(tmp_path):
    with pytest.raises(BenchError, match="expected a trial that ends, found 2 that failed"):
        tuned(tmp_path, sets=[*SETS, "mc_dropout.lr=1e30"])
    found = [store.read_csv(path) for path in csvs(tmp_path)]
    assert len(found) == 4 and all("failed" in set(frame["metric"]) for frame in found)
    assert all(run.about["failure"]["type"] for run in stored.find(tuning.folder(tmp_path)).runs.values())


def test_the_lines_make_the_preset_s_settings_the_chosen(tmp_path):
    search = candidates.search(registry.method("mnf"), "quick", "cifar10", {})
    drawn = search.candidates(3)
    for _ in range(4):
        candidate = next(drawn)
    lines = search.toml(candidate, "# why")
    assert lines.startswith("# why\n[quick.cifar10]\n")
    toml = {k: dict(v) if isinstance(v, dict) else v for k, v in search.entry.toml.items()}
    own = preset_values(toml, "quick", "cifar10") | tomllib.loads(lines)["quick"]["cifar10"]
    toml["quick"] = {**toml["quick"], "cifar10": own}
    entry = replace(search.entry, toml=toml)
    assert resolve(entry, type(search.base.method), "quick", "cifar10", {}) == candidate.settings


def test_settings_that_a_command_or_a_variant_fixes_are_not_drawn():
    for name, sets, fixed in (("mc_dropout", {"p": "0.3"}, 0.3), ("mc_dropout-p01", {}, 0.1)):
        search = candidates.search(registry.method(name), "quick", "digits", sets)
        drawn = search.candidates(0)
        assert {next(drawn).settings.method.p for _ in range(8)} == {fixed}


def test_length_is_rounded_and_at_least_one():
    search = candidates.search(registry.method("bayes_by_hypernet"), "quick", "mnist", {})
    candidate = next(search.candidates(0))
    whole, short = candidate.settings.method, search.shortened(candidate, Fraction(1, 9)).method
    assert short.epochs == round(whole.epochs / 9)
    assert (short.free_epochs, short.rise_epochs) == (
        max(1, round(whole.free_epochs / 9)),
        round(whole.rise_epochs / 9),
    )


def test_the_command_prints_what_was_chosen_and_why(tmp_path):
    sets = [word for text in SETS for word in ("--set", text)]
    done = bench(
        "tune", "mc_dropout", "--task", "stripes", "--preset", "smoke", "--budget", "1e-9",
        "--results", str(tmp_path), *sets,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Chosen: candidate" in done.output
    (chosen,) = tuning.chosen(tmp_path).values()
    assert chosen["chosen"] in runs(tmp_path) and chosen["lines"].splitlines()[0] in done.output
    assert bench("tune", "mc_dropout,mnf", "--task", "digits").exit_code == 2
    assert bench("tune", "mc_dropout", "--task", "digits", "--budget", "0").exit_code == 2


def test_a_method_without_a_space_says_what_to_add():
    entry = registry.method("mc_dropout")
    bare = replace(entry, toml={k: v for k, v in entry.toml.items() if k != "search"})
    with pytest.raises(BenchError, match=r"expected a table \[search\].*add one"):
        candidates.search(bare, "quick", "digits", {})
