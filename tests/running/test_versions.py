"""Code versions: changes of each kind in a copy of the sources are detected and named, or ignored."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import bench
from bench import registry
from bench.running import versions
from bench.system import code, sources
from bench.system.fingerprint import Code, changes, place_of, version

ENTRY = registry.method("hypergan")
TASK = registry.task("digits")
SOURCES = (".py", ".cpp", ".h")


@pytest.fixture
def tree(tmp_path):
    """A copy of this suite's sources, with methods and datasets where they are imported from."""
    top = Path(bench.__file__).parent
    folders = {"bench": top}
    folders |= {f"bench/{part}": sources.find(f"bench.{part}").parent for part in ("methods", "datasets")}
    for name, folder in folders.items():
        for path in (path for end in SOURCES for path in folder.rglob(f"*{end}")):
            target = tmp_path / name / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for path in folder.rglob("_*.so"):  # that it was compiled counts, not its bytes
            (tmp_path / name / path.relative_to(folder)).touch()
    return tmp_path


def finder(tree):
    def find(module):
        path = tree.joinpath(*module.split("."))
        found = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return found if found.exists() else None

    return find


def fit_of(tree, method="hypergan"):
    task = TASK
    roots = (code.FIT, registry.method(method).target, place_of(task.network), versions.loss_place(task))
    return Code(code.FIT_EXCLUDED, finder(tree)).definitions(roots)


def run_of(tree):
    return Code(code.EXCLUDED, finder(tree)).definitions(versions.run_roots(ENTRY, TASK))


def edit(tree, old, new):
    """Replace a text in the only file of the copy that contains it."""
    files = [p for p in tree.rglob("*.*") if p.suffix in SOURCES and old in p.read_text("utf-8")]
    assert len(files) == 1, (old, files)
    text = files[0].read_text("utf-8")
    assert text.count(old) == 1, old
    files[0].write_text(text.replace(old, new), "utf-8")


COMPUTES = {
    "HyperGAN._step": ("loss + c.beta * adversarial", "loss + 2 * c.beta * adversarial"),
    "Minibatches._order": ("torch.randperm(len(self.split), generator=rng)", "torch.arange(len(self.split))"),
    "kernels.cpp": ("constexpr int P = registers < 32 ? 1 : 3;", "constexpr int P = 1;"),
    "kernels_later.cpp": ("constexpr int STRIP = 3;", "constexpr int STRIP = 2;"),
    "kernels_vectors.h": ("#include <vector>", "#include <vector>\n#define LATER 1"),
    "LEAKY_SLOPE": ("LEAKY_SLOPE = 0.01 ", "LEAKY_SLOPE = 0.02 "),
    "adam": ("        fused=True,\n        capturable", "        capturable"),
    "stream": ('big") >> 1', 'big") >> 2'),
    "Normalise": ("class Normalise(nn.Module):", "class Normalise(nn.Sequential):"),
}


@pytest.mark.parametrize("name", COMPUTES)
def test_a_change_that_affects_a_fit_is_detected_and_named(tree, name):
    before = fit_of(tree)
    edit(tree, *COMPUTES[name])
    found = changes(before, fit_of(tree))
    assert found == [name]
    assert version(before) != version(fit_of(tree))


TELLS = {
    "the trace": ('rows.append(row("disagreement", differing, **on_part))', "pass"),
    "a message": ("lower the learning rate with --set", "try a lower learning rate with --set"),
    "a comment": ("# The discriminator's too:", "# That of the discriminator too:"),
    "a docstring": ("One epoch: steps of K networks", "An epoch: steps of K networks"),
    "an annotation": ("def _mlp(self, inputs: int,", "def _mlp(self, inputs: float,"),
    "another method": ("class APD(Method):", "class APD(Method):\n    later = 1\n"),
    "a default, which the settings name": ("beta: NotNegative = 1.0", "beta: NotNegative = 2.0"),
    "how fits are stored": ('whole.update(f"\\0{name}\\0', 'whole.update(f"\\1{name}\\0'),
}


@pytest.mark.parametrize("what", TELLS)
def test_other_changes_do_not_affect_the_version_of_a_fit(tree, what):
    before = fit_of(tree)
    edit(tree, *TELLS[what])
    assert changes(before, fit_of(tree)) == []


def test_what_is_drawn_does_not_affect_the_version_of_a_fit(tree):
    before = fit_of(tree, "mc_dropout")
    edit(tree, 'drawn[f"{layer}.weight"] = weight * scale', 'drawn[f"{layer}.weight"] = weight + scale')
    assert changes(before, fit_of(tree, "mc_dropout")) == []


