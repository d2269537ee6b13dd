"""Equal budgets and the Pareto figure, on small synthetic runs."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from cost_runs import IMAGES, material, write

from bench import report
from bench.report import costs
from bench.report.costs import dominators
from bench.report.layout.figures import drawing_style, method_styles
from bench.report.layout.tables import heading, text_tables
from bench.report.output.markdown import to_markdown
from bench.report.rows import PLACE
from bench.report.sections import budgets, pareto
from bench.report.sections.pareto import front


def lines(results, **where):
    """The lines of the table by method."""
    frame = budgets.budget_table(material(results)).frame
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert frame["method"].is_unique
    return frame.set_index("method")


def remark(results):
    (text,) = text_tables(budgets.budget_table(material(results)))
    return text.remark


def drawn(results):
    found = material(results)
    styles = method_styles(found.rows["method"].tolist())
    with drawing_style():
        return [(entry, plan()) for entry, plan in pareto.figures(found, styles)]


def steady(last, top=0.9):
    """A trace of every round up to the last; the ensemble's accuracy encodes the round."""
    return {epoch: (top + epoch / 1000, top - 0.1 + epoch / 1000) for epoch in range(1, last + 1)}


def test_the_budget_is_the_shortest_fit_and_rounds_take_equal_time(tmp_path):
    write(tmp_path, "fast", 10.0, trace={5: (0.7, 0.6), 10: (0.8, 0.7)})
    write(tmp_path, "slow", 44.0, trace=steady(8))  # 5.5 seconds per round
    found = lines(tmp_path)
    assert list(found["budget_seconds"]) == [10.0, 10.0]
    assert list(found["epoch"]) == [10, 1] and list(found["epochs"]) == [10, 8]
    assert list(found["reached_seconds"]) == [10.0, 5.5]
    assert list(found["trace_accuracy"]) == [0.8, 0.901]
    assert list(found["trace_accuracy_single"]) == [0.7, 0.801]
    assert set(found["traced_members"]) == {10} and set(found["gap"]) == {""}


@pytest.mark.parametrize("fit", [0.1, 0.3, 1 / 3, 7.7, 1234.567])
@pytest.mark.parametrize("last", [1, 3, 7, 49])
def test_the_shortest_fit_reaches_its_last_round(tmp_path, fit, last):
    write(tmp_path, "fast", fit, trace=steady(last))
    write(tmp_path, "same", fit, trace=steady(2))
    write(tmp_path, "slow", 2.2 * fit, trace=steady(5))
    found = lines(tmp_path)
    assert found["epoch"].to_dict() == {"fast": last, "same": 2, "slow": 2}


def test_the_last_trace_within_the_budget_is_shown():
    rng = np.random.default_rng(0)
    for _ in range(50):
        epochs = np.unique(rng.integers(1, 40, size=6))
        trace = pd.DataFrame({c: "x" for c in [*PLACE, "method"]}, index=range(len(epochs)))
        trace = trace.assign(epoch=epochs, epochs=epochs[-1])
        fit, budget = rng.uniform(5, 50), rng.uniform(1, 20)
        found = budgets._reached(trace, fit, budget)
        seconds = epochs / epochs[-1] * fit
        assert (found["gap"] == "") == (seconds <= budget).any()
        if not found["gap"]:
            assert found["epoch"] == epochs[seconds <= budget].max()
            assert found["reached_seconds"] <= budget


def test_a_method_first_traced_beyond_the_budget_is_a_gap_with_its_reason(tmp_path):
    write(tmp_path, "fast", 10.0, trace=steady(2))
    write(tmp_path, "slow", 80.0, trace={2: (0.9, 0.8), 4: (0.9, 0.8)})
    line = lines(tmp_path).loc["slow"]
    assert line["gap"] == "first traced after 40.0 s"
    assert line[["epoch", "trace_accuracy", "trace_accuracy_single", "traced_members"]].isna().all()
    text = to_markdown(budgets.budget_table(material(tmp_path)))
    assert "| slow | 10 | first traced after 40.0 s | — | — | — | 80.0 |" in text


