"""The paper's figures: names, content, and gaps if arrays are missing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from shown_arrays import shown

from bench import report
from bench.records import runs, schema, store
from bench.report import sections
from bench.report.layout.figures import drawing_style, sheet
from bench.report.output import images
from bench.report.rows import Material, note_on_copies, prepare
from bench.report.sections import training
from bench.report.sections.diversity import mosaic
from bench.system.files import write_atomic

LAYERS = ("conv1", "conv2", "linear")
SETS = {
    "digits": ("digits", "letters", 10),
    "cifar5-open": ("cifar10-jpeg75:0-4", "cifar10-jpeg75:5-9", 5),
    "open": ("some", "other", 4),
}


def fake_run(results, method, task="digits", preset="quick", seed=0, keep=("",), members=25, **columns):
    """A run with entropies, norms and traces; keep: substrings of the names of stored arrays."""
    inside, outside, classes = SETS[task]
    run = f"{method}-{task}-{preset}-{seed}-{columns.get('device', 'cpu')}"
    place = {"run": run, "method": method, "task": task, "train": task, "preset": preset, "seed": seed}
    place |= {"config": "c", "device": "cpu", "source": "run", "schema": schema.SCHEMA, **columns}
    rng = np.random.default_rng([seed, *run.encode()])

    def row(metric, value, **more):
        return schema.row(metric, float(value), **place, **more)

    where = {"evaluation": "ood", "members": members, "examples": 3000}
    rows = [row("auroc", 0.9, dataset=outside, **where)]
    rows += [row("entropy_nats", 0.5, dataset=name, **where) for name in (inside, outside)]
    for layer in LAYERS:
        for metric, value in (("weight_norm_mean", 2), ("weight_norm_sd", 0.1)):
            rows.append(row(metric, value, layer=layer, evaluation="diversity", members=members))
    for epoch in (1, 2, 3):
        where = {"evaluation": "trace", "epoch": epoch, "members": members}
        named = {"dataset": f"{inside}-val", "examples": 180}
        rows.append(row("accuracy", 0.9 + epoch / 100, **named, **where))
        rows.append(row("accuracy", 0.8 + epoch / 100, **named, **where | {"members": 1}))
        for layer in LAYERS:
            rows.append(row("weight_norm_mean", 2, layer=layer, **where))
            rows.append(row("weight_norm_sd", 0.2 * len(method) / epoch, layer=layer, **where))
            rows.append(row("weight_spread", 1 / epoch, layer=layer, **where))
    arrays = shown(rng, inside, outside, classes, members, 300, channels=3 if classes == 5 else 1)
    arrays = {name: a for name, a in arrays.items() if any(part in name for part in keep)}
    about = {"cell": run, "created": "2025", "classes": classes, "sizes": [members], "failure": None}
    store.write_run(results, run, rows, arrays, about)
    return run


@pytest.fixture
def unrendered(monkeypatch):
    """Skips drawing, which takes most of a build's time."""
    drawn = dict.fromkeys(images.KINDS, b"<svg/>")
    monkeypatch.setattr(report, "images", lambda plans, folder: (dict.fromkeys(plans, drawn), b"{}"))


def drawn(results):
    """Every entry and figure of a folder, by name."""
    rows = runs.read(results).newest()
    abouts = {run: store.read_about(results, run) for run in set(rows["run"])}
    material = Material(results, prepare(rows, abouts), abouts, pd.DataFrame())
    with drawing_style():
        return {place.name: (place, plan and plan()) for place, plan in sections.all_figures(material)}


