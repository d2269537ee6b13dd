"""The checks of the ledger's claims: each computes its findings from rows of one preset and device.

HyperGAN is the method `judged`: as published, or at its best. Its ablations are named after it.
Besides the schema (`bench.records.schema`), they rely on these rows of attacks and regression.
Attacks: evaluation `attack`, on task `mnist-attack`; `entropy_nats` (variant
`fresh`, success `fused`), `success_rate` (variant `same`, success `fused`), `fooled_share` (variant
`one-to-many`, crafted_members 1, success `fused` or empty), each by attack, epsilon, crafted_members and
members. Regression: evaluation `regression`, on task `toy`; `band_coverage` (share of the grid where the
target lies within three sd of the mean) and `band_width` (mean width of that band), by members, on
`toy:inside` (the grid's part in [-4, 4]) and `toy:outside` (the rest of [-6, 6]).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pandas as pd

from bench.report.claims.comparison import (
    GIGABYTES,
    NATS,
    PERCENT,
    RATIO,
    UNKNOWN,
    Finding,
    Quantity,
    compare,
    exact,
)
from bench.report.claims.evidence import ANY, Rows, by_seed, largest
from bench.report.published import SIZES, TRAINS

STANDARD, NORMAL = "standard_ensemble", "standard_ensemble-n01"
OTHERS = ("apd", "mnf", "mc_dropout")
ATTACKS = ("fgsm", "pgd")  # to the end: robustness
UNTIL_FOOLED = ("fgsm", "pgd-stop")  # "until the image completely fools the whole ensemble": section 4.5
QUARTILES = (0.25, 0.5, 0.75)
HUNDRED = 100
SINGLE = 0.98  # minimum accuracy of single networks on MNIST
SAME = 0.01  # accuracies closer than this count as equal: the resolution of the paper's curves
COVERED = 0.95  # minimum share of the target function inside the band
NEAR = 0.9  # share of the maximum entropy that counts as approaching it
TOP = math.log(10)  # maximum entropy on MNIST
HARDLY = 0.05  # success rate up to which attacks "hardly succeed"
SMALL = 0.01  # epsilon of small perturbations
GPU_BYTES = {"mnist": 1.5e9, "cifar10": 4e9}


def _gap(place: str, have: Mapping[str, bool]) -> tuple[tuple[str, str], ...]:
    """The cells to run: those of methods without rows, or all if they share no seed."""
    lacking = tuple((method, place) for method, found in have.items() if not found)
    return lacking or tuple((method, place) for method in have)


def rises(rows: Rows, judged: str) -> list[Finding]:
    """HyperGAN's accuracy from each ensemble size to the next."""
    found = []
    names = tuple("/".join(map(str, sizes)) + " networks" for sizes in (SIZES[1:], SIZES[:-1]))
    for train in TRAINS:
        steps = pairwise(rows.accuracy(judged, train, n) for n in SIZES)
        pairs = [(larger, smaller) for smaller, larger in steps]
        cells = [(judged, train)]
        found.append(
            compare(
                train, (names[0], names[1]), pairs, PERCENT, cells=cells, test=rows.test, among=len(TRAINS)
            )
        )
    return found


def most_accurate(rows: Rows, judged: str) -> list[Finding]:
    """HyperGAN's accuracy with 100 networks against each other method's."""
    found = []
    for train in TRAINS:
        values = {m: rows.accuracy(m, train, HUNDRED) for m in (judged, *OTHERS)}
        for other in OTHERS:
            gap = _gap(train, {m: bool(len(values[m])) for m in (judged, other)})
            pair = (values[judged], values[other])
            found.append(compare(train, (judged, other), [pair], PERCENT, cells=gap, test=rows.test))
    return found


def singles(rows: Rows, judged: str) -> list[Finding]:
    """Accuracy of single networks on MNIST."""
    pairs = [(rows.accuracy(judged, "mnist", 1), SINGLE)]
    gap = [(judged, "mnist")]
    return [compare("mnist", ("single networks", ""), pairs, PERCENT, "≥", cells=gap)]


