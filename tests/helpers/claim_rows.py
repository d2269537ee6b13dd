"""Synthetic rows that satisfy each claim; nothing here was measured.

They are of `hypergan` and its ablations, on one seed: `judged_on` makes them rows of another HyperGAN, and
`over_seeds` those of several seeds, so that intervals over seeds decide.
"""

from __future__ import annotations

from bench.records import schema

HG, SE, N01, OTHERS = "hypergan", "standard_ensemble", "standard_ensemble-n01", ("apd", "mnf", "mc_dropout")
NO_D, NO_Q, NO_BOTH = "hypergan-no-discriminator", "hypergan-no-mixer", "hypergan-no-both"
TRAINS = {"notmnist": "mnist", "mnist-attack": "mnist", "cifar5-open": "cifar5"}
SETS = ("mnist", "mnist-5000", "cifar5", "cifar10", "cifar10-5000")
SIZES, QUARTILES, LAYERS = (1, 5, 10, 100), (0.25, 0.5, 0.75), ("conv1", "conv2", "linear")


def row(metric, value, method, task, seed=0, **columns):
    """A row of a run that measured one number."""
    found = schema.row(metric, float(value)) | {"method": method, "task": task, "seed": seed}
    found |= {"train": TRAINS.get(task, task), "preset": "quick", "device": "cpu", "config": "c", "schema": 1}
    return found | {"run": f"{method}-{task}-{seed}"} | columns


def judged_on(method, rows):
    """The rows with HyperGAN and its ablations under the name of another."""
    names = {own: own.replace(HG, method, 1) for own in (HG, NO_D, NO_Q, NO_BOTH)}
    return [r | {"method": names.get(r["method"], r["method"]), "run": f"{method} {r['run']}"} for r in rows]


def over_seeds(rows, count=3):
    """The rows as runs of several seeds that differ by a millionth of each value."""
    return [
        r | {"seed": s, "run": f"{r['run']} of {s}", "value": r["value"] * (1 + s * 1e-6)}
        for s in range(count)
        for r in rows
    ]


def accuracy(method, task, members, value, **more):
    """Accuracy on test images."""
    return row("accuracy", value, method, task, evaluation="accuracy", members=members, **more)


def norms(method, task, ratios, evaluation="diversity", **more):
    """Norms with mean 8 by layer, so that sd/mean is exact."""
    found = []
    for layer, ratio in ratios.items():
        where = {"evaluation": evaluation, "members": 10, "layer": layer, **more}
        found.append(row("weight_norm_mean", 8, method, task, **where))
        found.append(row("weight_norm_sd", 8 * ratio, method, task, **where))
    return found


def spread(whole, *others):
    """sd/mean of each layer on MNIST."""
    found = []
    for method, ratios in ((HG, whole), *others):
        found += norms(method, "mnist", dict(zip(LAYERS, ratios, strict=True)))
    return found


def both(mnist, cifar):
    """sd/mean of two layers, 0.2 for HyperGAN; 0.1 and the given values for the ablated method."""
    found = []
    for task, second in (("mnist", mnist), ("cifar10", cifar)):
        found += norms(HG, task, {"conv1": 0.2, "conv2": 0.2})
        found += norms(NO_BOTH, task, {"conv1": 0.1, "conv2": second})
    return found


def sized(steps):
    """HyperGAN's accuracy by size, the same on every set."""
    return [accuracy(HG, t, n, 0.9 + s / 100) for t in SETS for n, s in zip(SIZES, steps, strict=True)]


def against(values, sets=SETS):
    """Accuracy of 100 networks of HyperGAN and the others, the same on every set."""
    return [accuracy(m, t, 100, v) for t in sets for m, v in zip((HG, *OTHERS), values, strict=True)]


def outliers(method, task, members, shift):
    """Entropies on outliers with quartiles `shift` above 0.25, 0.5 and 0.75."""
    where = {"evaluation": "ood", "members": members, "dataset": "out"}
    found = [row("entropy_nats", q + shift, method, task, quantile=q, **where) for q in QUARTILES]
    return [row("auroc", 0.9, method, task, **where), *found]


