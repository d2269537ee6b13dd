"""Section `attacks`: tables of attacks, and Figures 5 and 10 of the paper."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from bench.report import flags
from bench.report.layout.captions import Drawing, again_for, numbered, paper_entry, where
from bench.report.layout.figures import (
    DASHED,
    EDGE,
    LINE,
    Styles,
    curve,
    handle,
    in_seeds,
    sheet,
    subsets,
)
from bench.report.layout.tables import Table, networks
from bench.report.rows import (
    ATTACK,
    PLACE,
    Abouts,
    Material,
    ordered,
    summarise,
    with_intervals,
    with_unreachable,
    without_configuration,
)

NAME = "attacks"
FIGURES = dict.fromkeys(("figure5", "figure10"), "attacks")
SEARCH = (*ATTACK, "quantile")
SHOWN = (
    ("success_rate", "fused"), ("success_rate", "every"), ("entropy_nats", "all"), ("entropy_nats", "fused"),
    ("auroc", "all"), ("auroc", "fused"), ("fooled_share", "fused"),
)  # fmt: skip
STOPS = "pgd-stop"
NAMES = {"fgsm": "FGSM", "pgd": "PGD to the end", STOPS: "PGD, stopping"}
# What the captions of Figures 5 and 10 say of the attacks they show.
_STOPPING = (
    "FGSM is one step of size epsilon; PGD stops, image by image, at the first iterate at which every "
    "attacked network is wrong, as the paper has it, and goes to its last step where there is none"
)
_TO_THE_END = "FGSM is one step of size epsilon; PGD goes to its last step: no run here has pgd-stop"
# Panels of Figure 5 for each attack: metric, images that count, label of the axis, factor.
PANELS = (
    ("success_rate", "fused", "success [%]", 100.0),
    ("entropy_nats", "all", "entropy [nats]", 1.0),
    ("auroc", "all", "AUROC", 1.0),
)
PAIRS = {panel[:2] for panel in PANELS}
PAPER_SHARE = (50, 70)  # per cent of other networks fooled: paper, appendix A.5
TICKS = (0.01, 0.1, 0.3, 1.0)
SHIFT = 0.008  # between neighbouring methods, in the square root of epsilon
EPSILON = "epsilon, square-root scale"
APART = 0.25  # minimum distance of a tick from 0, relative to the axis
FLAGGED: dict[str, Any] = {"marker": "x", "color": "black", "linestyle": "", "markersize": 2.5, "zorder": 4}
MARKERS = 500  # approximate maximum per figure, at 150 bytes each in an SVG
_BARS = "Bars: 95 % intervals, over seeds if several (t), otherwise over images, of AUROC over seeds alone."
_MARK = Line2D([], [], color="0.3", linewidth=0.7, linestyle=":", label="ln K; guessing")
_ATTACKS = (
    "Attacks maximise the loss of the mean logits of the attacked networks; they are tested on these (same), "
    "on as many fresh ones (fresh) or, if one network was attacked, on others (one-to-many). Success: of the "
    "images that the tested ensemble classified correctly, the share now misclassified by its mean logits "
    "(fused) or by every network (every). pgd-stop is the paper's rule: the first iterate of pgd at which "
    "every attacked network is wrong, the last where there is none; robustness is pgd's. "
    "Entropy (of the mean probability) and AUROC (attacked against clean images, by entropy) are of all "
    "images, or of those that fool the attacked ensemble (fused). Clean: images as they are, success is "
    "error. † is flagged: the attack looks weaker than it should (table of flagged attacks)."
)
_SEARCH = (
    "The smallest epsilon found that fools the attacked ensemble, quantiles over images: 0 for a clean image "
    "that is misclassified; a quantile is missing if no epsilon up to 1 fools so many images."
)


def tables(material: Material) -> list[Table]:
    """The tables `attacks` and `fooling-epsilon`."""
    frame = attack_means(material.rows, material.abouts)
    lines = ("attack", "epsilon", "variant", "crafted_members", "members", "method")
    return [
        Table(
            "attacks", "Attacks", _ATTACKS, frame[_pairs(frame, SHOWN)], PLACE, lines, ("metric", "success"),
            lines[:-1], tuple(dict.fromkeys(metric for metric, _ in SHOWN)),
        ),
        Table(
            "fooling-epsilon", "Smallest fooling epsilon ↑", _SEARCH, smallest_epsilons(material.rows), PLACE,
            ("attack", "success", "members", "method"), ("quantile",), ("attack", "success", "members"),
        ),
    ]  # fmt: skip


def figures(part: Material, styles: Styles) -> Iterator[Drawing]:
    """Figures 5 and 10 of every task with attacks in a block."""
    measured = part.rows[part.rows["evaluation"] == "attack"]
    for name, rows in measured.groupby("task", sort=True):
        task, whole = str(name), attack_means(rows, {})
        classes = max(int(part.abouts[run].get("classes") or 0) for run in set(rows["run"]))
        frame = until_fooled(whole)
        said = _STOPPING if STOPS in set(frame["attack"]) else _TO_THE_END
        stopping = set(frame.loc[frame["attack"] == STOPS, "method"])
        lacking = sorted(set(without_configuration(whole.loc[~whole["method"].isin(stopping), "method"])))
        commands = [again_for(rows, lacking, task)] if lacking else []
        caption = (
            "Figure 5: success of attacks, predictive entropy and AUROC of entropy (attacked against "
            f"clean images) by epsilon, one row per attack and size of the attacked ensemble. {said}. Solid: "
            "a fresh ensemble of equal size; dashed, hollow: the attacked one, with its entropy on clean "
            "images at 0; 1 attacked: one network, tested on others (one-to-many). Entropy and AUROC are "
            "over all images, including those that fool no ensemble; success by mean logits, over images "
            f"classified correctly before. {_BARS} Crosses: the attack looks weaker than it should (flags)."
        )
        for place, methods in numbered(subsets(frame["method"])):
            own = frame[frame["method"].isin(methods)]
            title = f"Figure 5: attacks{place.words} — {where(rows, task)}"
            entry = paper_entry(5, rows, caption, task, subject=place.name(task), commands=commands)
            yield entry, partial(figure5, own, styles, title, classes)
        shares = frame[frame["metric"] == "fooled_share"]
        if not len(shares):
            continue
        caption = (
            "Figure 10: share of other networks that are wrong on examples made against one network, mean "
            f"over images and networks. {said}. Solid: of the examples that fool the network attacked; "
            f"dashed and hollow: of all. {_BARS}"
        )
        title = f"Figure 10: one network attacked — {where(rows, task)}"
        entry = paper_entry(10, rows, caption, task, commands=commands)
        yield entry, partial(figure10, shares, styles, title)


def until_fooled(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines of attacks by the paper's rule: PGD that stops in place of PGD to the end, if any run has it."""
    dropped = "pgd" if STOPS in set(frame["attack"]) else STOPS
    return frame[frame["attack"] != dropped]