RUNS = {
    "trace": TELLS["the trace"],
    "STATISTICS_CODES": ("STATISTICS_CODES = 2048", "STATISTICS_CODES = 1024"),
    "HALVINGS": ("HALVINGS = ", "HALVINGS = 1 + "),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_s_version_depends_on_trace_draws_and_evaluations(tree, name):
    before = run_of(tree)
    edit(tree, *RUNS[name])
    assert changes(before, run_of(tree)) == [name]


def test_evaluations_of_other_tasks_do_not_affect_a_run_s_version():
    found = versions.run_roots(ENTRY, TASK)
    assert not any("regression" in root for root in found)
    assert any("regression" in root for root in versions.run_roots(ENTRY, registry.task("toy")))


def test_moving_a_definition_or_importing_it_differently_changes_nothing(tree):
    before = fit_of(tree), run_of(tree)
    path = next(p for p in tree.rglob("*.py") if "def untrained_rms(" in p.read_text("utf-8"))
    text = path.read_text("utf-8")
    start, end = text.index("def untrained_rms("), text.index("def _settle(")
    (tree / "bench" / "elsewhere.py").write_text("import math\n\n" + text[start:end], "utf-8")
    moved = text[:start] + text[end:]
    moved = moved.replace(
        "from torch import Tensor, nn", "from torch import Tensor, nn\nfrom bench import elsewhere", 1
    )
    path.write_text(moved.replace("untrained_rms(c.alpha", "elsewhere.untrained_rms(c.alpha"), "utf-8")
    assert (fit_of(tree), run_of(tree)) == before


def test_order_and_file_of_a_root_do_not_matter(tree):
    before = fit_of(tree)
    path = next(p for p in tree.rglob("*.py") if "class HyperGAN(Method)" in p.read_text("utf-8"))
    text = path.read_text("utf-8")
    head, tail = text.split("def untrained_rms(")
    start = head.index("@settings")
    path.write_text(head[:start] + "def untrained_rms(" + tail + "\n\n" + head[start:], "utf-8")
    assert fit_of(tree) == before
    path.rename(path.with_name("hypergan_of_1.py"))
    assert fit_of(tree) == before


def test_an_unknown_root_is_an_error(tree):
    with pytest.raises(LookupError, match=r"bench\.methods\.hypergan:Nobody"):
        Code((), finder(tree)).definitions(["bench.methods.hypergan:Nobody"])


def test_the_target_of_an_import_matters(tmp_path):
    def hashes(line):
        (tmp_path / "a.py").write_text(f"{line}\n\n\ndef f(x):\n    return sqrt(x)\n")
        return Code((), finder(tmp_path)).definitions(["a:f"])

    assert hashes("from math import sqrt") == hashes("from math import sqrt  # a root")
    assert hashes("from math import sqrt") != hashes("from cmath import sqrt")


PLUGIN = {
    "extra/__init__.py": "",
    "extra/method.py": "from extra import helper\n\n\n"
    "class Own:\n    def round(self, i):\n        return helper.clip(i)\n",
    "extra/loop.py": "from extra.method import Own\nfrom extra.task import network\n\n\n"
    "def fit():\n    network()\n    return Own().round(0)\n",
    "extra/helper.py": "LIMIT = 1\n\n\ndef clip(x):\n    return min(x, LIMIT)\n",
    "extra/task.py": "from torch import nn\n\n\n"
    "def network():\n    return nn.Sequential(nn.Linear(1, 2), nn.Tanh())\n",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "name"),
    [("helper", "LIMIT = 1", "LIMIT = 2", "LIMIT"), ("task", "Tanh", "ReLU", "network")],
)
def test_modules_imported_by_a_plug_in_and_its_task_s_network_matter(
    tmp_path, monkeypatch, file, old, new, name
):
    for path, text in PLUGIN.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = Code().definitions(["extra.loop:fit"])
    path = tmp_path / "extra" / f"{file}.py"
    path.write_text(path.read_text().replace(old, new))
    assert changes(before, Code().definitions(["extra.loop:fit"])) == [name]


def test_values_bound_to_a_network_function_matter():
    wider = replace(TASK, network=partial(TASK.network, classes=7))
    found = changes(versions.fit_definitions(ENTRY, TASK), versions.fit_definitions(ENTRY, wider))
    assert found == ["task: network"]


def test_c_comments_are_removed_and_strings_are_not():
    text = 'int a; // one\n/* two\n three */ char *b = "// no /* comment */"; \n'
    assert sources.without_comments(text) == 'int a;\n  char *b = "// no /* comment */";'


def test_the_preset_s_scale_affects_the_version_of_a_run_but_not_of_its_fit():
    scales = {**TASK.scales, "smoke": replace(TASK.scale("smoke"), images=7)}
    other = replace(TASK, scales=scales)
    assert versions.fit_definitions(ENTRY, TASK) == versions.fit_definitions(ENTRY, other)
    found = changes(
        versions.run_definitions(ENTRY, TASK, "smoke"), versions.run_definitions(ENTRY, other, "smoke")
    )
    assert found == ["task: scale"]