def test_a_method_without_trace_or_fit_time_says_so_and_sets_no_budget(tmp_path):
    write(tmp_path, "dark", 5.0)
    write(tmp_path, "timeless", None, trace=steady(3))
    write(tmp_path, "slow", 10.0, trace=steady(4))
    found = lines(tmp_path)
    assert found["gap"].to_dict() == {"dark": "no accuracy traced", "slow": "", "timeless": "no fit time"}
    assert set(found["budget_seconds"]) == {5.0} and found.loc["slow", "epoch"] == 2


def by_measures(results):
    return budgets.measure_table(material(results))


def test_equal_budgets_are_compared_by_each_measure(tmp_path):
    write(tmp_path, "fast", 10.0, trace={5: (0.7, 0.6), 10: (0.8, 0.7)}, cpu=20.0, gflop=300.0)
    write(tmp_path, "lean", 18.0, trace=steady(2), cpu=36.0, gflop=30.0)
    write(tmp_path, "slow", 44.0, trace=steady(4), cpu=44.0, gflop=1e5)  # 11 seconds a round
    write(tmp_path, "old", 5.0, trace=steady(40))
    found = by_measures(tmp_path).frame.set_index("method")
    assert set(found.index) == {"fast", "lean", "slow"}
    budget = {"seconds": 10.0, "cpu_seconds": 20.0, "gflop": 30.0}
    reached = {"fast": (10, 10, None), "lean": (1, 1, 2), "slow": (None, 1, None)}
    for i, (measure, least) in enumerate(budget.items()):
        assert set(found[f"budget_{measure}"]) == {least}
        for method, rounds in reached.items():
            line = found.loc[method]
            assert (line[f"gap_{measure}"] == "") == (rounds[i] is not None)
            assert rounds[i] is None or line[f"epoch_{measure}"] == rounds[i]
    assert found.loc["fast", "gap_gflop"] == "first traced after 150 GFLOP"
    assert found.loc["slow", "accuracy_cpu_seconds"] == 0.901
    assert found.loc["fast", ["spent_seconds", "spent_cpu_seconds", "spent_gflop"]].tolist() == [10, 20, 300]
    (text,) = text_tables(by_measures(tmp_path))
    assert text.remark == (
        "Budgets: 10.0 s, 20.0 s of CPU time, 30.0 GFLOP. At equal wall time 2 methods had spent 9.00 to "
        "10.0 s, 18.0 to 20.0 s of CPU time, 15.0 to 300 GFLOP: within a factor of 1.25 that is equal by "
        "wall time and CPU time."
    )
    assert [cell.text for cell in text.lines[2]][2:] == [
        "first traced after 11.0 s", "—", "1 of 4", "90.10", "first traced after 25000 GFLOP", "—", "1",
    ]  # fmt: skip


def test_measures_of_a_place_without_traced_accuracy_make_no_table(tmp_path):
    for name in ("one", "other"):
        write(tmp_path, name, cpu=10.0, gflop=5.0)
    assert not len(by_measures(tmp_path).frame)


def test_one_method_with_all_measures_is_compared_with_none(tmp_path):
    write(tmp_path, "new", trace=steady(4), cpu=10.0, gflop=5.0)
    write(tmp_path, "old", trace=steady(4))
    assert not len(by_measures(tmp_path).frame)
    report.build(tmp_path)
    assert not (tmp_path / "tables" / "budgets-measures.md").exists()
    write(tmp_path, "third", trace=steady(4), cpu=10.0, gflop=5.0)
    report.build(tmp_path)
    text = (tmp_path / "tables" / "budgets-measures.md").read_text()
    assert "equal by wall time and CPU time and GFLOP" in text


def test_the_cost_table_has_columns_for_what_runs_measured(tmp_path):
    def table():
        text = text_tables(next(t for t in budgets.tables(material(tmp_path)) if t.name == "cost"))[0]
        headings = [h.replace("\u00a0", " ") for h in text.headings]
        cells = [dict(zip(headings, (c.text for c in line), strict=True)) for line in text.lines]
        return headings, {line["method"]: line for line in cells if line["networks"] == "10"}

    write(tmp_path, "old")
    assert not any("CPU" in heading or "GFLOP" in heading for heading in table()[0])
    write(tmp_path, "new", cpu=12.0, gflop=1234.6)
    _, found = table()
    new = ("fit, CPU time [s] ↓", "fit [GFLOP] ↓")
    assert [found["new"][heading] for heading in new] == ["12.0", "1235"]
    assert [found["old"][heading] for heading in new] == ["—", "—"]  # not measured


