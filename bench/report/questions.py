"""The questions that methods are ranked by, and the rows that answer them.

An answer is one number a method, size and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.report.arrays import Images
from bench.report.data_sets import without_data
from bench.report.rows import BLOCK, plain

WHITE_BOX, WORST = "pgd", "worst"  # values of the column `attack`


class Place(NamedTuple):
    """Where a question is answered: task, data set, metric and, of attacks, epsilon (else NaN)."""

    task: str
    dataset: str
    metric: str
    epsilon: float


# Per image of a run at a size: whether it is right [B], or a number [B]; None if it was not stored.
Kept = Callable[[Images, str, int, Place], NDArray[Any] | None]


class Question(NamedTuple):
    """A question: its name, what it asks, and how rows answer it.

    metrics: of which the first that was measured answers. select: the rows of these metrics. kept: what a
    test over images compares; None: only seeds can be compared. logarithm: ratios count, not differences.
    sizes: whether the answer depends on the number of networks. directed: whether one direction is better;
    otherwise the largest stands first.
    """

    name: str
    asks: str
    metrics: tuple[str, ...]
    select: Callable[[pd.DataFrame, tuple[str, ...]], pd.DataFrame]
    kept: Kept | None = None
    logarithm: bool = False
    sizes: bool = True
    directed: bool = True


def _of(evaluation: str) -> Callable[[pd.DataFrame, tuple[str, ...]], pd.DataFrame]:
    return lambda rows, metrics: plain(rows, metrics, evaluation)


def _attacked(attack: str) -> Callable[[pd.DataFrame, tuple[str, ...]], pd.DataFrame]:
    """Rows of an attack on the ensemble that is tested, at the middle one of the task's epsilons."""

    def select(rows: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
        keep = rows["metric"].isin(metrics) & (rows["attack"] == attack) & (rows["variant"] == "same")
        keep &= (rows["success"] == "fused") & (rows["members"] == rows["crafted_members"])
        found = rows[keep & rows["value"].notna()]
        # The largest ensembles are attacked on few images only.
        most = found.groupby("task")["examples"].transform("max") if len(found) else found["examples"]
        found = found[2 * found["examples"] >= most]
        middle = found.groupby("task")["epsilon"].transform(_middle) if len(found) else found["epsilon"]
        return found[found["epsilon"] == middle]

    return select


def _middle(epsilons: pd.Series) -> float:
    """The middle one of the distinct values, the smaller of two."""
    values = sorted(set(epsilons))
    return float(values[(len(values) - 1) // 2])


def _surprise(images: Images, run: str, members: int, at: Place) -> NDArray[Any] | None:
    """Negative log-likelihood of each image, in nats."""
    found = images.array(run, f"{at.dataset}/{members}/label_probability")
    if found is None:
        return None
    return np.asarray(-np.log(np.maximum(found.astype(np.float64), np.finfo(np.float32).tiny)))


def _withstood(images: Images, run: str, members: int, at: Place) -> NDArray[Any] | None:
    """Whether the attacked ensemble is still right about each attacked image."""
    labels = images.array(run, f"{at.dataset}/attacked/label")
    where = f"{at.dataset}/{WHITE_BOX}/{at.epsilon:g}/same/{members}/prediction"
    predictions = images.array(run, where)
    if labels is None or predictions is None or len(labels) != len(predictions):
        return None
    return np.asarray(labels == predictions)


# In the order of the columns. Accuracy and AUROC are tested by `bench.report.paired`.
ACCURACY, OUTLIERS, ATTACK = "accuracy", "outliers", "attack"
QUESTIONS = (
    Question(
        ACCURACY,
        "how often it is right on test images; of a regression, the log-likelihood of held-out points",
        ("accuracy", "log_likelihood_nats"),
        lambda rows, metrics: pd.concat([plain(rows, metrics, e) for e in ("accuracy", "regression")]),
    ),
    Question(
        "calibration", "how well its probabilities fit: negative log-likelihood of the test labels",
        ("nll_nats",), _of("accuracy"), _surprise,
    ),
    Question(OUTLIERS, "whether entropy tells outliers from test images: AUROC", ("auroc",), _of("ood")),
    Question(
        ATTACK, "how often PGD fools the ensemble that it attacks", ("success_rate",), _attacked(WHITE_BOX),
        _withstood,
    ),
    Question(
        "adaptive attack", "how often the worst of all attacks, also those that know the defence, fools it",
        ("success_rate",), _attacked(WORST),
    ),
    Question(
        "diversity", "how often two of its networks disagree; most first, which is not better in itself",
        ("disagreement",), _of("diversity"), directed=False,
    ),
    Question(
        "cost", "seconds to train", ("fit_seconds",), _of("cost"), logarithm=True, sizes=False,
    ),
)  # fmt: skip
ANSWERS = (
    *BLOCK, "task", "train", "dataset", "metric", "epsilon", "method", "members", "seed", "run", "value",
    "examples",
)  # fmt: skip


def answers(rows: pd.DataFrame, question: Question) -> pd.DataFrame:
    """The rows that answer a question, columns `ANSWERS`; a method's fit has its largest size."""
    found = question.select(rows, question.metrics)
    if not question.sizes:
        sizes = rows[rows["evaluation"].isin(("accuracy", "regression"))]
        largest = sizes.groupby(["task", "method"])["members"].max()
        keys = pd.MultiIndex.from_frame(found[["task", "method"]])
        found = found.assign(members=largest.reindex(keys).to_numpy())
    return found.loc[found["members"].notna(), list(ANSWERS)]


def place(answered: pd.DataFrame, question: Question, train: str) -> tuple[Place, pd.DataFrame]:
    """Where the methods of one fit answer a question, with the rows: the first metric, the widest data set.

    answered: some rows of `answers`, of one preset, device and train key. Tasks with the same key share
    networks: the one with most methods is taken, then the one named like the key.
    """
    metric = next(m for m in question.metrics if m in set(answered["metric"]))
    own = answered[answered["metric"] == metric]
    methods: dict[tuple[str, str], set[str]] = {}
    for task, dataset, method in own[["task", "dataset", "method"]].itertuples(index=False):
        methods.setdefault((str(task), str(dataset)), set()).add(str(method))
    task, dataset = min(
        methods, key=lambda at: (-len(methods[at]), without_data(at[0]) != without_data(train), at)
    )
    own = own[(own["task"] == task) & (own["dataset"] == dataset)]
    return Place(task, dataset, metric, float(own["epsilon"].iloc[0])), own
