"""The tables on spread, pairs and distances, on small synthetic runs."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sealing import sealed

from bench import report
from bench.records import runs, schema, store
from bench.report import paired, published
from bench.report.claims.evidence import verdicts
from bench.report.layout.tables import text_tables
from bench.report.output.markdown import to_csv, to_markdown
from bench.report.rows import Material, prepare
from bench.report.sections import all_tables, comparisons
from bench.report.uncertainty import (
    auroc,
    auroc_sd,
    dkw_half_width,
    paired_resamples,
    resampled_aurocs,
)

IMAGES, OUTLIERS = 60, 40
LABELS = np.arange(IMAGES, dtype="i2") % 3


def write(results, method, seed=0, wrong=5, apart=1.0, sizes=(1, 10), kept=(1, 10), values=None, **more):
    """One run on the task `digits`: `wrong` images misclassified, mean entropies differ by `apart`.

    kept: sizes whose arrays are written. values: accuracy and AUROC of the rows, in place of those of the
    arrays. more: sd over draws (`draws`), labels, predictions or preset.
    """
    rng = np.random.default_rng([seed, *method.encode()])
    labels = more.get("labels", LABELS)
    predictions = np.where(np.arange(len(labels)) < wrong, (labels + 1) % 3, labels).astype("i2")
    entropies = {
        "digits": np.abs(rng.normal(1, 1, len(labels))).astype("f4"),
        "letters": np.abs(rng.normal(1 + apart, 1, OUTLIERS)).astype("f4"),
    }
    found = values or (1 - wrong / len(labels), auroc(entropies["digits"], entropies["letters"]))
    preset = more.get("preset", "quick")
    run = f"{method}-{preset}-{seed}"
    place = {"run": run, "method": method, "task": "digits", "train": "digits", "preset": preset}
    place |= {"seed": seed}
    place |= {"config": "c0ffee", "commit": "abc", "device": "cpu", "source": "run", "schema": schema.SCHEMA}
    rows, arrays = [], {"digits/label": labels} if kept else {}
    for n in sizes:
        inside = {"evaluation": "accuracy", "dataset": "digits", "members": n, "examples": len(labels)}
        outside = {"evaluation": "ood", "dataset": "letters", "members": n, "examples": OUTLIERS}
        pairs = [("accuracy", found[0], inside), ("auroc", found[1], outside)]
        pairs += [("entropy_nats", 1.0, outside | {"dataset": dataset}) for dataset in entropies]
        for metric, sd in (("accuracy", 0), ("auroc", 1)) if "draws" in more else ():
            pairs.append((f"{metric}_draw_sd", more["draws"], (inside, outside)[sd]))
        rows += [schema.row(metric, float(value), **place, **where) for metric, value, where in pairs]
    for n in kept:
        arrays[f"digits/{n}/prediction"] = predictions
        arrays |= {f"{dataset}/{n}/entropy_nats": v for dataset, v in entropies.items()}
    about = {"cell": run, "created": "2025-01-01T00:00:00", "config": {"beta": 1}, "failure": None}
    store.write_run(results, run, rows, arrays, about)
    return entropies["digits"], entropies["letters"]


def found(results):
    """The three tables by name."""
    rows = runs.read(results).newest()
    abouts = {run: store.read_about(results, run) for run in set(rows["run"])}
    published.provide(results)
    material = Material(results, prepare(rows, abouts), abouts, published.read(results))
    return {table.name: table for table in comparisons.tables(material)}


def line(table, **where):
    frame = table.frame
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, f"{len(frame)} lines of {where}"
    return frame.iloc[0]


def test_one_seed_has_a_spread_over_images_but_not_over_seeds(tmp_path):
    scores = write(tmp_path, "a", wrong=6)
    spread = found(tmp_path)["spread"]
    accuracy = line(spread, metric="accuracy", members=10)
    assert accuracy["mean"] == pytest.approx(0.9)
    assert accuracy["image_sd"] == pytest.approx(math.sqrt(0.9 * 0.1 / IMAGES))
    assert accuracy[["low", "high", "sd", "draw_sd"]].isna().all()
    area = line(spread, metric="auroc", members=10)
    assert (area["mean"], area["image_sd"]) == pytest.approx((auroc(*scores), auroc_sd(*scores)))
    assert "| 10 | a | 90.00 | — | — | — | 3.87 | 1 |" in to_markdown(spread)


def test_three_sources_of_spread_are_separate(tmp_path):
    for seed, (wrong, draws) in enumerate([(6, 0.01), (12, 0.03)]):
        write(tmp_path, "a", seed, wrong, draws=draws)
    accuracy = line(found(tmp_path)["spread"], metric="accuracy", members=10)
    low, high = stats.t.interval(0.95, 1, 0.85, 0.1 / 2)
    assert accuracy[["mean", "low", "high"]].tolist() == pytest.approx([0.85, low, high])
    assert accuracy["sd"] == pytest.approx(0.1 / math.sqrt(2))
    assert accuracy["draw_sd"] == pytest.approx(0.02)
    each = [math.sqrt(p * (1 - p) / IMAGES) for p in (0.9, 0.8)]
    assert accuracy["image_sd"] == pytest.approx(np.mean(each))
    assert (accuracy["seeds"], accuracy["draw_seeds"], accuracy["image_seeds"]) == (2, 2, 2)


def test_a_size_without_stored_images_is_a_gap(tmp_path):
    write(tmp_path, "a", sizes=(1, 5, 10))
    spread = found(tmp_path)["spread"]
    assert math.isnan(line(spread, metric="accuracy", members=5)["image_sd"])
    assert math.isnan(line(spread, metric="auroc", members=5)["image_sd"])


def test_with_one_shared_seed_images_are_compared(tmp_path):
    first, second = write(tmp_path, "a", wrong=2), write(tmp_path, "b", wrong=14, apart=3)
    verdicts = found(tmp_path)["verdicts"]
    accuracy = line(verdicts, metric="accuracy")
    # Twelve images are wrong for b only: p = 2 / 2^12.
    assert accuracy["difference"] == pytest.approx(12 / IMAGES)
    assert accuracy["p"] == accuracy["p_holm"] == pytest.approx(2 / 2**12)
    assert (accuracy["verdict"], accuracy["over"], accuracy["seeds"]) == ("a higher", "images", 1)
    area = line(verdicts, metric="auroc")
    one, other = resampled_aurocs([first, second], paired.RESAMPLING_SEED)
    expected = paired_resamples(auroc(*first) - auroc(*second), one - other)
    assert area[["difference", "low", "high", "p"]].tolist() == pytest.approx(list(expected))
    assert area["verdict"] == "b higher" and area["over"] == "images"


def test_with_several_shared_seeds_paired_differences_are_compared(tmp_path):
    for seed, (a, b) in enumerate([(0.90, 0.80), (0.91, 0.80), (0.92, 0.83)]):
        write(tmp_path, "a", seed, values=(a, 0.9))
        write(tmp_path, "b", seed, values=(b, 0.9))
    write(tmp_path, "b", 7, values=(0.1, 0.1))  # a seed missing for a
    verdicts = found(tmp_path)["verdicts"]
    accuracy = line(verdicts, metric="accuracy")
    other = stats.ttest_rel([0.90, 0.91, 0.92], [0.80, 0.80, 0.83])
    assert accuracy["p"] == pytest.approx(other.pvalue)
    assert accuracy[["low", "high"]].tolist() == pytest.approx(list(other.confidence_interval()))
    assert (accuracy["verdict"], accuracy["over"], accuracy["seeds"]) == ("a higher", "seeds", 3)
    # Equal AUROCs on every seed.
    area = line(verdicts, metric="auroc")
    assert (area["verdict"], area["difference"], area["p"]) == ("tie", 0, 1)


def test_verdicts_use_p_adjusted_within_a_table(tmp_path):
    # Against a, b is wrong on 6 more images: p = 2 / 2^6 = 0.031, no longer significant among three pairs.
    for method, wrong in (("a", 0), ("b", 6), ("c", 3)):
        write(tmp_path, method, wrong=wrong)
        write(tmp_path, method, wrong=wrong, preset="smoke")
    verdicts = found(tmp_path)["verdicts"]
    alone = line(verdicts, metric="accuracy", preset="quick", method="a", other="b")
    assert alone["p"] == pytest.approx(2 / 2**6)
    assert alone["p_holm"] == pytest.approx(3 * 2 / 2**6)
    assert alone["verdict"] == "tie"
    for column in ("method", "other", "p", "p_holm", "verdict"):  # presets are separate families
        own = [verdicts.frame.loc[verdicts.frame["preset"] == p, column].tolist() for p in ("quick", "smoke")]
        assert own[0] == own[1]


def test_methods_are_compared_at_the_largest_size_that_both_have(tmp_path):
    write(tmp_path, "a", sizes=(1, 5, 10, 100), kept=(1, 100))
    write(tmp_path, "b", sizes=(1, 5, 10), kept=(1, 10))
    write(tmp_path, "c", sizes=(1,), kept=(1,))
    verdicts = found(tmp_path)["verdicts"]
    reasons = {
        "accuracy": "not tested: one shared seed, and no predictions per image at 10 networks: run again",
        "auroc": "not tested: one shared seed, and no entropies per image at 10 networks: run again",
    }
    for metric, reason in reasons.items():
        gap = line(verdicts, metric=metric, method="a", other="b")
        assert gap["members"] == 10 and gap["verdict"] == reason
        assert gap[["difference", "low", "high", "p", "p_holm"]].isna().all()
        lone = line(verdicts, metric=metric, method="a", other="c")
        assert lone["verdict"] == "not tested: no number of networks above one in common"
    text = to_markdown(verdicts)
    assert f"| a | b | 10 | {reasons['auroc']} | — | — | — | — | 1 | — |" in text


def test_methods_without_a_shared_seed_or_image_are_not_tested(tmp_path):
    write(tmp_path, "a", 0)
    write(tmp_path, "b", 1)
    write(tmp_path, "c", 0, labels=(LABELS + 1) % 3)
    write(tmp_path, "d", 0, labels=LABELS[:50])
    verdicts = found(tmp_path)["verdicts"]
    for metric in paired.COMPARED:
        words = {o: line(verdicts, metric=metric, method="a", other=o)["verdict"] for o in "bcd"}
        other = "not tested: one shared seed, and not the same images"
        assert words == {"b": "not tested: no shared seed", "c": other, "d": other}


def test_a_difference_that_does_not_vary_over_seeds_is_not_tested(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "a", seed, values=(0.9 + 0.01 * seed, 0.5))
        write(tmp_path, "b", seed, values=(0.8 + 0.01 * seed, 0.5))
    accuracy = line(found(tmp_path)["verdicts"], metric="accuracy")
    assert "the same on all 2 seeds" in accuracy["verdict"] and accuracy["over"] == ""


def test_distances_are_means_over_seeds_at_the_largest_stored_size(tmp_path):
    every = [write(tmp_path, "a", seed, sizes=(1, 10, 100), kept=(1, 10)) for seed in (0, 1)]
    table = found(tmp_path)["entropy-distances"]
    assert set(table.frame["members"]) == {10} and set(table.frame["dataset"]) == {"letters"}
    ks = line(table, metric="ks_distance")
    assert ks["mean"] == pytest.approx(np.mean([stats.ks_2samp(*pair).statistic for pair in every]))
    far = line(table, metric="wasserstein_nats")
    assert far["mean"] == pytest.approx(np.mean([stats.wasserstein_distance(*pair) for pair in every]))
    assert (ks["seeds"], far["seeds"]) == (2, 2)
    band = line(table, metric="dkw_half_width")
    assert band["mean"] == pytest.approx(dkw_half_width(OUTLIERS)) and math.isnan(band["sd"])


def test_runs_without_arrays_have_no_image_statistics(tmp_path):
    write(tmp_path, "a", kept=())
    write(tmp_path, "b", kept=())
    every = found(tmp_path)
    assert every["spread"].frame["image_sd"].isna().all()
    assert set(every["verdicts"].frame["p"].isna()) == {True}
    assert not len(every["entropy-distances"].frame)


def test_long_tables_are_collapsed(tmp_path):
    for method in "abcdefghij":
        write(tmp_path, method, kept=())
    table = found(tmp_path)["verdicts"]
    text = text_tables(table)[0]
    assert len(text.lines) == 45
    report.build(tmp_path)
    assert '<span class="found">45 lines; ' in (tmp_path / "report.html").read_text()
    assert text.block["metric"].startswith("accuracy")


def test_a_nan_entropy_is_a_gap(tmp_path):
    write(tmp_path, "a")
    path = tmp_path / "raw" / "a-quick-0.npz"
    with np.load(path) as kept:
        arrays = dict(kept)
    arrays["letters/10/entropy_nats"][3] = np.nan
    np.savez_compressed(path, **arrays)
    sealed(tmp_path, "a-quick-0")
    spread = found(tmp_path)["spread"]
    assert math.isnan(line(spread, metric="auroc", members=10)["image_sd"])
    assert not math.isnan(line(spread, metric="auroc", members=1)["image_sd"])


def test_tables_are_the_same_bytes_each_time(tmp_path):
    for method in "abc":
        write(tmp_path, method, wrong=ord(method) % 5)
    once, again = ([to_csv(t.frame) for t in found(tmp_path).values()] for _ in range(2))
    assert once == again
    assert pd.read_csv(pd.io.common.StringIO(once[1]))["p"].notna().all()


def bold(results, name):
    """By column of a table's only block, the methods whose numbers are bold."""
    rows = runs.read(results).newest()
    abouts = {run: store.read_about(results, run) for run in set(rows["run"])}
    material = Material(results, prepare(rows, abouts), abouts, rows)
    (text,) = next(table for table in all_tables(material) if table.name == name).texts
    columns = {heading: i for i, heading in enumerate(text.headings)}
    return {h: {line[0].text for line in text.lines if line[i].best} for h, i in columns.items()}


