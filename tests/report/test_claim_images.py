"""With one seed the images decide about a claim, by the same tests as in the table of paired verdicts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from claim_rows import HG, OTHERS, SE, accuracy, norms, outliers, row, toy

from bench.records import runs, store
from bench.report import published
from bench.report.arrays import Images
from bench.report.claims import checks
from bench.report.claims.comparison import (
    FAILS,
    HOLDS,
    PERCENT,
    UNDECIDED,
    Quantity,
    compare,
    difference,
    exact,
)
from bench.report.claims.evidence import Rows, verdicts
from bench.report.paired import TIE
from bench.report.rows import Material, prepare
from bench.report.sections import comparisons
from bench.report.uncertainty import mcnemar, quantile_interval, share_interval

IMAGES = 10_000
LABELS = np.arange(IMAGES, dtype="i2") % 10


def answers(wrong):
    """Predictions that are wrong on these images."""
    return np.where(np.isin(np.arange(IMAGES), wrong), (LABELS + 1) % 10, LABELS).astype("u1")


def built(tmp_path, written):
    """A report's material from (rows, arrays) of each run."""
    for rows, arrays in written:
        run = rows[0]["run"]
        store.write_run(tmp_path, run, rows, arrays, {"cell": run, "created": "2025", "failure": None})
    found = runs.read(tmp_path)
    abouts = {name: run.about for name, run in found.runs.items()}
    return Material(
        tmp_path, prepare(found.newest(), abouts), abouts, published.read(published.ORIGINAL.parent)
    )


def asked(material):
    told = verdicts(material, material.rows)
    return Rows(material.rows, {}, Images(material.results), told)


def sized(tmp_path, wrong, members=(5, 10, 100)):
    """HyperGAN on MNIST; wrong: by size, the misclassified images. The single networks are as 5 are."""
    rows, arrays = [], {"mnist/label": LABELS}
    for n in members:
        rows.append(accuracy(HG, "mnist", n, 1 - len(wrong[n]) / IMAGES, dataset="mnist", examples=IMAGES))
        arrays[f"mnist/{n}/prediction"] = answers(wrong[n])
    share = np.where(np.isin(np.arange(IMAGES), range(300)), 0.5, 1.0)
    rows.append(accuracy(HG, "mnist", 1, float(share.mean()), dataset="mnist", examples=IMAGES))
    arrays["mnist/1/right_share"] = share.astype("f4")
    return asked(built(tmp_path, [(rows, arrays)]))


def test_two_images_of_ten_thousand_decide_nothing(tmp_path):
    # 99.00, 98.98 and 99.20 %: two other images, then 22 images fewer.
    rows = sized(tmp_path, {5: range(100), 10: range(102), 100: range(80)})
    (found, *_) = checks.rises(rows, HG)
    assert found.verdict == UNDECIDED
    assert "99.00/98.98/99.20 % >? 1/5/10 networks 98.50/99.00/98.98 %" in found.text
    # Of ten and five only one pair of images differs: p = 2 / 2^2, times the comparisons of the claim.
    assert "undecided: -0.02 [-0.02, 0.01] over 10,000 images, p 1 (Holm); about " in found.text
    assert found.over == ("images",) and found.seeds == 1


def test_steps_of_a_hundred_images_decide_and_single_networks_are_paired_too(tmp_path):
    rows = sized(tmp_path, {5: range(120), 10: range(80), 100: range(40)})
    (found, *_) = checks.rises(rows, HG)
    assert found.verdict == HOLDS, found.text
    rows = sized(tmp_path, {5: range(120), 10: range(160), 100: range(40)})
    (found, *_) = checks.rises(rows, HG)
    assert found.verdict == FAILS, found.text
    assert "≯" in found.text and "[-0.40, -0.33] over 10,000 images)" in found.text