def open_sets(task, others, standard=0.0):
    """Entropies with shift 0.3 for HyperGAN, the given ones for others; standard ensembles of 10 only."""
    shifts = ((HG, 0.3), *zip(OTHERS, others, strict=True))
    found = [r for method, shift in shifts for n in (10, 100) for r in outliers(method, task, n, shift)]
    return found + outliers(SE, task, 10, standard)


def attacks(metric, method, values, members, crafted, **more):
    """One number per attack, at two epsilons; values: by attack."""
    where = {"evaluation": "attack", "dataset": "mnist", "members": members, "crafted_members": crafted}
    found = []
    for attack, value in values.items():
        for epsilon in (0.01, 0.1):
            cell = where | more | {"attack": attack, "epsilon": epsilon}
            found.append(row(metric, value, method, "mnist-attack", **cell))
    return found


def fresh(ours, theirs, detected=(0.6, 0.5)):
    """Entropies of fresh ensembles of 5 on fooling images; of PGD to its end low ones that do not count."""
    where = {"members": 5, "crafted": 5, "variant": "fresh", "success": "fused"}
    values = {HG: (ours, 0.1), SE: (theirs, 0.2)}
    found = [
        attacks("entropy_nats", m, {"fgsm": v, "pgd-stop": v, "pgd": end}, **where)
        for m, (v, end) in values.items()
    ]
    return found[0] + found[1] + worst(*detected)


def worst(ours, theirs):
    """Shares of fooling images that fresh ensembles of 5 detect under the worst over all attacks."""
    where = {"members": 5, "crafted": 5, "variant": "adaptive", "success": "fused", "evaluation": "adaptive"}
    shares = [attacks("detected_share", m, {"worst": v}, **where) for m, v in ((HG, ours), (SE, theirs))]
    return shares[0] + shares[1]


def success(fgsm, pgd):
    """Success rates against ensembles of 100; of PGD that stops one that does not count."""
    values = {"fgsm": fgsm, "pgd": pgd, "pgd-stop": 0.5}
    return attacks("success_rate", HG, values, 100, 100, variant="same", success="fused")


def fooled(fgsm, stopped):
    """Shares of 100 networks fooled by attacks on one of them; of PGD to its end one that does not count."""
    values = {"fgsm": fgsm, "pgd-stop": stopped, "pgd": 0.9}
    return attacks("fooled_share", HG, values, 100, 1, variant="one-to-many")


def toy(inside, wide):
    """The band's coverage inside, and its width outside for 100 networks, with width 1 for 10."""
    where = {"method": HG, "task": "toy", "evaluation": "regression"}
    return [
        row("band_coverage", inside, members=100, dataset="toy:inside", **where),
        row("band_coverage", 1, members=100, dataset="toy:outside", **where),
        row("band_width", 1, members=10, dataset="toy:outside", **where),
        row("band_width", wide, members=100, dataset="toy:outside", **where),
    ]


def traces(method, first, last, ratios, task="cifar10"):
    """Accuracy of single networks and sd/mean, in the first and the last trace."""
    found = []
    for epoch, value, ratio in ((5, first, ratios[0]), (10, last, ratios[1])):
        where = {"evaluation": "trace", "epoch": epoch}
        found.append(row("accuracy", value, method, task, dataset="val", members=1, **where))
        found += norms(method, task, {"conv1": ratio, "conv2": ratio}, **where)
    return found


def ablated(method, *found):
    """Traces of a variant and of HyperGAN."""
    return traces(HG, 0.5, 0.8, (0.4, 0.2)) + traces(method, *found)


def memory(mnist, cifar):
    """Peak memory on a GPU, in GB."""
    where = {"evaluation": "cost", "members": 100, "device": "cuda"}
    peaks = (("mnist", mnist), ("cifar10", cifar))
    return [row("peak_memory_bytes", gigabytes * 1e9, HG, task, **where) for task, gigabytes in peaks]