def test_bold_is_the_best_with_all_that_the_tests_do_not_tell_from_it(tmp_path):
    for method, wrong in (("a", 0), ("b", 1), ("c", 30)):
        write(tmp_path, method, wrong=wrong)
    assert bold(tmp_path, "accuracy")["10 networks"] == {"a", "b"}
    # Of single networks of one seed there is no test, though rows differ as much.
    assert bold(tmp_path, "accuracy")["1 network"] == set()


def test_nothing_is_bold_where_a_competing_method_was_not_measured_or_not_tested(tmp_path):
    write(tmp_path, "a", wrong=0)
    write(tmp_path, "c", wrong=30)
    assert bold(tmp_path, "accuracy")["10 networks"] == {"a"}
    write(tmp_path, "untested", wrong=31, kept=(1,))
    assert bold(tmp_path, "accuracy")["10 networks"] == set()
    write(tmp_path, "untested", wrong=31, kept=(1,), sizes=(1,))
    assert bold(tmp_path, "accuracy")["10 networks"] == set()


def test_tables_and_ledger_have_the_same_lines_of_verdicts(tmp_path):
    for method in ("a", "b"):
        write(tmp_path, method)
    rows = runs.read(tmp_path).newest()
    material = Material(tmp_path, prepare(rows, {}), {}, rows)
    assert paired.all_verdicts(material) is paired.all_verdicts(material)
    told = verdicts(material, material.rows)
    (line,) = told.values()
    assert list(told) == [("digits", "digits", 10, "a", "b")] and line.metric == "accuracy"