def test_a_run_without_predictions_leaves_the_claim_undecided_and_says_so(tmp_path):
    rows = [accuracy(HG, "mnist", n, 0.9 + n / 10_000, dataset="mnist", examples=IMAGES) for n in (1, 5)]
    own = asked(built(tmp_path, [(rows, {"mnist/label": LABELS})]))
    one, five = (own.accuracy(HG, "mnist", n) for n in (1, 5))
    found = compare("mnist", ("5", "1"), [(five, one)], PERCENT, test=own.test)
    assert found.verdict == UNDECIDED
    assert "(undecided: one seed, and no predictions per image at 5 networks: run again)" in found.text


def others(tmp_path, wrong):
    """HyperGAN and the others on MNIST with 100 networks; wrong: misclassified images by method."""
    runs = []
    for method, images in wrong.items():
        value = 1 - len(images) / IMAGES
        rows = [accuracy(method, "mnist", 100, value, dataset="mnist", examples=IMAGES)]
        runs.append((rows, {"mnist/label": LABELS, "mnist/100/prediction": answers(images)}))
    return built(tmp_path, runs)


def test_the_ledger_and_the_table_of_pairs_judge_the_same_way(tmp_path):
    # Against apd 11 to 0 images: p = 2 / 2^11 < 0.001, Holm times 6 still below 0.05. Against mnf 6 to 0:
    # p = 0.03 alone, but a tie among six pairs.
    wrong = {HG: range(100), "apd": range(111), "mnf": range(106), "mc_dropout": range(300)}
    material = others(tmp_path, wrong)
    verdicts = {t.name: t for t in comparisons.tables(material)}["verdicts"].frame
    told = {}
    for line in verdicts[(verdicts[["method", "other"]] == HG).any(axis=1)].itertuples():
        told[line.method if line.other == HG else line.other] = line
    found = checks.most_accurate(asked(material), HG)[: len(OTHERS)]
    for other, finding in zip(OTHERS, found, strict=True):
        tie = told[other].verdict == TIE
        assert finding.verdict == (UNDECIDED if tie else HOLDS)
        assert tie == (other == "mnf")
        if tie:
            assert f"p {told[other].p_holm:.2g} (Holm)" in finding.text
    alone = mcnemar(answers(wrong[HG]) == LABELS, answers(wrong["mnf"]) == LABELS)
    assert alone.p < 0.05 < told["mnf"].p_holm


def test_a_share_is_judged_by_its_interval_over_images(tmp_path):
    for value, verdict in ((0.99, HOLDS), (0.981, UNDECIDED), (0.979, UNDECIDED), (0.97, FAILS)):
        rows = [accuracy(HG, "mnist", 1, value, dataset="mnist", examples=IMAGES)]
        (found,) = checks.singles(asked(built(tmp_path, [(rows, {})])), HG)
        assert found.verdict == verdict, found.text
        low, high = share_interval(value, IMAGES)
        assert f"[{100 * low - 98:.2f}, {100 * high - 98:.2f}] over 10,000 images" in found.text


def test_quantiles_of_entropy_are_judged_by_the_entropies_per_image(tmp_path):
    rng = np.random.default_rng(0)
    runs, kept = [], {}
    for method, shift in ((HG, 0.5), (SE, 0.0), ("apd", 0.501)):
        values = (rng.permutation(IMAGES) / IMAGES + shift).astype("f4")
        rows = outliers(method, "notmnist", 10, 0)
        for r in rows:
            if r["metric"] == "entropy_nats":
                r["value"] = float(np.quantile(values, r["quantile"]))
        runs.append((rows, {"out/10/entropy_nats": values}))
        kept[method] = values
    own = asked(built(tmp_path, runs))
    found = {other: checks._outlying(own, "notmnist", HG, other, ">") for other in (SE, "apd")}
    assert (found[SE].verdict, found["apd"].verdict) == (HOLDS, UNDECIDED)
    low, high = quantile_interval(kept[HG], 0.25)
    against = quantile_interval(kept[SE], 0.25)
    quantity = own.quantile(HG, "notmnist", "entropy_nats", 0.25, members=10, dataset="out")
    assert (quantity.low, quantity.high, quantity.count) == (low, high, IMAGES)
    assert low - against[1] > 0.4
    without = asked(built(tmp_path, [(rows, {}) for rows, _ in runs]))
    lacking = checks._outlying(without, "notmnist", HG, SE, ">")
    assert lacking.verdict == UNDECIDED
    assert "one seed, and no entropy_nats per image at 10 networks: run again" in lacking.text