def texts(figure):
    """Every text of a figure, its panels and its bands."""
    found = [t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return "\n".join(found)


def test_the_best_preset_has_the_short_name(tmp_path):
    for preset, device in (("smoke", "cpu"), ("quick", "cuda"), ("quick", "cpu")):
        fake_run(tmp_path, "hypergan", preset=preset, device=device)
    found = drawn(tmp_path)
    for number in (3, 6, 7, 8, 9):
        own = {name: place for name, (place, _) in found.items() if name.startswith(f"figure{number}-")}
        names = [f"figure{number}-digits{suffix}" for suffix in ("", "-quick-cuda", "-smoke")]
        assert list(own) == names
        block = {k: own[names[0]].block[k] for k in ("preset", "device")}
        assert block == {"preset": "quick", "device": "cpu"}


def test_a_preset_without_the_figure_leaves_the_short_name_to_the_next(tmp_path):
    fake_run(tmp_path, "hypergan", preset="quick", keep=("entropy", "prediction"))
    fake_run(tmp_path, "hypergan", preset="smoke")
    found = drawn(tmp_path)
    assert found["figure8-digits"][0].block["preset"] == found["figure9-digits"][0].block["preset"] == "smoke"
    gap, nothing = found["figure8-digits-quick"]
    assert nothing is None
    assert gap.commands == ("bench run --method hypergan --task digits --preset quick --stale",)


def test_runs_without_arrays_leave_a_gap_with_a_command(tmp_path, unrendered):
    fake_run(tmp_path, "hypergan", keep=("entropy", "prediction"))
    written = {path.name for path in report.build(tmp_path)}
    assert "figure3-digits.svg" in written
    assert not {name for name in written if name.startswith(("figure8", "figure9"))}
    page = (tmp_path / "report.html").read_text()
    assert page.count("<code>bench run --method hypergan --task digits --preset quick --stale</code>") == 1


def test_figures_of_an_earlier_name_are_removed(tmp_path, unrendered):
    fake_run(tmp_path, "hypergan")
    for name in ("entropy-ecdf-digits-quick.svg", "figure10-mnist.png", "figure3-notmnist-smoke.png"):
        write_atomic(tmp_path / "figures" / name, b"old")
    report.build(tmp_path)
    names = {path.name for path in Path(tmp_path / "figures").glob("*")}
    assert not names & {"entropy-ecdf-digits-quick.svg", "figure10-mnist.png", "figure3-notmnist-smoke.png"}
    assert "figure3-digits.png" in names


def test_figures_of_other_tasks_keep_their_plain_name(tmp_path):
    fake_run(tmp_path, "hypergan", task="open")
    names = set(drawn(tmp_path))
    assert "entropy-ecdf-open-quick" in names and not {n for n in names if n.startswith("figure3")}


def test_ablations_are_drawn_as_far_as_measured_and_missing_ones_are_named(tmp_path):
    fake_run(tmp_path, "standard_ensemble")
    assert not {name for name in drawn(tmp_path) if name.startswith(("figure6", "figure7"))}
    for method in ("hypergan", "hypergan-no-mixer"):
        fake_run(tmp_path, method)
    found = drawn(tmp_path)
    for number, panels in ((6, 2), (7, 6)):
        place, figure = found[f"figure{number}-digits"]
        assert place.commands == (
            "bench run --method hypergan-no-discriminator,hypergan-no-both --task digits --preset quick",
        )
        assert len(figure.axes) == panels
        lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
        assert len(lines) == 2 and "standard_ensemble" not in texts(figure)
        assert "25 networks" in texts(figure)
        assert ("180 images" in texts(figure)) == (number == 6)  # norms are of no images
    ratio = found["figure7-digits"][1].axes[0].get_lines()[0].get_ydata()
    assert list(ratio) == pytest.approx([0.1 * len("hypergan") / epoch for epoch in (1, 2, 3)])
    assert list(found["figure7-digits"][1].axes[1].get_lines()[0].get_ydata()) == [1, 1 / 2, 1 / 3]


def test_each_hypergan_has_its_own_figures_with_its_ablations(tmp_path):
    for method in ("hypergan", "hypergan-published", "hypergan-published-no-both"):
        fake_run(tmp_path, method)
    found = drawn(tmp_path)
    names = {name for name in found if name.startswith(("figure6", "figure7"))}
    assert names == {f"figure{n}-digits{family}" for n in (6, 7) for family in ("", "-published")}
    for name in names:
        place, figure = found[name]
        method = "hypergan-published" if name.endswith("-published") else "hypergan"
        assert f" of {method} in training" in place.caption
        (command,) = place.commands
        assert command.startswith(f"bench run --method {method}-no-mixer,{method}-no-discriminator")
        lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata())]
        assert len(lines) == (2 if method == "hypergan-published" else 1)