def attack_means(rows: pd.DataFrame, abouts: Abouts) -> pd.DataFrame:
    """Means over seeds of attack metrics, by attack, epsilon, variant and size.

    Clean images count as epsilon 0, with 0 networks attacked. Requested sizes for which a method holds too
    few networks have a line without a mean.
    """
    found = rows[(rows["evaluation"] == "attack") & rows["value"].notna()]
    found = found[_pairs(found, {*SHOWN, ("fooled_share", "all")})]
    # Results on single fresh networks and ensembles of another size belong to the resampling matrix.
    same = (found["members"] == found["crafted_members"]) & (found["members"] > 1)
    found = found[(found["variant"] != "fresh") | same]
    found = found.assign(
        epsilon=found["epsilon"].fillna(0.0), crafted_members=found["crafted_members"].fillna(0)
    )
    frame = flags.marked(_whole(summarise(found, ATTACK)), flags.find(rows))
    pairs = frame[frame["variant"].isin(("same", "fresh")) & frame["success"].ne("")]
    pairs = with_unreachable(pairs, rows, abouts, ("variant", "attack", "epsilon", "success"))
    missing = pairs[pairs["seeds"] == 0]
    if not len(missing):
        return frame
    missing = missing.assign(crafted_members=missing["members"], flags="")
    return ordered(pd.concat([frame, missing], ignore_index=True), ATTACK[1:])


def smallest_epsilons(rows: pd.DataFrame) -> pd.DataFrame:
    """Quantiles over images of the smallest fooling epsilon, means over seeds."""
    found = rows[(rows["metric"] == "fooling_epsilon") & rows["value"].notna()]
    return _whole(summarise(found, SEARCH))


