"""The ledger: claims hold on matching rows, fail on others, and are not measured without rows."""

from __future__ import annotations

import pandas as pd
import pytest
from claim_rows import CASES, HG, OTHERS, SETS, accuracy, against, judged_on, over_seeds, row
from click.testing import CliRunner

from bench import report
from bench.cli.main import main
from bench.records import store
from bench.report import published
from bench.report.arrays import Images
from bench.report.claims import comparison, evidence, ledger
from bench.report.claims import paper as claims
from bench.report.claims.comparison import FAILS, HOLDS, PERCENT, UNDECIDED, UNKNOWN, Quantity, compare
from bench.report.rows import Material, prepare

PUBLISHED = "hypergan-published"
PAPER = published.read(published.ORIGINAL.parent)


def material(rows, tmp_path, order=None):
    """A report of these rows, without arrays."""
    frames = []
    for run in dict.fromkeys(r["run"] for r in rows):
        path = tmp_path / "rows.csv"
        path.write_text(store.to_csv(r for r in rows if r["run"] == run))
        frames.append(store.read_csv(path))
    found = pd.concat(frames, ignore_index=True)
    abouts = {run: {"order": (order or {}).get(run, 1)} for run in set(found["run"])}
    return Material(tmp_path, prepare(found, abouts), abouts, PAPER)


def lines(rows, tmp_path, name=None, order=None):
    """The ledger, or one claim's lines of it."""
    chosen = [claim for claim in claims.CLAIMS if name in (None, claim.name)]
    return ledger.ledger(material(rows, tmp_path, order), chosen)


def line(name, rows, tmp_path, order=None, judged=HG):
    """The line of a claim that judges one HyperGAN."""
    found = lines(rows, tmp_path, name, order)
    (only,) = found[found["judged_on"] == judged].to_dict("records")
    return only


def test_every_claim_has_a_name_a_place_and_a_case():
    names = [claim.name for claim in claims.CLAIMS]
    assert len(set(names)) == len(names) == 18 and list(CASES) == names
    for claim in claims.CLAIMS:
        assert claim.expected in (HOLDS, FAILS, UNDECIDED, claims.OPEN) and claim.reason
        assert claim.statement and claim.section and claim.test and claim.check.__doc__


@pytest.mark.parametrize("judged", published.JUDGED)
@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in CASES.items() for case in range(len(cases))]
)
def test_a_claim_holds_on_matching_rows_and_fails_if_one_changes(name, case, judged, tmp_path):
    pair = [over_seeds(judged_on(judged, rows)) for rows in CASES[name][case]]
    good, bad = (line(name, rows, tmp_path, judged=judged) for rows in pair)
    assert (good["verdict"], bad["verdict"]) == (HOLDS, FAILS), (good, bad)
    for found in (good, bad):
        evidence, _, _ = found["evidence"].partition(" Flagged")
        assert evidence.endswith("95 % intervals over 3 seeds.")
        assert found["seeds"] == "3" and found["command"] == ""
    assert good["evidence"] != bad["evidence"]
    # Rows of one HyperGAN are no evidence for the other.
    (other,) = set(published.JUDGED) - {judged}
    assert line(name, pair[0], tmp_path, judged=other)["verdict"] == UNKNOWN


def test_each_claim_is_judged_on_both_hypergans_the_published_one_first(tmp_path):
    good, bad = CASES["norms-vary-more"][0]
    rows = judged_on(PUBLISHED, bad) + [r for r in good if r["method"] == HG]
    found = lines(over_seeds(rows), tmp_path)
    names = [claim.name for claim in claims.CLAIMS]
    assert found["claim"].tolist() == [name for name in names for _ in range(2)]
    assert found["judged_on"].tolist() == [PUBLISHED, HG] * len(names)
    own = found[found["claim"] == "norms-vary-more"]
    assert own["verdict"].tolist() == [FAILS, FAILS]
    (claim,) = [c for c in claims.CLAIMS if c.name == "norms-vary-more"]
    assert own["expected"].tolist() == [claims.OPEN, claim.expected] and claim.expected != FAILS
    assert own["departs"].tolist() == ["no", "yes"]
    assert f"sd/mean {PUBLISHED} 0.200" in own["evidence"].iloc[0]
    (text,) = ledger.text_tables(found, ())
    assert text.headings[2] == "judged on"
    assert [shown[2].text for shown in text.lines] == found["judged_on"].tolist()
    assert set(found.loc[found["judged_on"] == PUBLISHED, "expected"]) == {claims.OPEN}