def test_curves_that_hide_each_other_are_named(tmp_path):
    fake_run(tmp_path, "hypergan")
    for method in ("hypergan-no-mixer", "hypergan-no-both"):
        fake_run(tmp_path, method)
    caption = drawn(tmp_path)["figure6-digits"][0].caption
    assert "are the same" not in caption  # their norms differ, by the length of their names
    rows = runs.read(tmp_path).newest()
    rows = rows[rows["method"] != "hypergan"]
    rows.loc[rows["metric"] == "weight_norm_sd", "value"] = 0.1
    found = training.hidden_curves(training.traces(prepare(rows, {})))
    assert "hypergan-no-both and hypergan-no-mixer are the same" in found


def test_figure_9_shows_the_stored_images_with_entropies_and_classes(tmp_path):
    run = fake_run(tmp_path, "hypergan")
    fake_run(tmp_path, "apd")
    arrays = store.read_arrays(tmp_path, run)
    _, figure = drawn(tmp_path)["figure9-digits"]
    assert isinstance(figure, Figure) and len(figure.axes) == 16
    words = texts(figure)
    assert "hypergan · 25 networks · seed 0" in words and "300 images" in words
    for place, dataset in ((0, "digits"), (8, "letters")):
        index = arrays[f"{dataset}/25/extreme_index"]
        axes = figure.axes[place]
        label = axes.get_xlabel()
        assert label.startswith(f"{arrays[f'{dataset}/25/entropy_nats'][index[0]]:.2f} nats")
        assert f"says {arrays[f'{dataset}/25/prediction'][index[0]]}" in label
        shown_image = np.asarray(axes.get_images()[0].get_array())
        assert np.array_equal(shown_image, arrays[f"{dataset}/25/extreme_image"][0, 0])
    assert "is" in figure.axes[0].get_xlabel() and "is" not in figure.axes[8].get_xlabel()


def test_arrays_of_another_method_are_shown_if_the_proposed_one_has_none(tmp_path):
    fake_run(tmp_path, "hypergan", keep=("entropy",))
    fake_run(tmp_path, "mnf")
    found = drawn(tmp_path)
    for number in (8, 9):
        assert "mnf · " in texts(found[f"figure{number}-digits"][1])


def test_of_two_hypergans_the_better_one_s_arrays_are_shown_then_those_of_the_published(tmp_path):
    for method in ("apd", "hypergan-published"):
        fake_run(tmp_path, method)
    assert "hypergan-published · " in texts(drawn(tmp_path)["figure9-digits"][1])
    fake_run(tmp_path, "hypergan")
    assert "hypergan · " in texts(drawn(tmp_path)["figure9-digits"][1])


def test_filters_keep_their_values_and_are_separated():
    stack = np.arange(5 * 2 * 3, dtype=float).reshape(5, 2, 3) + 1
    whole = mosaic(stack, 3)
    assert whole.shape == (5, 11)
    assert np.array_equal(whole[:2, 4:7], stack[1]) and np.array_equal(whole[3:, :3], stack[3])
    assert np.isnan(whole[2]).all() and np.isnan(whole[:, 3]).all() and np.isnan(whole[3:, 8:]).all()
    assert np.nansum(whole) == stack.sum()


def test_copies_are_named_wherever_their_rows_are_shown(tmp_path, unrendered):
    fake_run(tmp_path, "hypergan", task="cifar5-open")
    fake_run(tmp_path, "hypergan", task="digits")
    said = "JPEG copy (cifar10-jpeg75)"
    for name, (place, _) in drawn(tmp_path).items():
        assert (said in place.caption) == ("cifar" in name), name
    report.build(tmp_path)
    for name in ("weight-norms", "out-of-distribution", "summary", "claims"):
        assert (tmp_path / "tables" / f"{name}.md").read_text().count(said) == 1
    assert (tmp_path / "report.html").read_text().count(said) > 3


