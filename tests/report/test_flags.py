"""Every flag is raised for its fault and only then; flagged attacks are marked."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.records import schema
from bench.report import flags
from bench.report.layout.tables import MARK
from bench.report.output.markdown import to_markdown
from bench.report.rows import Material, prepare
from bench.report.sections import defence

SOUND = {
    ("fgsm", 0.1): 0.5, ("fgsm", 0.3): 0.7, ("pgd", 0.1): 0.6, ("pgd", 0.3): 1.0, ("square", 0.1): 0.2,
    ("square", 0.3): 0.4, ("noise", 0.1): 0.0, ("noise", 0.3): 0.02,
}  # fmt: skip
EXAMPLES = 100


def frame(own, more=(), seed=0, method="m", size=5):
    """Rows of a run: success on attacked networks by attack and epsilon, slightly less on fresh ones."""
    rows = list(more)
    for (attack, epsilon), success in own.items():
        oblivious = attack in ("fgsm", "pgd", "pgd-stop")
        evaluation, tested = ("attack", "fresh") if oblivious else ("adaptive", "adaptive")
        common = {"evaluation": evaluation, "dataset": "d", "attack": attack, "epsilon": epsilon}
        common |= {"members": size, "crafted_members": size, "examples": EXAMPLES}
        for variant, value in (("same", success), (tested, 0.9 * success)):
            there = common | {"variant": variant}
            rows.append(schema.row("success_rate", value, success="fused", **there))
            rows.append(schema.row("auroc", 0.5 + value / 2, success="all", **there))
    place = {"run": f"{method}-{seed}", "method": method, "task": "t", "train": "t", "preset": "quick"}
    place |= {"seed": seed, "config": "c", "device": "cpu"}
    rows = [dict.fromkeys(schema.COLUMNS, "") | r | place for r in rows]
    columns = pd.DataFrame(rows, columns=schema.COLUMNS)
    numbers = [*schema.INTEGERS, *schema.FLOATS]
    return columns.assign(**{c: pd.to_numeric(columns[c], errors="coerce") for c in numbers})


def defence_tables(rows):
    """The tables of the section on prepared rows."""
    return defence.tables(Material(Path(), rows, {}, pd.DataFrame()))


def fired(*frames):
    found = flags.find(pd.concat(frames, ignore_index=True))
    return {(r.attack, r.epsilon, r.flag) for r in found.itertuples()}


def other(metric, value, attack="pgd", epsilon=0.3):
    where = {"evaluation": "attack", "dataset": "d", "attack": attack, "epsilon": epsilon, "variant": "same"}
    return schema.row(metric, value, members=5, crafted_members=5, examples=EXAMPLES, **where)


def test_strong_attacks_have_no_flag():
    assert fired(frame(SOUND, [other("unmoved_share", 0.0), other("late_gain", 0.05)])) == set()


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({("pgd", 0.1): 0.1}, ("pgd", 0.1, "below-black-box")),  # Square fools 0.2
        ({("fgsm", 0.1): 0.45, ("fgsm", 0.3): 0.48}, ("fgsm", 0.3, "weak")),
        ({("pgd", 0.3): 0.55}, ("pgd", 0.3, "falls-with-epsilon")),
    ],
)
def test_an_attack_that_is_too_weak_is_flagged(changes, flag):
    assert fired(frame(SOUND | changes)) == {flag}


def test_missing_gradients_and_a_small_step_budget_are_flagged():
    planted = [other("unmoved_share", 0.01), other("late_gain", 0.06)]
    assert fired(frame(SOUND, planted)) == {("pgd", 0.3, "no-gradient"), ("pgd", 0.3, "not-converged")}


def test_a_difference_of_one_image_raises_no_flag():
    assert fired(frame(SOUND | {("pgd", 0.1): 0.19})) == set()
    assert fired(frame(SOUND | {("pgd", 0.3): 0.59})) == set()


def test_square_and_noise_are_never_flagged():
    assert fired(frame(SOUND | {("square", 0.3): 0.0, ("noise", 0.1): 0.3, ("noise", 0.3): 0.0})) == set()


def test_pgd_that_stops_has_the_flags_of_pgd_at_the_same_epsilon_and_none_of_its_own():
    # Stopped early it may fool less often, also than Square, and less at a larger epsilon.
    stopped = {("pgd-stop", 0.1): 0.15, ("pgd-stop", 0.3): 0.1}
    assert fired(frame(SOUND | stopped, [other("unmoved_share", 0.1, "pgd-stop")])) == set()
    rows = frame(SOUND | stopped | {("pgd", 0.1): 0.1})
    assert fired(rows) == {(attack, 0.1, "below-black-box") for attack in ("pgd", "pgd-stop")}
    assert flags.find(rows)["evidence"].tolist() == ["10%, square 20%", "pgd: 10%, square 20%"]
    weak = {("pgd", 0.1): 0.3, ("pgd", 0.3): 0.45, ("pgd-stop", 0.1): 0.3}
    assert fired(frame(SOUND | weak)) == {("pgd", 0.3, "weak")}


def test_pgd_that_stops_is_no_measure_of_a_defence():
    rows = prepare(frame(SOUND | {("pgd-stop", 0.1): 0.6, ("pgd-stop", 0.3): 1.0}), {})
    for table in defence_tables(rows):
        assert "pgd-stop" not in set(table.frame.get("attack", ()))


def test_a_flag_states_its_number_of_seeds():
    weak = SOUND | {("pgd", 0.1): 0.1}
    rows = pd.concat([frame(SOUND, seed=0), frame(weak, seed=1), frame(SOUND, seed=2)])
    (line,) = flags.find(rows).itertuples()
    assert (line.fired, line.seeds, line.evidence) == (1, 3, "10%, square 20%")


def test_numbers_of_flagged_attacks_are_marked_everywhere():
    rows = prepare(frame(SOUND | {("pgd", 0.1): 0.1}), {})
    found = {t.name: to_markdown(t) for t in defence_tables(rows) if len(t.frame)}
    lines = [line for line in found["adaptive-attacks"].splitlines() if line.startswith("| 0.1 | 5 |")]
    marks = {line.split("|")[3].strip(): line.count(MARK.strip()) for line in lines}
    assert marks["pgd"] > 0 and sum(marks.values()) == marks["pgd"]
    matrix = [line for line in found["resampling"].splitlines() if MARK.strip() in line]
    assert {tuple(c.strip() for c in line.split("|")[1:4]) for line in matrix if "| pgd" in line} == {
        ("pgd", "0.1", "m")
    }
    assert "| m | 5 | pgd | 0.1 | below-black-box |" in found["flags"]


def test_the_matrix_has_an_interval_over_images_or_over_seeds():
    one = prepare(frame(SOUND), {})
    (table,) = [t for t in defence_tables(one) if t.name == "resampling"]
    text = to_markdown(table)
    # Wilson's interval of 54 of 100.
    assert "54.0 [44.3, 63.4]" in text
    several = prepare(pd.concat([frame(SOUND, seed=0), frame(SOUND | {("pgd", 0.1): 0.8}, seed=1)]), {})
    (table,) = [t for t in defence_tables(several) if t.name == "resampling"]
    assert "63.0 [0.0, 100.0]" in to_markdown(table)  # t-interval of 54 and 72, clipped to [0, 100]


@pytest.mark.parametrize(("value", "fires"), [(1e-6, False), (0.02, True), (float("nan"), True)])
def test_networks_that_depend_on_the_batch_are_flagged(value, fires):
    where = {"evaluation": "canary", "variant": "canary", "members": 5, "dataset": "d", "examples": 9}
    rows = prepare(frame(SOUND, [schema.row("batch_dependence", value, **where)]), {})
    found = flags.find(rows)
    assert list(found["flag"]) == ["batch-dependent"] * fires
    texts = {table.name: to_markdown(table) for table in defence_tables(rows)}
    assert ("batch-dependent | changed by up to" in texts["flags"]) == fires
    assert MARK not in texts["adaptive-attacks"].split("|", 1)[1]  # flags of attacks are marked, this is none


def test_canaries_have_a_table():
    where = {"evaluation": "ood", "variant": "canary", "members": 5, "dataset": "d", "examples": 9}
    planted = [schema.row("auroc", 0.5, **where), schema.row("shared_images", 0, **where)]
    rows = prepare(frame({}, planted), {})
    (table,) = [t for t in defence_tables(rows) if t.name == "canaries"]
    assert "| m | 5 | 0.5000 | 1 |" in to_markdown(table)


def test_canaries_of_the_data_have_a_table_with_doubts_marked():
    where = {"evaluation": "data", "dataset": "d", "examples": 9}
    earlier = schema.row("shared_images", 0, evaluation="ood", variant="canary", dataset="out", members=5)
    planted = [
        schema.row("near_duplicates", 3, variant="doubt", **where),
        schema.row("label_agreement", 0.848, variant="canary", **where),
        earlier,
    ]
    rows = prepare(frame({}, planted), {})
    (table,) = [t for t in defence_tables(rows) if t.name == "data-canaries"]
    text = to_markdown(table)
    gaps = " — |"
    assert f"| d |{gaps} 3 † |{2 * gaps} 84.8 |{7 * gaps}" in text
    assert f"| out | 0 |{11 * gaps}" in text
    twice = pd.concat([frame({}, planted), frame({}, planted[1:2], seed=1).assign(value=0.5)])
    (table,) = [t for t in defence_tables(prepare(twice, {})) if t.name == "data-canaries"]
    assert "| 50.0 to 84.8 |" in to_markdown(table)


def mixture(values):
    """Rows of success of the mean probability, by attack and epsilon."""
    own = frame(values)
    return own[own["metric"] == "success_rate"].assign(success="mixture")


def test_an_apgd_weaker_than_pgd_is_flagged_in_the_sense_it_attacks():
    apgd = {("apgd-ce", 0.1): 0.5, ("apgd-margin", 0.1): 0.58}
    # By mean logits PGD has 0.6: apgd-ce does not attack these, apgd-margin does.
    assert fired(frame(SOUND | apgd), mixture({("pgd", 0.1): 0.4} | apgd)) == {
        ("apgd-margin", 0.1, "below-pgd")
    }
    assert fired(frame(SOUND | apgd), mixture({("pgd", 0.1): 0.6, ("apgd-ce", 0.1): 0.5})) == {
        ("apgd-ce", 0.1, "below-pgd"), ("apgd-margin", 0.1, "below-pgd")
    }  # fmt: skip
    # One image of a hundred is no difference.
    near = {("apgd-ce", 0.1): 0.59, ("apgd-margin", 0.1): 0.59}
    assert fired(frame(SOUND | near), mixture({("pgd", 0.1): 0.6} | near)) == set()
    square = {("square-mixture", 0.1): 0.5, ("apgd-ce", 0.1): 0.4}
    assert fired(frame(SOUND | square), mixture(square)) == {("apgd-ce", 0.1, "below-black-box")}


def test_an_attack_at_a_smaller_epsilon_than_others_is_not_weak():
    small = {("apgd-ce", 0.1): 0.3, ("apgd-t", 0.1): 0.3}
    assert fired(frame(SOUND | small), mixture(small)) == set()
    alone = {("apgd-ce", 0.1): 0.3}
    assert fired(frame(alone), mixture(alone)) == {("apgd-ce", 0.1, "weak")}