def order_stays(rows: Rows, judged: str) -> list[Finding]:
    """With 5,000 examples, each method against the next in the order of the whole training set."""
    found = []
    for train in ("mnist", "cifar10"):
        few = f"{train}-5000"
        values = {(m, t): rows.accuracy(m, t, HUNDRED) for m in (judged, *OTHERS) for t in (train, few)}
        gap = tuple(cell for cell, series in values.items() if not len(series))
        if gap:
            found.append(Finding(few, UNKNOWN, cells=gap))
            continue
        order = sorted((judged, *OTHERS), key=lambda m: -float(values[m, train].values.mean()))
        pairs = [(values[upper, few], values[lower, few]) for upper, lower in pairwise(order)]
        names = ("/".join(order[:-1]), "/".join(order[1:]))
        cells = [(m, few) for m in order]
        place = f"{few} in the order of {train}"
        found.append(compare(place, names, pairs, PERCENT, cells=cells, test=rows.test))
    return found


def _norms(rows: Rows, place: str, left: str, right: str, sign: str) -> Finding:
    """sd/mean of two methods' weight norms, layer by layer."""
    a, b = rows.norms(left, place), rows.norms(right, place)
    pairs = [(a[layer], b[layer]) for layer in a] if a.keys() == b.keys() else []
    gap = _gap(place, {left: bool(a), right: bool(b)})
    return compare(place, (f"sd/mean {left}", right), pairs, RATIO, sign, cells=gap)


def norms_vary(rows: Rows, judged: str) -> list[Finding]:
    """HyperGAN's sd/mean against APD's and standard training's, for each initialisation that has rows."""
    starts = [m for m in (NORMAL, STANDARD) if rows.norms(m, "mnist")] or [STANDARD]
    return [_norms(rows, "mnist", judged, other, ">") for other in (*starts, "apd")]


def norms_without_both(rows: Rows, judged: str) -> list[Finding]:
    """sd/mean without mixer and discriminator against that of HyperGAN."""
    return [_norms(rows, place, f"{judged}-no-both", judged, "<") for place in ("mnist", "cifar10")]


def toy(rows: Rows, judged: str) -> list[Finding]:
    """Coverage of the target by the band of 100 networks; its width against 10 networks outside the data."""

    def ask(metric: str, part: str, members: int) -> Quantity:
        return rows.values(judged, "toy", "regression", metric, dataset=f"toy:{part}", members=members)

    gap = [(judged, "toy")]
    covered = [(ask("band_coverage", part, HUNDRED), COVERED) for part in ("inside", "outside")]
    width = [(ask("band_width", "outside", HUNDRED), ask("band_width", "outside", 10))]
    return [
        compare("toy", ("target in the band inside/outside", ""), covered, PERCENT, "≥", cells=gap),
        compare("toy", ("width outside of 100 networks", "of 10"), width, RATIO, cells=gap),
    ]


def _outlying(rows: Rows, task: str, left: str, right: str, sign: str) -> Finding:
    """Quartiles of two methods' entropy on outliers, at the largest size up to 100 that both have."""
    where = {"dataset": rows.outlying_set(task)}

    def ask(method: str, members: int, q: float) -> Quantity:
        return rows.quantile(method, task, "entropy_nats", q, members=members, **where)

    sizes = {m: rows.sizes(m, task, "ood", "entropy_nats", quantile=0.5, **where) for m in (left, right)}
    common = [n for n in sizes[left] & sizes[right] if n <= HUNDRED]
    size = max(common, default=0)
    pairs = [(ask(left, size, q), ask(right, size, q)) for q in QUARTILES] if size else []
    gap = _gap(task, {m: bool(found) for m, found in sizes.items()})
    return compare(task, (f"{size} of {left}", right), pairs, NATS, sign, cells=gap)


def entropy_notmnist(rows: Rows, judged: str) -> list[Finding]:
    """HyperGAN's entropy on notMNIST against each baseline's."""
    return [_outlying(rows, "notmnist", judged, other, ">") for other in (*OTHERS, STANDARD)]


def entropy_cifar(rows: Rows, judged: str) -> list[Finding]:
    """HyperGAN's entropy on CIFAR-10's unseen classes against each baseline's."""
    return [_outlying(rows, "cifar5-open", judged, other, ">") for other in (*OTHERS, STANDARD)]


def standard_overconfident(rows: Rows, judged: str) -> list[Finding]:
    """A standard ensemble's entropy on outliers against every other method's."""
    tasks, others = ("notmnist", "cifar5-open"), (judged, *OTHERS)
    return [_outlying(rows, task, STANDARD, other, "<") for task in tasks for other in others]