def test_a_claim_on_attacks_names_those_that_are_flagged(tmp_path):
    rows = CASES["small-perturbations"][0][0]
    where = {"evaluation": "attack", "variant": "same", "attack": "fgsm", "epsilon": 0.01, "examples": 10}
    where |= {"members": 100, "crafted_members": 100}
    still = row("unmoved_share", 0.5, "hypergan", "mnist-attack", **where)
    found = line("small-perturbations", over_seeds([*rows, still]), tmp_path)
    assert found["verdict"] == HOLDS
    text = "Flagged † on mnist-attack: fgsm at 0.01/0.1 on 100 of hypergan (no-gradient, weak)"
    assert text in found["evidence"]


@pytest.mark.parametrize("name", ["adversarial-entropy", "one-to-many", "fgsm-transfers"])
def test_claims_by_the_papers_rule_are_not_measured_on_rows_without_pgd_that_stops(name, tmp_path):
    rows = [r for r in CASES[name][0][0] if r["attack"] != "pgd-stop"]
    found = line(name, rows, tmp_path)
    assert found["verdict"] == UNKNOWN and found["departs"] == "no"
    # The cells are finished: only with --stale they run again.
    assert found["command"].startswith("bench run --method hypergan")
    assert found["command"].endswith("--task mnist-attack --preset quick --stale")
    # Of FGSM alone the numbers are told, where they say something.
    assert ("So far" in found["evidence"]) == (name != "fgsm-transfers")


@pytest.mark.parametrize("name", CASES)
def test_a_claim_with_missing_rows_names_them_and_does_not_depart(name, tmp_path):
    found = line(name, [row("accuracy", 0.5, "none", "digits")], tmp_path)
    (claim,) = [c for c in claims.CLAIMS if c.name == name]
    assert found["verdict"] == UNKNOWN and found["departs"] == "no"
    assert found["evidence"] == f"Needs {claim.test}." and found["seeds"] == ""
    assert found["command"].startswith("bench run --method ") and "hypergan" in found["command"]
    assert "--preset quick" in found["command"] and PUBLISHED not in found["command"]
    other = line(name, [row("accuracy", 0.5, "none", "digits")], tmp_path, judged=PUBLISHED)
    own = found["command"].split()[3].split(",")
    assert other["command"].split()[3].split(",") == [m.replace(HG, PUBLISHED) for m in own]


def test_the_same_checks_are_applied_to_the_paper_s_own_tables(tmp_path):
    found = lines([row("accuracy", 0.5, "none", "digits")], tmp_path)
    ours = found["judged_on"] == HG
    assert set(found.loc[ours, "paper_numbers"]) == {""}
    found = found[~ours]
    own = {k: v for k, v in zip(found["claim"], found["paper_numbers"], strict=True) if v}
    # MNIST: MC dropout above APD, 98.73 and 98.61; with 5,000 examples below, 95.58 and 96.35.
    assert own == {
        "rises-with-size": "holds", "most-accurate": "holds", "single-networks": "holds",
        "norms-vary-more": "holds", "order-stays": "does not hold",
    }  # fmt: skip


def ahead(differences):
    """HyperGAN ahead of the others on every set, by these differences per seed."""
    place = [(m, t, s, d) for t in SETS for m in (HG, *OTHERS) for s, d in enumerate(differences)]
    return [accuracy(m, t, 100, 0.9 + d * (m == HG), seed=s) for m, t, s, d in place]


def test_with_several_seeds_the_interval_decides_not_the_mean(tmp_path):
    near = line("most-accurate", ahead((0.010, 0.011, 0.012)), tmp_path)
    far = line("most-accurate", ahead((0.010, 0.030, -0.004)), tmp_path)
    behind = line("most-accurate", ahead((-0.010, -0.011, -0.012)), tmp_path)
    assert (near["verdict"], far["verdict"], behind["verdict"]) == (HOLDS, UNDECIDED, FAILS)
    # Mean 1.10, sd 0.1, t(2) = 4.3027: half-width 4.3027 * 0.1 / sqrt(3) = 0.248.
    assert "hypergan 91.10 % > apd 90.00 % (difference 1.10 [0.85, 1.35])" in near["evidence"]
    assert near["evidence"].endswith("95 % intervals over 3 seeds.") and near["seeds"] == "3"
    # sd 1.71: the table's p is adjusted for its six pairs, of which three are like this one. For a
    # half-width below 1.20, t(k-1) * 1.71 / sqrt(k), ten seeds are too few and eleven enough.
    text = "hypergan 91.20 % >? apd 90.00 % (undecided: 1.20 [-3.04, 5.44] over 3 seeds, p 1 (Holm)"
    assert f"{text}; about 11 seeds needed)" in far["evidence"]
    assert far["command"].endswith(" --preset quick --seed 0-10")
    assert "hypergan 88.90 % ≯ apd 90.00 % (difference -1.10 [-1.35, -0.85])" in behind["evidence"]