def _pairs(frame: pd.DataFrame, wanted: Collection[tuple[str, str]]) -> np.ndarray:
    """Mask of lines with one of these (metric, success) pairs."""
    return np.array(
        [p in wanted for p in zip(frame["metric"].tolist(), frame["success"].tolist(), strict=True)],
        dtype=bool,
    )


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({"crafted_members": "Int64", "epsilon": "float64"})


def figure5(frame: pd.DataFrame, styles: Styles, title: str, classes: int) -> Figure:
    """Success, entropy and AUROC over epsilon: three rows per attack, one column per attacked size.

    frame: the attack table of one preset, device and task; classes: K.
    """
    frame = frame[frame["mean"].notna()]
    clean = frame[frame["variant"] == "clean"]
    frame = frame[frame["variant"] != "clean"]
    crafted = sorted({int(n) for n in frame["crafted_members"]}, key=lambda n: (n == 1, n))
    rows = [(attack, size) for attack in sorted(set(frame["attack"])) for size in crafted]
    every = math.ceil(_pairs(frame, PAIRS).sum() / MARKERS)
    names, held = sorted(set(frame["method"])), sorted(set(frame["epsilon"]))
    figure, grid = sheet(
        title, _counts(frame, crafted), len(rows), len(PANELS), 0.62,
        entries=[*(handle(n, styles[n]) for n in names), *_keys("fresh", "attacked itself", frame), _MARK],
        left=0.55, between=(0.29, 0.13), above=LINE,
    )  # fmt: skip
    for line, (attack, size) in zip(grid, rows, strict=True):
        for axes, (metric, success, _, factor) in zip(line, PANELS, strict=True):
            own = frame[(frame["attack"] == attack) & _pairs(frame, {(metric, success)})]
            own = own[own["crafted_members"] == size]
            # The curve of the attacked ensemble starts at what it makes of clean images.
            start = clean[(clean["metric"] == metric) & (metric == "entropy_nats")].assign(variant="same")
            start = start[(start["members"] == size) & start["method"].isin(own["method"])]
            top = math.log(max(classes, 2)) if metric == "entropy_nats" else 1.0
            own = pd.concat([start, own]) if len(start) else own
            # Before anything is drawn, which would each time search for the limits.
            axes.set_ylim(-0.06 * factor * top, 1.08 * factor * top)
            axes.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
            _curves(axes, own, styles, _Scale(factor, top, held), every)
            mark = {"entropy_nats": top if classes else None, "auroc": 0.5}.get(metric)
            if mark is not None:
                axes.axhline(mark, color="0.3", linewidth=0.7, linestyle=":")
            axes.tick_params(labelbottom=axes in grid[-1])
        line[0].set_ylabel(f"{NAMES.get(attack, attack)}\n{size:,} attacked")
        _epsilons(line, held, len(names))
    for axes, panel in zip(grid[0], PANELS, strict=True):
        axes.set_title(panel[2])
    grid[-1][1].set_xlabel(EPSILON)
    return figure