@pytest.mark.parametrize(("ratio", "verdict"), [(0.05, HOLDS), (0.19, UNDECIDED), (0.6, FAILS)])
def test_a_spread_over_networks_is_judged_by_its_networks(ratio, verdict, tmp_path):
    rows = norms(HG, "mnist", {"conv1": 0.2}), norms("apd", "mnist", {"conv1": ratio})
    own = asked(built(tmp_path, [(part, {}) for part in rows]))
    found = checks._norms(own, "mnist", HG, "apd", ">")
    assert found.verdict == verdict and "over 10 networks" in found.text


def test_one_seed_without_images_or_networks_decides_nothing(tmp_path):
    found = checks.toy(asked(built(tmp_path, [(toy(1, 2), {})])), HG)
    assert [f.verdict for f in found] == [UNDECIDED] * 2
    assert "one seed and no interval over images; two seeds or more would have one" in found[0].text


def test_attacked_images_are_few_and_their_intervals_wide(tmp_path):
    def share(value, examples):
        where = {"evaluation": "attack", "variant": "same", "success": "fused", "members": 100}
        where |= {"crafted_members": 100, "epsilon": 0.01, "examples": examples}
        return [row("success_rate", value, HG, "mnist-attack", attack=a, **where) for a in ("fgsm", "pgd")]

    # None of 16 images: up to 1 - 0.025^(1/16) = 20.6 % may be fooled; of 100, 3.6 %.
    for examples, verdict in ((16, UNDECIDED), (100, HOLDS)):
        found = checks.small_perturbations(asked(built(tmp_path, [(share(0.0, examples), {})])), HG)
        assert [f.verdict for f in found] == [verdict] * 2
    assert share_interval(0, 16)[1] == pytest.approx(1 - 0.025 ** (1 / 16))


def test_exact_values_need_no_seeds_and_no_images():
    for value, verdict in ((1.4, HOLDS), (1.6, FAILS), (1.5, FAILS)):
        found = compare("mnist", ("", ""), [(exact(pd.Series([value])), 1.5)], PERCENT, "<")
        assert found.verdict == verdict and "[" not in found.text


def test_distances_from_the_ends_add_in_squares():
    left = Quantity(pd.Series([0.5]), 0.47, 0.54, "images", 100)
    right = Quantity(pd.Series([0.4]), 0.36, 0.43, "images", 50)
    found = difference(left, right)
    assert (found.low, found.high) == pytest.approx(
        (0.1 - math.hypot(0.03, 0.03), 0.1 + math.hypot(0.04, 0.04))
    )
    assert (found.over, found.n) == ("images", 50)
    two = Quantity(pd.Series([0.4, 0.4]))
    assert difference(left, two).lack == "one shared seed; run the same seeds of both"


def test_how_many_images_would_decide():
    # Half-width 0.02 on 100 images, difference 0.01: four times as many for equality.
    left = Quantity(pd.Series([0.51]), 0.49, 0.53, "images", 100)
    found = compare("p", ("a", ""), [(left, 0.5)], PERCENT)
    assert found.verdict == UNDECIDED and "about 400 images needed, or further seeds" in found.text
    equal = Quantity(pd.Series([0.5]), 0.48, 0.52, "images", 100)
    found = compare("p", ("a", ""), [(equal, 0.5)], PERCENT)
    assert "no number of images in reach would do, further seeds may" in found.text
    assert math.isinf(Quantity(pd.Series([1.0]), 0, math.inf).times(2).high)
