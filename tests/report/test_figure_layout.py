"""Laws of figures: one column wide, text of 7 pt in it, few curves a panel, intervals, told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from bench import registry
from bench.report.layout.figures import (
    CURVES,
    drawing_style,
    handle,
    method_styles,
    sheet,
    subsets,
    wrapped,
)
from bench.report.rows import GROUP, summarise, with_intervals
from bench.report.sections.accuracy import lines_by_size
from bench.report.sections.outliers import Curve, entropy_ecdf
from bench.report.sections.training import curves
from bench.report.uncertainty import share_interval

TOY = [*registry.methods()][:24]
COLUMN = 3.3  # inches


def accuracies(methods, seeds=(0,), metric="accuracy", **columns):
    place = {"preset": "quick", "device": "cpu", "task": "digits", "dataset": "digits", "layer": ""}
    lines = [
        {**place, "method": name, "members": n, "metric": metric, "seed": seed, "unit": "fraction",
         "value": 0.9 + i / 1000 + seed / 100, "examples": 360, **columns}
        for i, name in enumerate(methods) for n in (1, 5, 10, 100) for seed in seeds
    ]  # fmt: skip
    return summarise(pd.DataFrame(lines))


def traces(methods):
    frames = [
        accuracies(methods).query("members == 100").assign(epoch=epoch, metric=metric, layer=layer)
        for epoch in (1, 2, 3)
        for metric, layer in (("accuracy", ""), ("disagreement", ""), ("weight_norm_ratio", "conv1"))
    ]
    return pd.concat(frames, ignore_index=True)


def entropies(methods):
    rng = np.random.default_rng(0)
    return [
        Curve(name, "letters", 100, 0.9, 1, rng.random(300) ** 4, 2 * rng.random(300)) for name in methods
    ]


TITLE = "Some figure of many things — trained on mnist-attack · preset quick · nvidia-h100"
DRAWN = {
    "accuracy": lambda names, styles: lines_by_size(accuracies(names), styles, TITLE),
    "training": lambda names, styles: curves(traces(names), styles, TITLE),
    "entropy": lambda names, styles: entropy_ecdf(entropies(names), styles, TITLE, "digits", 10),
}


@pytest.fixture(params=[(kind, count) for kind in DRAWN for count in (1, 6, len(TOY))], ids=str)
def figure(request):
    kind, count = request.param
    names = TOY[:count]
    with drawing_style():
        return DRAWN[kind](names, method_styles(names))


def test_every_figure_is_one_column_wide_with_text_of_7_points_within_it(figure):
    assert figure.get_figwidth() == pytest.approx(COLUMN)
    with drawing_style():
        figure.draw_without_rendering()
    shown = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    assert min(t.get_fontsize() for t in shown) >= 7
    ticks = {
        label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels()
    }
    whole = figure.bbox
    for text in set(shown) - ticks:
        box = text.get_window_extent()
        assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, text.get_text()
        assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1, text.get_text()


def test_no_panel_has_more_curves_than_can_be_told_apart(figure):
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_marker() not in ("", "None")]
        assert len(lines) <= CURVES
        looks = {(line.get_color(), line.get_marker()) for line in lines}
        assert len(looks) == len(lines)


def test_every_method_has_a_panel_and_a_line_in_the_legend(figure):
    names = {text.get_text().split(" · ")[0].replace("\n", "") for text in figure.legends[0].get_texts()}
    drawn = {line.get_color() for axes in figure.axes for line in axes.lines if line.get_marker() != "None"}
    styles = method_styles(TOY)
    assert {styles[name].color for name in names} <= drawn


def test_subsets_hold_every_method_and_each_variant_beside_its_method():
    parts = subsets(TOY)
    assert set().union(*parts) == set(TOY) and max(map(len, parts)) <= CURVES
    for name, entry in registry.methods().items():
        if name != entry.base:
            assert any({name, entry.base} <= set(part) for part in parts)
    assert subsets(["mnf", "apd", "hypergan", "hypergan-no-both"]) == [
        ["apd", "hypergan", "hypergan-no-both", "mnf"]
    ]
    configured = subsets([f"mnf [epochs={n}]" for n in range(9)])
    assert max(map(len, configured)) <= CURVES and all("mnf [epochs=0]" in part for part in configured)


def test_colours_stand_out_on_white_and_those_of_a_family_differ_in_lightness():
    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    styles = method_styles(list(registry.methods()))
    for name, style in styles.items():
        assert 1.05 / (luminance(style.color) + 0.05) > 2.1, name
    families = {}
    for name, entry in registry.methods().items():
        families.setdefault(entry.base, []).append(luminance(styles[name].color))
    for values in families.values():
        light = np.sort([116 * value ** (1 / 3) - 16 for value in values])
        assert (np.diff(light) > 2).all()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_intervals_are_drawn_over_seeds_or_of_one_seed_over_images(seeds):
    frame = accuracies(["mnf"], seeds)
    with drawing_style():
        figure = lines_by_size(frame, method_styles(["mnf"]), TITLE)
    curve, bars = figure.axes[0].lines
    low, high = np.reshape(bars.get_ydata(), (-1, 3))[:, :2].T
    if len(seeds) > 1:
        assert low == pytest.approx(100 * frame["low"]) and high == pytest.approx(100 * frame["high"])
    else:
        ends = [share_interval(mean, 360) for mean in frame["mean"]]
        assert np.transpose([low, high]) == pytest.approx(100 * np.array(ends))
    assert (low < curve.get_ydata()).all() and (curve.get_ydata() < high).all()


def test_a_value_without_seeds_or_images_has_no_interval():
    for frame in (accuracies(["mnf"], examples=np.nan), accuracies(["mnf"], metric="auroc")):
        mean, (low, high) = with_intervals(frame, 100)
        assert mean == pytest.approx(100 * frame["mean"]) and np.isnan([low, high]).all()
    assert list(GROUP) == [column for column in frame.columns if column in GROUP]


def test_entropies_near_0_and_near_their_maximum_have_room():
    """A hundredth and a tenth of a nat are far from both ends of the axis."""
    with drawing_style():
        figure = entropy_ecdf(entropies(["mnf"]), method_styles(["mnf"]), TITLE, "digits", 10)
    for axes in figure.axes:
        low, *inner, high = axes.transData.transform([(x, 0) for x in (1e-3, 1e-2, 1e-1, np.log(10))])[:, 0]
        assert np.diff([low, *inner, high]).min() > 0.2 * axes.bbox.width
    assert "logarithmic scale" in figure.axes[-1].get_xlabel()


def test_lines_are_broken_at_dots_spaces_and_within_names():
    assert wrapped("one · two · three", 0.65) == ["one · two", "three"]
    assert wrapped("bayesian_hypernetwork", 0.8) == ["bayesian_", "hypernetwork"]
    assert "".join(wrapped("a" * 50, 1.0)) == "a" * 50


def test_a_legend_has_room_below_its_panels():
    names = TOY[:11]
    styles = method_styles(names)
    with drawing_style():
        figure, grid = sheet(TITLE, "note", 2, 1, 1.0, entries=[handle(name, styles[name]) for name in names])
        grid[-1][0].set_xlabel("something")
        figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    label = grid[-1][0].xaxis.label.get_window_extent()
    assert legend.y0 >= 0 and legend.y1 < label.y0
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