def test_seeds_are_paired(tmp_path):
    values = ((1, 0, 0.1), (1, 1, 0.9), (5, 0, 0.101), (5, 1, 0.901))
    rows = [accuracy(HG, "mnist", n, value, seed=seed) for n, seed, value in values]
    asked = evidence.Rows(material(rows, tmp_path).rows, {}, Images(tmp_path))
    one, five = (asked.accuracy(HG, "mnist", n) for n in (1, 5))
    found = compare("mnist", ("five", "one"), [(five, one)], PERCENT)
    assert found.verdict == HOLDS and found.seeds == 2
    apart = Quantity(five.values.iloc[:1]), Quantity(one.values.iloc[1:])
    assert compare("mnist", ("five", "one"), [apart], PERCENT).verdict == UNKNOWN


def test_a_margin_is_respected_and_the_weakest_comparison_is_shown():
    a, b = (Quantity(pd.Series(values)) for values in ([0.5, 0.504, 0.508], [0.5, 0.5, 0.5]))
    # sd 0.004, half-width 4.3027 * 0.004 / sqrt(3) = 0.00994: the mean of 0.004 reaches to 0.0139.
    found = compare("p", ("a", "b"), [(b, b), (a, b)], PERCENT, "≈", 0.015)
    assert found.verdict == HOLDS
    assert found.text == "a 50.00/50.40 % ≈ b 50.00/50.00 % (weakest difference 0.40 [-0.59, 1.39])"
    # A half-width below 0.006, from the mean to the margin: 0.0064 with four seeds, 0.0050 with five.
    found = compare("p", ("a", "b"), [(b, b), (a, b)], PERCENT, "≈", 0.01)
    assert found.verdict == UNDECIDED and found.wanted == 5
    assert found.text.endswith("(undecided: 0.40 [-0.59, 1.39] over 3 seeds; about 5 seeds needed)")
    far = Quantity(pd.Series([0.55, 0.551, 0.552]))
    found = compare("p", ("a", "b"), [(b, b), (far, b)], PERCENT, "≈", 0.01)
    assert found.verdict == FAILS and "50.00/55.10 % ≉ b" in found.text
    assert "(weakest difference 5.10 [4.85, 5.35])" in found.text


def test_one_counterexample_decides_but_holding_needs_every_row(tmp_path):
    some = [r for r in against((0.9, 0.8, 0.7, 0.6)) if (r["method"], r["task"]) != ("mnf", "cifar5")]
    found = line("most-accurate", over_seeds(some), tmp_path)
    assert found["verdict"] == UNKNOWN
    assert found["evidence"].startswith(
        "So far mnist: hypergan 90.00 % > apd 80.00 % (difference 10.00 [10.00, 10.00]), hypergan 90.00 % >"
    )
    assert found["evidence"].endswith("Not measured: cifar5 (mnf).")
    assert found["command"] == "bench run --method mnf --task cifar5 --preset quick"
    few = over_seeds(against((0.9, 0.95, 0.7, 0.6), ("mnist",)))
    assert line("most-accurate", few, tmp_path)["verdict"] == FAILS


def test_only_unexpected_verdicts_depart_and_smoke_expects_nothing(tmp_path):
    failing = over_seeds(CASES["norms-vary-more"][0][1])
    assert line("norms-vary-more", failing, tmp_path)["departs"] == "yes"
    found = line("norms-vary-more", [r | {"preset": "smoke"} for r in failing], tmp_path)
    assert (found["verdict"], found["expected"], found["departs"]) == (FAILS, claims.OPEN, "no")
    for verdict in (FAILS, UNDECIDED):
        for expected in (claims.OPEN, FAILS, UNDECIDED, HOLDS):
            check = [comparison.Finding("place", verdict, "text", 1)]
            own = lambda rows, judged, found=check: found  # noqa: E731
            claim = claims.Claim("name", "words", "1", "test", own, expected, "because")
            found = ledger.ledger(material(failing, tmp_path), [claim])
            departs = expected not in (claims.OPEN, verdict)
            assert found["departs"].tolist() == ["no", "yes" if departs else "no"]
            assert found["reason"].tolist() == ["", "because"]


def test_presets_and_devices_are_not_mixed(tmp_path):
    good = over_seeds(CASES["most-accurate"][0][0])
    apart = [r | {"preset": "paper" if r["method"] == HG else "quick"} for r in good]
    found = lines(apart, tmp_path, "most-accurate")
    assert found["preset"].tolist() == ["paper"] * 2 + ["quick"] * 2 and set(found["verdict"]) == {UNKNOWN}
    apart = [r | {"device": "cuda" if r["method"] == HG else "cpu"} for r in good]
    assert set(lines(apart, tmp_path, "most-accurate")["verdict"]) == {UNKNOWN}