def test_numbers_are_means_over_seeds(tmp_path):
    write(tmp_path, "a", 8.0, 0.9, {1: (0.6, 0.5)}, seed=0, predict=1.0)
    write(tmp_path, "a", 12.0, 0.8, {1: (0.8, 0.7)}, seed=1, predict=3.0)
    line = lines(tmp_path).loc["a"]
    assert line["seeds"] == 2 and line["budget_seconds"] == line["fit_seconds"] == 10.0
    assert line["trace_accuracy"] == pytest.approx(0.7, rel=1e-15)
    assert line["accuracy"] == pytest.approx(0.85, rel=1e-15)
    assert line["predict_seconds_1000"] == pytest.approx(2.0 * 1000 / IMAGES, rel=1e-15)


def test_prediction_takes_time_in_proportion_to_the_networks(tmp_path):
    write(tmp_path, "a", predict=3.0, sizes=(1, 4, 12))
    found = costs.points(material(tmp_path).rows).set_index("members")
    assert found["predict_seconds_1000"].to_dict() == pytest.approx({1: 1.25, 4: 5.0, 12: 15.0})
    assert found["fit_seconds"].nunique() == found["peak_memory_bytes"].nunique() == 1


def test_dominating_is_at_least_as_good_everywhere_and_better_somewhere():
    rng = np.random.default_rng(1)
    for _ in range(20):
        quality, costs = rng.integers(0, 4, 12).astype(float), rng.integers(0, 4, (12, 3)).astype(float)
        found = dominators(quality, costs)
        for i in range(12):
            better = {
                j
                for j in range(12)
                if quality[j] >= quality[i]
                and (costs[j] <= costs[i]).all()
                and (quality[j] > quality[i] or (costs[j] < costs[i]).any())
            }
            assert set(found[i]) == better and i not in better
            # Dominance is transitive, and the front is not empty.
            assert all(set(found[j]) <= better for j in better)
            assert not better or any(not found[j] for j in better)


def test_equal_lines_do_not_dominate_and_gaps_are_not_judged():
    quality = np.array([1.0, 1.0, np.nan, 2.0])
    costs = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, np.nan]])
    assert dominators(quality, costs) == [[], [], None, None]


def test_the_table_names_dominating_methods_most_accurate_first(tmp_path):
    write(tmp_path, "worst", 30.0, 0.7, memory=2**31)
    for i in range(5):
        write(tmp_path, f"m{i}", 10.0 + i, 0.8 + i / 100)
    write(tmp_path, "unknown", 40.0, 0.6, predict=None)
    found = lines(tmp_path)
    assert found.loc["worst", "dominated_by"] == "m4; m3; m2; m1; m0"
    assert found["front"].to_dict() == {f"m{i}": "yes" for i in range(5)} | {"unknown": "", "worst": "no"}
    (text,) = text_tables(budgets.budget_table(material(tmp_path)))
    told = {line[0].text: line[-2].text for line in text.lines}
    assert told["worst"] == "m4; m3; m2 and 2 more" and told["m0"] == "none" and told["unknown"] == "—"


def test_the_best_in_any_quantity_is_on_the_front(tmp_path):
    rng = np.random.default_rng(2)
    for i in range(8):
        fit, accuracy, predict = rng.uniform(1, 9, 3)
        write(tmp_path, f"m{i}", fit, accuracy / 10, predict=predict, memory=rng.integers(1, 2**32))
    found = lines(tmp_path)
    assert found.loc[found["accuracy"].idxmax(), "front"] == "yes"
    for cost in costs.COSTS:
        assert found.loc[found[cost].idxmin(), "front"] == "yes"