def _over_epsilon(rows: Rows, *frames: pd.DataFrame, top: float = 1.0) -> list[Quantity]:
    """Means over the epsilons that all frames have, of values within [0, top]."""
    common = set.intersection(*(set(frame["epsilon"]) for frame in frames))
    return [rows.share(frame[frame["epsilon"].isin(common)], top) for frame in frames]


def _highest(rows: Rows, found: pd.DataFrame) -> Quantity:
    """The mean entropy at the epsilon where it is highest, by seed; its ends are the highest of all ends."""
    means = found.groupby(["seed", "epsilon"])["value"].mean().groupby("seed").max()
    each = [rows.share(part, TOP) for _, part in found.groupby("epsilon")]
    top = max(each, key=lambda q: float(q.values.mean()))
    low, high = max(q.low for q in each), max(q.high for q in each)
    return replace(top, values=means, low=low, high=high)


def _fresh(rows: Rows, method: str, attack: str) -> dict[int, pd.DataFrame]:
    """Entropy on images that fooled another ensemble of the same size, by size."""
    found = rows.frame(
        method, "mnist-attack", "attack", "entropy_nats", variant="fresh", attack=attack, success="fused",
        epsilon=ANY, crafted_members=ANY,
    )  # fmt: skip
    found = found[found["crafted_members"] == found["members"]]
    return _by_size(found)