# What static analysis may miss: sources of a small package, an edit of one, and the name that it changes.
SMALL = {
    "an object that is passed in": (
        {"a": "class C:\n    def f(self):\n        return 1\n\n\ndef fit(c: C):\n    return c.f()\n"},
        ("a", "return 1", "return 2"), "C.f",
    ),
    "a base of ours whose base is external": (
        {
            "a": "from p.b import Base\n\n\nclass L(Base):\n    def forward(self, x):\n        return x\n\n\n"
            "def fit():\n    return L()(1)\n",
            "b": "from torch import nn\n\n\nclass Base(nn.Module):\n    later = 1\n",
        },
        ("a", "return x", "return 2 * x"), "L.forward",
    ),
    "a method that is called like a message": (
        {"a": "class C:\n    def fit(self):\n        self.progress(1)\n\n\ndef fit():\n    C().fit()\n"},
        ("a", "progress(1)", "progress(2)"), "C.fit",
    ),
    "a name that is computed": (
        {
            "a": "class C:\n    def _one(self):\n        return 1\n\n    def fit(self, n):\n"
            '        return getattr(self, f"_{n}")()\n\n\ndef fit(n):\n    return C().fit(n)\n'
        },
        ("a", "return 1", "return 2"), "C._one",
    ),
    "a module under another name": (
        {
            "a": "from p import b\n\nm = b\n\n\ndef fit():\n    return m.f()\n",
            "b": "def f():\n    return 1\n",
        },
        ("b", "return 1", "return 2"), "f",
    ),
    "all names of a module": (
        {"a": "from p.b import *\n\n\ndef fit():\n    return f()\n", "b": "def f():\n    return 1\n"},
        ("b", "return 1", "return 2"), "f",
    ),
    "the first of two imports": (
        {
            "a": "try:\n    from p.b import f\nexcept ImportError:\n    from p.c import f\n\n\n"
            "def fit():\n    return f()\n",
            "b": "def f():\n    return 1\n", "c": "def f():\n    return 1\n",
        },
        ("b", "return 1", "return 2"), "f",
    ),
    "a loop that fills a table": (
        {"a": "T = {}\nfor k in (1, 2):\n    T[k] = k\n\n\ndef fit():\n    return T[1]\n"},
        ("a", "T[k] = k", "T[k] = 2 * k"), "statements",
    ),
    "a module that changes another when it is imported": (
        {
            "a": "import p.b\n\n\ndef fit():\n    return 1\n",
            "b": "import torch\n\ntorch.set_default_dtype(1)\n",
        },
        ("b", "dtype(1)", "dtype(2)"), "statements",
    ),
    "a function that a decorator registers": (
        {
            "a": "T = {}\n\n\ndef put(f):\n    T[1] = f\n    return f\n\n\n@put\ndef g():\n    return 1\n\n\n"
            "def fit():\n    return T[1]()\n"
        },
        ("a", "return 1\n", "return 2\n"), "statements",
    ),
    "a constant of a class of settings": (
        {
            "a": "from typing import ClassVar\n\n\nclass C:\n    x: int = 1\n    y: ClassVar[int] = 1\n\n\n"
            "class M:\n    Config = C\n\n\ndef fit():\n    return M().Config.y\n"
        },
        ("a", "y: ClassVar[int] = 1", "y: ClassVar[int] = 2"), "C",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SMALL)
def test_what_is_reached_in_a_roundabout_way_is_seen(tmp_path, what):
    files, (file, old, new), name = SMALL[what]
    for module, text in {"__init__": "", **files}.items():
        path = tmp_path / "p" / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    before = Code((), finder(tmp_path)).definitions(["p.a:fit"])
    path = tmp_path / "p" / f"{file}.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert name in changes(before, Code((), finder(tmp_path)).definitions(["p.a:fit"]))


def made(sizes):
    return lambda: sizes


def itself(size):
    def build(deeper=False):
        return build(True) if not deeper else size

    return build


class Factory:
    def __init__(self, size):
        self.size = size

    def build(self):
        return self.size


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (partial(made, 1), partial(made, 2)),
        (made([3, 4]), made([5, 4])),
        (Factory(3).build, Factory(4).build),
        (partial(made, changes), partial(made, version)),
        (made({"a", "b"}), made({"a", "c"})),
        (itself(3), itself(4)),
    ],
)
def test_what_a_network_function_is_bound_to_matters_and_repeats(one, other):
    found = [versions.fit_definitions(ENTRY, replace(TASK, network=n)) for n in (one, one, other)]
    assert found[0] == found[1] != found[2]
