"""Plug-ins that cannot be used: one warning that names them, and everything else stays usable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

OWN = ["hypergan", "standard_ensemble", "mc_dropout", "sgld"]
METHOD = "from bench.methods.mc_dropout import MCDropout as M\n"


@pytest.fixture
def plugin(tmp_path):
    """Writes a package `pack` whose entry point `point` imports the module `names`."""

    def write(names, **files):
        folder = tmp_path / "site"
        about = folder / "pack-0.1.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: pack\nVersion: 0.1\n")
        (about / "RECORD").write_text("")
        (about / "entry_points.txt").write_text("[bench.plugins]\npoint = names\n")
        if names is not None:
            (folder / "names.py").write_text("from bench.registry import *\n" + names)
        for name, text in files.items():
            (folder / name.replace("_dot_", ".")).write_text(text)
        return folder

    return write


def run(folder, *arguments, code="import sys; from bench.cli.main import main; main(sys.argv[1:])"):
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("BENCH_DATA", None)
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


BROKEN = {
    "left behind": (None, {}, "point"),
    "missing dependency": ("import a_package_that_is_not_here", {}, "point"),
    "syntax": ("def (", {}, "point"),
    "exits": ("raise SystemExit(3)", {}, "point"),
    "target in a missing package": ("add_method('mine', 'nowhere.mine:M')", {}, "mine"),
    "package that fails": ("add_method('mine', 'bad.mine:M')", {"bad_dot_py": "1 / 0"}, "mine"),
    "no TOML": ("add_method('mine', 'mine:M')", {"mine_dot_py": METHOD}, "mine"),
    "no TOML file": (
        "add_method('mine', 'mine:M')",
        {"mine_dot_py": METHOD, "mine_dot_toml": "about = "},
        "mine",
    ),
    "a strange table": (
        "add_method('mine', 'mine:M')",
        {"mine_dot_py": METHOD, "mine_dot_toml": "[huge]\nepochs = 1"},
        "mine",
    ),
    "a name that is no file's": ("add_method('../mine', 'mine:M')", {}, "../mine"),
    "the name of a variant that is too long": (
        "add_method('mine', 'mine:M')",
        {"mine_dot_py": METHOD, "mine_dot_toml": f"[variants.{'x' * 60}]\np = 0.1"},
        "mine",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_gives_one_warning_and_others_stay_usable(plugin, kind):
    names, files, asked = BROKEN[kind]
    folder = plugin(names, **files)
    done = run(folder, "list", "methods")
    assert done.returncode == 0 and set(OWN) <= set(done.stdout.split())
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("Warning: plug-in 'point' of package pack 0.1: ")
    assert any(text in warning for text in ("uninstall", "correct the file", "rename it"))
    asked_for = run(folder, "plan", "--method", asked, "--task", "digits")
    assert asked_for.returncode == 2 and "Traceback" not in asked_for.stderr
    assert warning.removeprefix("Warning: ") in asked_for.stderr.splitlines()[-1]


@pytest.mark.parametrize("file", [{"mine_dot_py": "import nothing_here"}, {"mine_dot_py": "x = 1"}, {}])
def test_a_method_whose_module_fails_when_used_is_one_error(plugin, file):
    folder = plugin("add_method('mine', 'mine:M')", mine_dot_toml="[smoke]\nepochs = 1", **file)
    done = run(folder, "plan", "--method", "mine", "--task", "digits", "--preset", "smoke")
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert "plug-in 'point' of package pack 0.1" in done.stderr.splitlines()[-1]


CLASHES = {
    "method": ("add_method('hypergan', 'mine:M')", "", "methods", "hypergan", "bench.methods.hypergan"),
    "own variant": ("add_method('sgld', 'mine:M')", "", "methods", "sgld", "bench.methods.apd"),
    "variant": (
        "add_method('mine', 'mine:M')",
        "[variants.x]\nname = 'hypergan'\n",
        "methods",
        "hypergan",
        "bench.methods.hypergan",
    ),
    "own method": (
        "add_method('mine', 'mine:M')",
        "[variants.x]\nname = 'mine'\n",
        "methods",
        "mine",
        "mine",
    ),
    "two variants": (
        "add_method('mine', 'mine:M')",
        "[variants.x]\nname = 'other'\n[variants.y]\nname = 'other'\n",
        "methods",
        "other",
        "mine",
    ),
    "task": ("add_task('digits', 'mine:M', 'x')", "", "tasks", "digits", "bench.datasets.digits"),
    "source": ("add_source('mnist', 'mine:M', 'x')", "", "sources", "mnist", "bench.datasets.mnist"),
}


@pytest.mark.parametrize("kind", CLASHES)
def test_the_first_registration_of_a_name_wins(plugin, kind):
    names, toml, table, name, module = CLASHES[kind]
    folder = plugin(names, mine_dot_py=METHOD, mine_dot_toml=toml)
    code = f"from bench import registry; print(registry.{table}()[{name!r}].module)"
    done = run(folder, code=code)
    assert done.stdout.strip() == module
    (warning,) = done.stderr.splitlines()
    assert f"{name!r} (mine:M) is skipped" in warning
    owner = "of package pack 0.1 has" if module == "mine" else "of package ensemble-bench"
    assert "plug-in 'point' of package pack 0.1" in warning and owner in warning


def test_no_name_is_all(plugin):
    folder = plugin("add_method('all', 'mine:M')", mine_dot_py=METHOD)
    done = run(folder, "list", "methods")
    assert done.stdout.split() == run("/", "list", "methods").stdout.split()
    assert "method skipped, rename it" in done.stderr


def test_the_report_needs_no_plug_in_that_is_not_installed_any_more(plugin):
    mine = f"{MISNAMED}mine = replace(digits, name='mine')\n"
    folder = plugin(
        "add_task('mine', 'mine:mine', 'x')\nadd_method('mymethod', 'mymethod:M')",
        mine_dot_py=mine,
        mymethod_dot_py="from bench.methods.standard_ensemble import *\nM = StandardEnsemble\n",
        mymethod_dot_toml="[smoke]\nnetworks = 5\nepochs = 1\n[variants.other]\nbatch = 50\n",
    )
    where = ["--method", "mymethod,mymethod-other", "--task", "mine", "--preset", "smoke"]
    done = run(folder, "run", *where, "--results", "r")
    assert done.returncode == 0, done.stderr
    (folder / "names.py").write_text("raise RuntimeError")  # broken, then not installed
    tables = []
    for path in (folder, "/"):
        report = run(path, "report", "--results", str(folder / "r"))
        assert report.returncode == 0, report.stderr
        tables.append((folder / "r" / "tables" / "summary.csv").read_text())
    assert tables[0] == tables[1]
    assert {line.split(",")[2:4][0] for line in tables[0].splitlines()[1:]} == {"mine"}
    assert "mymethod-other" in tables[0] and "mymethod," in tables[0]


def test_a_skipped_name_does_not_affect_the_rest_of_its_plugin(plugin):
    folder = plugin(
        "add_method('hypergan', 'mine:M')\nadd_method('mine', 'mine:M')",
        mine_dot_py=METHOD,
        mine_dot_toml="[smoke]\nepochs = 1",
    )
    assert "mine" in run(folder, "list", "methods").stdout.split()


MISNAMED = "from dataclasses import replace\nfrom bench.datasets.digits import digits\nmine = digits\n"


def test_a_task_whose_name_differs_from_its_registration_is_refused(plugin):
    folder = plugin("add_task('mine', 'mine:mine', 'x')", mine_dot_py=MISNAMED)
    done = run(folder, "plan", "--method", "mc_dropout", "--task", "mine", "--preset", "smoke")
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    assert error.startswith("Error: plug-in 'point' of package pack 0.1: ")
    assert "named 'mine', as registered, found the name 'digits'" in error


def test_cells_of_other_methods_and_tasks_run_beside_those_that_cannot_be_loaded(plugin):
    folder = plugin(
        "add_task('mine', 'mine:mine', 'x')\nadd_method('broken', 'broken:M')",
        mine_dot_py=MISNAMED,
        broken_dot_py="import nothing_here",
        broken_dot_toml="[smoke]\nepochs = 1",
    )
    small = ["standard_ensemble.networks=5", "standard_ensemble.epochs=1", "broken.epochs=1"]
    sets = [word for text in small for word in ("--set", text)]
    where = ["--method", "broken,standard_ensemble", "--task", "mine,digits", "--preset", "smoke", *sets]
    done = run(folder, "run", *where, "--results", "r")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1 run, 0 already done, 2 failed" in done.stdout
    mine, broken = (line for line in done.stderr.splitlines() if line.startswith("failed: "))
    assert mine.startswith("failed: mine: plug-in 'point' of package pack 0.1: ")
    assert broken.startswith("failed: broken: plug-in 'point' of package pack 0.1: ")
    assert "nothing_here" in broken
    assert [path.name[:25] for path in (folder / "r" / "raw").glob("*.csv")] == ["standard_ensemble-digits-"]


@pytest.mark.parametrize("train", ["../../elsewhere", None, "all"])
def test_a_task_whose_train_key_is_no_folder_s_name_is_refused(plugin, train):
    mine = f"{MISNAMED}mine = replace(digits, name='mine', train={train!r})\n"
    folder = plugin("add_task('mine', 'mine:mine', 'x')", mine_dot_py=mine)
    done = run(folder, "plan", "--method", "mc_dropout", "--task", "mine", "--preset", "smoke")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: plug-in 'point' of package pack 0.1: train key name {train!r}: ")


def test_this_suite_s_own_names_are_all_registered():
    code = "from bench import registry; registry.methods(); registry.tasks(); print(registry._skipped)"
    done = run("/", code=code)
    assert done.stdout.strip() == "{}" and done.stderr == ""