def test_the_page_lists_embedded_tasks_after_the_paper_s(tmp_path, unrendered):
    for task in ("digits", "open"):
        fake_run(tmp_path, "hypergan", task=task)
    report.build(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert 0 < page.index('id="quick-cpu-open"') < page.index('id="quick-cpu-digits"')


def test_a_block_without_lossy_copies_has_no_remark():
    copies = ({"preset": "quick", "device": "cpu", "task": "t", "train": "t", "read": "cifar10-jpeg75"},)
    assert note_on_copies(copies, {"preset": "quick", "device": "cpu"})
    assert not note_on_copies(copies, {"preset": "paper", "device": "cpu"})
    assert not note_on_copies(copies, {"preset": "quick", "task": "other"})
    assert not note_on_copies(copies, {"preset": "quick", "task": "t", "dataset": "cifar10"})


def made(number, frame):
    return sheet(f"figure {number}", str(frame["mean"].sum()), 1, 1, 1.0)[0]


def plans(count=3, value=0.5):
    frame = pd.DataFrame({"mean": [value], "method": ["a"]})
    return {f"figure {i}": partial(made, i, frame) for i in range(count)}


def test_figures_are_the_same_bytes_however_many_cores_draw_them(monkeypatch):
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(images.machine, "cores", lambda cores=cores: cores)
        found.append(images.images(plans()))
    assert found[0] == found[1]
    files, _ = found[0]
    assert list(files) == list(plans()) and {tuple(kinds) for kinds in files.values()} == {images.KINDS}
    for data in (b"Date", b"Software", b"matplotlib v", b"Matplotlib v"):
        assert not any(data in file for kinds in files.values() for file in kinds.values())


def test_an_error_of_a_figure_reaches_the_report(monkeypatch):
    monkeypatch.setattr(images.machine, "cores", lambda: 2)
    broken = {**plans(), "broken": partial(made, 3, pd.DataFrame())}
    with pytest.raises(KeyError, match="mean"):
        images.images(broken)


def test_only_figures_with_other_inputs_or_other_files_are_drawn_again(tmp_path, monkeypatch):
    first, record = images.images(plans())
    for name, kinds in first.items():
        for kind, data in kinds.items():
            (tmp_path / f"{name}.{kind}").write_bytes(data)
    (tmp_path / images.RECORD).write_bytes(record)
    drawn = []
    monkeypatch.setattr(images.machine, "cores", lambda: 1)

    def again(wanted):
        before = images.draw
        monkeypatch.setattr(images, "draw", lambda plan: drawn.append(plan.args[0]) or before(plan))
        found = images.images(wanted, tmp_path)
        monkeypatch.setattr(images, "draw", before)
        told = sorted(drawn)
        drawn.clear()
        return found, told

    assert again(plans()) == ((first, record), [])
    changed = {**plans(), "figure 1": plans(value=0.7)["figure 1"]}
    assert again(changed)[1] == [1]
    (tmp_path / "figure 2.png").write_bytes(b"edited")
    (tmp_path / "figure 0.pdf").unlink()
    found, told = again(plans())
    assert told == [0, 2] and found == (first, record)
    (tmp_path / images.RECORD).write_bytes(b"{")
    assert again(plans())[1] == [0, 1, 2]


def test_arguments_of_figures_that_cannot_be_digested_are_refused():
    with pytest.raises(TypeError, match=r"can be digested, found set"):
        images.images({"a": partial(made, {1, 2})})


@pytest.mark.parametrize("more", [{}, {"seed": 2}, {"seed": 1, "task": "open"}])
def test_figures_8_and_9_show_the_configuration_that_claims_use(tmp_path, more):
    """The newest of two configurations, the one with more seeds or on more tasks: not the first by name."""
    fake_run(tmp_path, "hypergan", seed=0)
    fake_run(tmp_path, "hypergan", seed=1, config="d")
    if more:
        fake_run(tmp_path, "hypergan", config="d", **more)
    for number in (8, 9):
        assert "seed 1" in texts(drawn(tmp_path)[f"figure{number}-digits"][1])