def test_the_front_is_what_no_other_point_beats_at_no_higher_cost():
    rng = np.random.default_rng(3)
    for n in (1, 2, 10, 40):
        x, y = rng.integers(0, 9, n).astype(float), rng.integers(0, 9, n).astype(float)
        edge, height = front(x, y)
        unbeaten = {
            (a, b)
            for a, b in zip(x, y, strict=True)
            if not any((c <= a and d > b) or (c < a and d >= b) for c, d in zip(x, y, strict=True))
        }
        assert set(zip(edge, height, strict=True)) == unbeaten
        assert (np.diff(edge) > 0).all() and (np.diff(height) > 0).all()


def test_a_regression_is_judged_by_its_likelihood(tmp_path):
    for method, fit, likelihood in (("good", 5.0, -2.0), ("bad", 6.0, -3.0)):
        write(tmp_path, method, fit, None, task="toy", likelihood=likelihood)
    found = lines(tmp_path, task="toy")
    assert found["accuracy"].isna().all() and found.loc["bad", "dominated_by"] == "good"
    ((place, figure),) = drawn(tmp_path)
    assert place.name == "pareto-toy-quick" and "likelihood" in figure.axes[0].get_ylabel()


def test_different_machines_and_threads_within_a_task_are_reported(tmp_path):
    write(tmp_path, "a", trace=steady(1), threads=2, device_name="Some CPU")
    assert remark(tmp_path).endswith("Validation accuracy is of 50 images. All runs: Some CPU, 2 threads.")
    write(tmp_path, "b", 20.0, threads=1, device_name="Some CPU")
    write(tmp_path, "c", 20.0)
    told = remark(tmp_path)
    assert "T = 10.0 s, the fit of a." in told and "do not compare" in told
    for part in ("Some CPU, 1 thread: b.", "Some CPU, 2 threads: a.", "a machine not named, threads not"):
        assert part in told
    caption = drawn(tmp_path)[0][0].caption  # seconds of other machines are not drawn
    assert "All costs: Some CPU, 1 thread. Left out, measured on another: a; c." in caption
    table = budgets.budget_table(material(tmp_path))
    report.build(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "do not compare" in html and "do not compare" in to_markdown(table)


def test_presets_devices_and_data_copies_have_separate_budgets(tmp_path):
    write(tmp_path, "a", 10.0)
    write(tmp_path, "b", 20.0, 0.92)
    write(tmp_path, "b", 1.0, preset="smoke")
    write(tmp_path, "b", 2.0, device="cuda")
    write(tmp_path, "c", 3.0, 0.95, dataset="digits-jpeg75")
    frame = budgets.budgets(material(tmp_path).rows)
    told = frame.set_index(["preset", "device", "dataset", "method"])["budget_seconds"].to_dict()
    assert told == {
        ("quick", "cpu", "digits", "a"): 10.0,
        ("quick", "cpu", "digits", "b"): 10.0,
        ("quick", "cpu", "digits-jpeg75", "c"): 3.0,
        ("quick", "cuda", "digits", "b"): 2.0,
        ("smoke", "cpu", "digits", "b"): 1.0,
    }
    assert frame.set_index("method")["dominated_by"].to_dict() == {"a": "", "b": "", "c": ""}


def test_configurations_compete_as_separate_methods(tmp_path):
    write(tmp_path, "a", 10.0, config={"epochs": 9}, trace=steady(9))
    write(tmp_path, "a", 20.0, config={"epochs": 18}, trace=steady(18))
    assert lines(tmp_path)["epoch"].to_dict() == {"a": 9, "a [epochs=18]": 9}


def test_a_task_without_accuracy_has_no_line_and_no_figure(tmp_path):
    write(tmp_path, "a", 10.0, None, auroc=0.9)
    assert not len(budgets.budgets(material(tmp_path).rows)) and not drawn(tmp_path)


def marks(figure, method, panel, size):
    """The points of a method in a panel by the size of markers: 2 of each ensemble, 4.5 of the largest."""
    style = method_styles([method])[method]
    lines = [
        line
        for line in figure.axes[panel].lines
        if line.get_marker() == style.marker and line.get_markersize() == size
    ]
    return lines[0].get_xydata() if lines else np.empty((0, 2))


def test_a_figure_has_rows_of_costs_columns_of_metrics_and_points_of_sizes(tmp_path):
    write(tmp_path, "a", 10.0, 0.9, sizes=(1, 5, 20), auroc=0.8, predict=4.0)
    ((place, figure),) = drawn(tmp_path)
    assert place.name == "pareto-digits-quick" and place.block["task"] == "digits"
    assert len(figure.axes) == 4
    # All sizes share one fit, of which the largest ensemble is shown; prediction takes longer by size.
    assert not len(marks(figure, "a", 0, 2)) and not len(marks(figure, "a", 1, 2))
    assert marks(figure, "a", 0, 4.5) == pytest.approx(np.array([[10.0, 90.0]]))
    assert marks(figure, "a", 1, 4.5) == pytest.approx(np.array([[10.0, 0.8]]))
    assert marks(figure, "a", 2, 2) == pytest.approx(np.array([[1, 89], [5, 89], [20, 90]]))
    assert marks(figure, "a", 2, 4.5) == pytest.approx(np.array([[20, 90]]))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a"]


def costs_shown(figure):
    return [axes.get_xlabel().split("\n")[0] for axes in figure.axes]


def test_a_figure_has_a_panel_of_what_all_methods_have(tmp_path):
    write(tmp_path, "a", 10.0, 0.9, cpu=20.0, gflop=2e6)
    ((_, figure),) = drawn(tmp_path)
    assert costs_shown(figure)[:3] == ["fit [s]", "fit, CPU time [s]", "fit [GFLOP]"]
    write(tmp_path, "b", 20.0, 0.8, gflop=3e3)
    ((_, figure),) = drawn(tmp_path)
    assert costs_shown(figure)[:2] == ["fit [s]", "fit [GFLOP]"] and len(figure.axes) == 3
    assert marks(figure, "a", 1, 4.5)[:, 0] == pytest.approx([2e6])
    shown = text_tables(budgets.budget_table(material(tmp_path)))[0]
    told = [dict(zip(shown.headings, [cell.text for cell in line], strict=True)) for line in shown.lines]
    assert [line[heading("fit_cpu_seconds")] for line in told] == ["20.0", "—"]


@pytest.mark.parametrize("seed", range(5))
def test_axes_contain_all_points_and_tick_labels_are_correct(tmp_path, seed):
    rng = np.random.default_rng(seed)
    for i in range(6):
        fit, predict = 10 ** rng.uniform(-2, 2 + 2 * seed, 2) * 3
        accuracy = 1 - 10 ** -rng.uniform(0.3, 3)
        write(tmp_path, f"m{i}", fit, accuracy, predict=predict, memory=2**30 * rng.uniform(1, 1 + seed))
    ((_, figure),) = drawn(tmp_path)
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
        points = np.concatenate([np.transpose(line.get_data()) for line in axes.lines])
        assert (points >= low).all() and (points <= high).all()
        for axis in (axes.xaxis, axes.yaxis):
            at = axis.get_majorticklocs()
            told = [float(t.replace(",", "")) for t in axis.get_major_formatter().format_ticks(at)]
            assert told == pytest.approx(list(at)) and len(set(told)) == len(told)


def test_axis_labels_do_not_overlap(tmp_path):
    for i, fit in enumerate(np.geomspace(330, 1011, 7)):
        write(tmp_path, f"m{i}", fit, 0.9 + i / 100, predict=0.001 * 4**i, memory=2**30 * (1 + i / 9))
    ((_, figure),) = drawn(tmp_path)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [t.get_window_extent() for t in axes.get_xticklabels() if t.get_text() and t.get_visible()]
        boxes.sort(key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_a_better_point_stands_higher_on_the_stretched_scale(tmp_path):
    values = (0.1, 0.9, 0.95, 0.96, 0.961)
    for i, accuracy in enumerate(values):
        write(tmp_path, f"m{i}", 10.0 + i, accuracy, sizes=(10,))
    ((_, figure),) = drawn(tmp_path)
    heights = figure.axes[0].transData.transform([(10, 100 * v) for v in values])[:, 1]
    bottom, top = figure.axes[0].bbox.y0, figure.axes[0].bbox.y1
    assert (np.diff(heights) > 0).all() and bottom < heights[0] and heights[-1] < top
    # On a plain scale the four best would share a seventeenth of the axis.
    assert heights[-1] - heights[1] > 0.25 * (top - bottom)