def test_cpu_memory_is_not_evidence_for_the_gpu_claim(tmp_path):
    rows = [r | {"device": "cpu"} for r in CASES["gpu-memory"][0][0]]
    found = line("gpu-memory", rows, tmp_path)
    assert found["verdict"] == UNKNOWN
    assert found["command"] == "bench run --method hypergan --task mnist,cifar10 --preset quick --device cuda"


def test_the_configuration_with_most_seeds_is_used_then_the_newest(tmp_path):
    many = [accuracy(HG, "mnist", 1, 0.99, seed=s, examples=10_000) for s in (0, 1)]
    other = [accuracy(HG, "mnist", 1, 0.5, config="d", run="other", examples=10_000)]
    assert line("single-networks", many + other, tmp_path)["verdict"] == HOLDS
    for newer, verdict in (("other", FAILS), (many[0]["run"], HOLDS)):
        found = line("single-networks", many[:1] + other, tmp_path, {newer: 2})
        assert found["verdict"] == verdict


def test_of_configurations_with_equal_seeds_the_one_on_more_tasks_is_used(tmp_path):
    wide = [accuracy(HG, task, 1, 0.99, examples=10_000) for task in ("mnist", "notmnist")]
    other = [accuracy(HG, "mnist", 1, 0.5, config="d", run="other", examples=10_000)]
    found = line("single-networks", wide + other, tmp_path, {"other": 2})
    assert found["verdict"] == HOLDS


def test_only_one_copy_of_a_data_set_is_compared(tmp_path):
    rows = [r | {"dataset": "copy", "run": f"copy-{r['run']}"} for r in against((0.9, 0.8, 0.7, 0.6))]
    rows.append(accuracy(HG, "mnist", 100, 0.1, dataset="mnist"))
    assert line("most-accurate", over_seeds(rows), tmp_path)["verdict"] == HOLDS


def test_outliers_are_compared_at_the_largest_size_that_both_have(tmp_path):
    found = line("entropy-notmnist", over_seeds(CASES["entropy-notmnist"][0][0]), tmp_path)
    assert "100 of hypergan 0.550/0.800/1.050 nats > apd 0.250/0.500/0.750 nats" in found["evidence"]
    assert "10 of hypergan 0.550/0.800/1.050 nats > standard_ensemble 0.250" in found["evidence"]


def test_diversity_claims_use_all_traced_tasks(tmp_path):
    (good, _), (_, bad) = CASES["diversity-falls"]
    found = line("diversity-falls", over_seeds(good + bad), tmp_path)
    assert found["verdict"] == FAILS
    assert "cifar10: sd/mean last 0.200 < first 0.400 (difference -0.200" in found["evidence"]
    assert "mnist: sd/mean last 0.210 ≮ first 0.200" in found["evidence"]
    once = [r for r in good if r["epoch"] == 5]
    assert line("diversity-falls", once, tmp_path)["verdict"] == UNKNOWN


@pytest.mark.parametrize("departing", [False, True])
def test_the_command_line_names_departures_and_exits_with_1(departing, tmp_path):
    rows = over_seeds([r | {"run": "run"} for r in CASES["single-networks"][0][departing]])
    for run in dict.fromkeys(r["run"] for r in rows):
        own = [r for r in rows if r["run"] == run]
        store.write_run(tmp_path, run, own, {}, {"cell": run, "created": "2025-01-01"})
    done = CliRunner().invoke(main, ["report", "--results", str(tmp_path), "--check"], catch_exceptions=False)
    assert done.exit_code == departing
    said = [text for text in done.output.splitlines() if text.startswith("departs: ")]
    assert said == [f"departs: {text}" for text in report.departures(tmp_path)]
    (claim,) = [c for c in claims.CLAIMS if c.name == "single-networks"]
    start = f"departs: {claim.name} · hypergan · quick · cpu: does not hold, expected: holds, {claim.reason}"
    assert [text.startswith(start) for text in said] == [True] * departing
    assert ("| **does not hold** | holds |" in (tmp_path / "tables" / "claims.md").read_text()) == departing
    page = (tmp_path / "report.html").read_text()
    assert ("1 of the verdicts depart from what is expected." in page) == departing
    assert "18 claims about hypergan-published" in page and "claims about hypergan, over all tasks: " in page
    assert len(pd.read_csv(tmp_path / "tables" / "claims.csv")) == 2 * len(claims.CLAIMS)
    if departing:
        plain = CliRunner().invoke(main, ["report", "--results", str(tmp_path)], catch_exceptions=False)
        assert plain.exit_code == 0 and "departs" not in plain.output