def _by_size(found: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of each number of networks."""
    return {size: found[found["members"] == size] for size in sorted(map(int, found["members"].unique()))}


def adversarial_entropy(rows: Rows, judged: str) -> list[Finding]:
    """HyperGAN's entropy on adversarial images: near the maximum, above equal standard ensembles."""
    place, found = "mnist-attack", []
    for attack in UNTIL_FOOLED:
        ours, theirs = _fresh(rows, judged, attack), _fresh(rows, STANDARD, attack)
        gap = _gap(place, {judged: bool(ours), STANDARD: bool(theirs)})
        top = [(_highest(rows, ours[max(ours)]), NEAR * TOP)] if ours else []
        highest = (f"{attack}: highest mean of {max(ours, default=0)} of {judged}", "90 % of ln 10:")
        found.append(compare(place, highest, top, NATS, "≥", cells=[(judged, place)]))
        common = sorted(set(ours) & set(theirs))
        for size in common:
            a, b = _over_epsilon(rows, ours[size], theirs[size], top=TOP)
            found.append(compare(place, (f"{size} of {judged}", STANDARD), [(a, b)], NATS, cells=gap))
        if not common:
            found.append(Finding(place, UNKNOWN, cells=gap))
    return found + detected_at_worst(rows, judged)


def detected_at_worst(rows: Rows, judged: str) -> list[Finding]:
    """Share of fooling images that fresh networks detect under the worst over all attacks, mean over epsilon.

    High entropy under one attack detects nothing if another attack is not detected.
    """
    place = "mnist-attack"
    shares = {
        method: rows.frame(
            method, place, "adaptive", "detected_share", variant="adaptive", attack="worst", success="fused",
            epsilon=ANY, crafted_members=ANY,
        )
        for method in (judged, STANDARD)
    }  # fmt: skip
    gap = _gap(place, {method: bool(len(share)) for method, share in shares.items()})
    ours, theirs = _over_epsilon(rows, *shares.values())
    names = (f"detected under the worst attack {judged}", STANDARD)
    return [compare(place, names, [(ours, theirs)], PERCENT, cells=gap)]


def small_perturbations(rows: Rows, judged: str) -> list[Finding]:
    """Success of attacks at a small epsilon against 100 networks or more."""
    place, found = "mnist-attack", []
    for attack in ATTACKS:
        frame = rows.frame(
            judged, place, "attack", "success_rate", variant="same", attack=attack, success="fused",
            epsilon=SMALL, crafted_members=ANY,
        )  # fmt: skip
        frame = frame[(frame["members"] >= HUNDRED).fillna(False)]
        parts = _by_size(frame)
        label = f"{attack} on {'/'.join(map(str, parts))} networks"
        pairs = [(rows.share(part), HARDLY) for part in parts.values()]
        found.append(compare(place, (label, ""), pairs, PERCENT, "≤", cells=[(judged, place)]))
    return found


def _transferred(rows: Rows, judged: str, attack: str) -> pd.DataFrame:
    """Share of other networks fooled by attacks on one network, by epsilon."""
    for success in ("fused", ""):
        found = rows.frame(
            judged, "mnist-attack", "attack", "fooled_share", variant="one-to-many", attack=attack,
            success=success, epsilon=ANY, crafted_members=1,
        )  # fmt: skip
        if len(found):
            break
    return largest(found)


def one_to_many(rows: Rows, judged: str) -> list[Finding]:
    """The share of other networks fooled, mean over epsilon, within 50 and 70 %."""
    place, found = "mnist-attack", []
    for attack in UNTIL_FOOLED:
        (share,) = _over_epsilon(rows, _transferred(rows, judged, attack))
        for bound, sign in ((0.5, "≥"), (0.7, "≤")):
            names = (f"{attack} fools", "")
            gap = [(judged, place)]
            found.append(compare(place, names, [(share, bound)], PERCENT, sign, cells=gap))
    return found


def fgsm_transfers(rows: Rows, judged: str) -> list[Finding]:
    """The share of other networks that FGSM fools against that of PGD that stops, mean over epsilon."""
    place = "mnist-attack"
    fgsm, pgd = _over_epsilon(rows, *(_transferred(rows, judged, attack) for attack in UNTIL_FOOLED))
    return [compare(place, UNTIL_FOOLED, [(fgsm, pgd)], PERCENT, cells=[(judged, place)])]


def _ablated(rows: Rows, place: str, judged: str, variant: str, much: bool) -> list[Finding]:
    """Final accuracy and sd/mean of a variant against the whole; `much`: below half, and a slow start."""
    gap = tuple((m, place) for m in (variant, judged))
    early, late = zip(*(rows.trace(m, place, "accuracy") for m in (variant, judged)), strict=True)
    spread, whole = (rows.trace(m, place, "weight_norm_ratio")[1] for m in (variant, judged))
    names = (variant, judged)
    final = (f"at the end {variant}", judged)
    found = [compare(place, final, [late], PERCENT, "≈", SAME, cells=gap)]
    if much:
        names = (f"sd/mean {variant}", f"half of {judged}'s:")
        found.insert(0, compare(place, (f"first {variant}", judged), [early], PERCENT, "<", cells=gap))
        found.append(compare(place, names, [(spread, whole.times(0.5))], RATIO, "<", cells=gap))
    else:
        names = (f"sd/mean {variant}", judged)
        found.append(compare(place, names, [(spread, whole)], RATIO, "<", cells=gap))
    return found


def _measured(parts: Sequence[list[Finding]]) -> list[Finding]:
    """The findings of all places with numbers, or of the first if none has any."""
    known = [part for part in parts if any(f.verdict != UNKNOWN for f in part)]
    return [finding for part in known or parts[:1] for finding in part]


def no_discriminator(rows: Rows, judged: str) -> list[Finding]:
    """Without discriminator on CIFAR-10: accuracy and sd/mean at the end of training."""
    return _ablated(rows, "cifar10", judged, f"{judged}-no-discriminator", much=False)


def no_mixer(rows: Rows, judged: str) -> list[Finding]:
    """Without mixer, wherever traced: accuracy at the start and the end, sd/mean at the end."""
    places = ("cifar10", *(t for t in TRAINS if t != "cifar10"))
    return _measured([_ablated(rows, place, judged, f"{judged}-no-mixer", much=True) for place in places])


def diversity_falls(rows: Rows, judged: str) -> list[Finding]:
    """sd/mean of HyperGAN's norms at the last traced round against the first, wherever traced."""
    parts = []
    for place in ("cifar10", *(t for t in TRAINS if t != "cifar10")):
        first, last = rows.trace(judged, place, "weight_norm_ratio")
        names, gap = ("sd/mean last", "first"), [(judged, place)]
        parts.append([compare(place, names, [(last, first)], RATIO, "<", cells=gap)])
    return _measured(parts)


def gpu_memory(rows: Rows, judged: str) -> list[Finding]:
    """Peak memory of HyperGAN's runs on a GPU."""
    found = []
    for place, limit in GPU_BYTES.items():
        peak = exact(by_seed(largest(rows.frame(judged, place, "cost", "peak_memory_bytes"))))
        gap = [(judged, place)]
        found.append(compare(place, ("", ""), [(peak, limit)], GIGABYTES, "<", cells=gap))
    return found