TENTH = (0.1, 0.1, 0.1)
FIFTH = (0.2, 0.2, 0.2)
FULL = against((0.9, 0.6, 0.8, 0.7), ("mnist", "cifar10"))
FEW = ("mnist-5000", "cifar10-5000")
# claim -> pairs of rows on which it holds, and on which it does not
CASES = {
    "rises-with-size": [(sized((1, 2, 3, 4)), sized((1, 2, 1, 4)))],
    "most-accurate": [(against((0.9, 0.8, 0.7, 0.6)), against((0.9, 0.8, 0.95, 0.6)))],
    "single-networks": [([accuracy(HG, "mnist", 1, 0.981)], [accuracy(HG, "mnist", 1, 0.9799)])],
    "norms-vary-more": [
        (spread(FIFTH, (N01, TENTH), ("apd", (0.1, 0.1, 0.19))),
         spread(FIFTH, (N01, TENTH), ("apd", (0.1, 0.1, 0.21)))),
        (spread(FIFTH, (SE, TENTH), ("apd", TENTH)),
         spread(FIFTH, (N01, TENTH), (SE, (0.21, 0.1, 0.1)), ("apd", TENTH))),
    ],
    "order-stays": [(FULL + against((0.5, 0.2, 0.4, 0.3), FEW), FULL + against((0.5, 0.3, 0.4, 0.2), FEW))],
    "toy-band": [(toy(0.96, 1.1), toy(0.94, 1.1)), (toy(1, 1.01), toy(1, 0.99))],
    "entropy-notmnist": [(open_sets("notmnist", (0, 0.1, 0.2)), open_sets("notmnist", (0, 0.1, 0.31)))],
    "entropy-cifar": [(open_sets("cifar5-open", TENTH), open_sets("cifar5-open", TENTH, standard=0.4))],
    "standard-overconfident": [
        (open_sets("notmnist", TENTH) + open_sets("cifar5-open", TENTH),
         open_sets("notmnist", TENTH) + open_sets("cifar5-open", (0.1, -0.1, 0.1))),
    ],
    "adversarial-entropy": [
        (fresh(2.1, 2.0), fresh(2.05, 2.0)), (fresh(2.2, 2.1), fresh(2.2, 2.25)),
        (fresh(2.1, 2.0), fresh(2.1, 2.0, detected=(0.5, 0.6))),
    ],
    "small-perturbations": [(success(0.01, 0.04), success(0.01, 0.06))],
    "one-to-many": [(fooled(0.6, 0.51), fooled(0.6, 0.4)), (fooled(0.69, 0.6), fooled(0.71, 0.6))],
    "fgsm-transfers": [(fooled(0.3, 0.2), fooled(0.2, 0.3))],
    "no-discriminator": [
        (ablated(NO_D, 0.5, 0.795, (0.4, 0.1)), ablated(NO_D, 0.5, 0.78, (0.4, 0.1))),
        (ablated(NO_D, 0.5, 0.805, (0.4, 0.1)), ablated(NO_D, 0.5, 0.82, (0.4, 0.1))),
        (ablated(NO_D, 0.5, 0.8, (0.4, 0.19)), ablated(NO_D, 0.5, 0.8, (0.1, 0.21))),
    ],
    "no-mixer": [
        (ablated(NO_Q, 0.4, 0.8, (0.4, 0.09)), ablated(NO_Q, 0.4, 0.8, (0.4, 0.11))),
        (ablated(NO_Q, 0.4, 0.8, (0.4, 0.09)), ablated(NO_Q, 0.51, 0.8, (0.4, 0.09))),
        (ablated(NO_Q, 0.4, 0.8, (0.4, 0.09)), ablated(NO_Q, 0.4, 0.7, (0.4, 0.09))),
    ],
    "no-both": [(both(0.1, 0.1), both(0.1, 0.21))],
    "diversity-falls": [
        (traces(HG, 0.5, 0.8, (0.4, 0.2)), traces(HG, 0.5, 0.8, (0.2, 0.3))),
        (traces(HG, 0.5, 0.8, (0.4, 0.2), "mnist"), traces(HG, 0.5, 0.8, (0.2, 0.21), "mnist")),
    ],
    "gpu-memory": [(memory(1.4, 3.9), memory(1.4, 4.1)), (memory(1.4, 3.9), memory(1.6, 3.9))],
}  # fmt: skip