def figure10(frame: pd.DataFrame, styles: Styles, title: str) -> Figure:
    """Share of other single networks fooled over epsilon: a panel per attack and subset of the methods.

    frame: lines of this metric only.
    """
    kinds, parts = sorted(set(frame["attack"])), subsets(frame["method"])
    most = {str(m): int(n) for m, n in frame.groupby("method")["members"].max().items()}
    names = dict.fromkeys(name for part in parts for name in part)
    handles = [handle(name, styles[name], f"{name} · {most[name]:,}") for name in names]
    keys = _keys("of examples that fool the one", "of all examples", frame)
    paper = Patch(color="0.9", label=f"paper: {PAPER_SHARE[0]} to {PAPER_SHARE[1]} %")
    figure, grid = sheet(
        title, _counts(frame[frame["success"] == "all"], [1]), len(parts), len(kinds), 1.2, sharex=True,
        sharey=True, entries=[*handles, *keys, paper], naming="method · other networks", above=LINE,
    )  # fmt: skip
    held = sorted(set(frame["epsilon"]))
    for line, methods in zip(grid, parts, strict=True):
        for axes, attack in zip(line, kinds, strict=True):
            own = frame[(frame["attack"] == attack) & frame["method"].isin(methods)]
            axes.axhspan(*PAPER_SHARE, color="0.9", zorder=0)
            solid = own[own["success"] == "fused"].assign(variant="fresh")
            both = pd.concat([solid, own[own["success"] == "all"].assign(variant="same")])
            _curves(axes, both, styles, _Scale(100, 1.0, held))
        line[0].set_ylabel("others fooled [%]")
    for axes, attack in zip(grid[0], kinds, strict=True):
        axes.set_title(NAMES.get(attack, attack))
        axes.set_ylim(-4, 104)
    _epsilons(grid[-1], held, max(map(len, parts)))
    grid[-1][(len(kinds) - 1) // 2].set_xlabel(EPSILON)
    return figure


def _counts(frame: pd.DataFrame, crafted: Sequence[int]) -> str:
    """Numbers of images and seeds of a figure, with exceptions for ensembles tested on fewer images."""
    seen = frame[frame["success"] == "all"].groupby("crafted_members")["examples"].max()
    most = int(seen.max())
    fewer = [f"{int(seen[n]):,} for {networks(n)}" for n in crafted if n in seen and seen[n] < most]
    return f"{most:,} images{' (' + ', '.join(fewer) + ')' if fewer else ''} · {in_seeds(frame)}"


class _Scale(NamedTuple):
    """Of a panel: the factor of its values, the maximum of its metric, all epsilons of the figure."""

    factor: float
    top: float
    epsilons: Sequence[float]


def _curves(axes: Axes, frame: pd.DataFrame, styles: Styles, scale: _Scale, every: int = 1) -> None:
    """One line per method and variant, methods shifted slightly, so that points do not coincide.

    every: one of so many points has a marker, starting at a different point for each method.
    """
    names = sorted(set(frame["method"]))
    apart, crosses = _apart(scale.epsilons, len(names)), []
    for i, name in enumerate(names):
        for variant, own in frame[frame["method"] == name].groupby("variant"):
            own = own.sort_values("epsilon")
            x = np.sqrt(own["epsilon"].to_numpy(float)) + apart * (i - (len(names) - 1) / 2)
            mean, ends = with_intervals(own, scale.factor, scale.top)
            curve(
                axes, x, mean, ends, styles[name], markersize=3, markevery=(i % every, every),
                **_variant(variant, styles[name].color),
            )  # fmt: skip
            flagged = own["flags"].fillna("").ne("").to_numpy()
            crosses.append((x[flagged], mean[flagged]))
    if crosses:
        axes.plot(*np.concatenate(crosses, axis=1), **FLAGGED)


def _apart(held: Sequence[float], methods: int) -> float:
    """Between neighbouring methods, in the square root of epsilon: more where there is one epsilon."""
    return SHIFT if len(held) > 1 else 0.8 * math.sqrt(held[-1]) / methods


def _variant(variant: Any, color: str) -> dict[str, Any]:
    """Line style: dashed and hollow for the attacked ensemble itself, solid for others."""
    if variant == "same":
        return {"linestyle": DASHED, "markerfacecolor": "white", "markeredgecolor": color}
    return {"linestyle": "-"}


def _keys(solid: str, dashed: str, frame: pd.DataFrame) -> list[Line2D]:
    flagged = frame["flags"].fillna("").ne("").any()
    grey = "0.3"
    keys = [
        Line2D([], [], color=grey, marker="o", label=solid, **EDGE),
        Line2D([], [], color=grey, marker="o", label=dashed, **_variant("same", grey)),
    ]
    return [*keys, Line2D([], [], label="flagged", **FLAGGED)] if flagged else keys


def _epsilons(row: Sequence[Axes], held: Sequence[float], methods: int) -> None:
    """The axis of epsilon: square-root scale from 0, with ticks far enough apart to be read."""
    marks = held if len(held) <= 3 else [t for t in TICKS if held[0] <= t <= held[-1]]
    marks = [t for t in marks if math.sqrt(t / held[-1]) >= APART]
    margin = 0.06 * math.sqrt(held[-1]) + _apart(held, methods) * methods / 2
    for axes in row:
        axes.xaxis.set_major_locator(FixedLocator([0.0, *np.sqrt(marks)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FixedFormatter(["0", *(f"{t:g}" for t in marks)]))
        axes.set_xlim(-margin, math.sqrt(held[-1]) + margin)
