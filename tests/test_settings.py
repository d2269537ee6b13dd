"""Settings: bounds are accepted at the edge and refused just outside; precedence of TOML tables."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Annotated, Literal, get_args, get_origin

import pytest
from click.testing import CliRunner
from pydantic import Field, ValidationError
from small import stripes_task

from bench import registry
from bench.cli.main import main
from bench.errors import BenchError, UsageError
from bench.registry import Entry, MethodEntry, preset_values, read_toml, with_variants
from bench.settings import Count, LoopConfig, described, from_document, resolve, settings

BASES = [name for name, entry in registry.methods().items() if name == entry.base]


def config(name):
    return registry.method(name).load().Config


def edges(info):
    """For each bound of a setting, the accepted value at the edge and the refused one just outside."""
    whole = info.annotation is int
    for bound in info.metadata:
        for sign, outward in (("ge", -1), ("gt", -1), ("le", 1), ("lt", 1)):
            edge = getattr(bound, sign, None)
            if edge is None:
                continue
            step = (lambda x, way: x + way) if whole else (lambda x, way: math.nextafter(x, way * math.inf))
            if sign in ("ge", "le"):
                yield edge, step(edge, outward)
            else:
                yield step(edge, -outward), edge


def every_bound():
    """(method, setting, taken, refused) for every bound and every choice of every method."""
    for name in BASES:
        for key, info in (config(name).__pydantic_fields__ | LoopConfig.__pydantic_fields__).items():
            for taken, refused in edges(info):
                yield name, key, taken, refused
            if get_origin(info.annotation) is Literal:
                for choice in get_args(info.annotation):
                    yield name, key, choice, "neither"


def resolved(name, **sets):
    entry = registry.method(name)
    texts = {key: str(value) for key, value in sets.items()}
    return resolve(entry, entry.load().Config, "paper", "stripes", texts)


@pytest.mark.parametrize(("name", "key", "taken", "refused"), list(every_bound()))
def test_every_bound_is_accepted_at_the_edge_and_refused_just_outside(name, key, taken, refused):
    assert resolved(name, **{key: taken}).document()[key] == taken
    with pytest.raises(UsageError, match=rf"--set {name}\.{key}={refused}: expected .*, found .*{refused}"):
        resolved(name, **{key: refused})
    part = LoopConfig if key in LoopConfig.__pydantic_fields__ else config(name)
    with pytest.raises(ValidationError, match=key):
        part(**{key: refused})


@pytest.mark.parametrize("name", BASES)
def test_every_number_has_a_range_unless_all_are_valid(name):
    free = {
        key
        for key, info in config(name).__pydantic_fields__.items()
        if info.annotation in (int, float, str) and not info.metadata
    }
    assert free <= {"z_mean"}  # the centre of a normal distribution


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(name, value):
    for key, info in config(name).__pydantic_fields__.items():
        if info.annotation is float:
            with pytest.raises(UsageError, match=f"found {value}"):
                resolved(name, **{key: value})
            with pytest.raises(ValidationError):
                config(name)(**{key: value})


@pytest.mark.parametrize("name", BASES)
def test_an_integer_becomes_a_float_and_nothing_else_is_converted(name):
    for key, info in config(name).__pydantic_fields__.items():
        wrong = {int: "1.0", float: "true", bool: "1", str: "1"}.get(info.annotation, "1")
        with pytest.raises(UsageError, match="expected"):
            resolved(name, **{key: wrong})
    assert type(resolved("hypergan", beta=2).method.beta) is float
    with pytest.raises(UsageError, match="expected a number above 0"):
        resolved(name, lr="1" + "0" * 400)


@pytest.mark.parametrize("name", BASES)
def test_settings_are_restored_from_a_document_and_checked(name):
    found = resolved(name)
    assert from_document(config(name), found.document()) == found
    with pytest.raises(BenchError, match=r"batch: expected .*; use the code that wrote it") as error:
        from_document(config(name), found.document() | {"batch": 0})
    assert not isinstance(error.value, UsageError)


@pytest.mark.parametrize("name", BASES)
def test_settings_are_frozen_and_checked_when_replaced(name):
    found = config(name)()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.epochs = 3
    with pytest.raises(ValidationError, match="epochs"):
        dataclasses.replace(found, epochs=0)


def bench(*arguments):
    return CliRunner(env={"BENCH_DATA": None}).invoke(main, [*arguments], catch_exceptions=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", "0"), ("batch", "-5"), ("lr", "nan"), ("networks", "-1"), ("networks", "2.5")],
)
def test_an_invalid_setting_exits_with_two_before_data_are_read(tmp_path, monkeypatch, key, value):
    def load(root):
        raise AssertionError("data were read")

    monkeypatch.setattr("small.stripes_task", dataclasses.replace(stripes_task, load=load))
    done = bench(
        "run", "--method", "standard_ensemble", "--task", "stripes", "--preset", "smoke",
        "--set", f"standard_ensemble.{key}={value}", "--results", str(tmp_path / "results"),
    )  # fmt: skip
    assert done.exit_code == 2
    assert f"--set standard_ensemble.{key}={value}: expected" in done.output
    assert "see bench list settings standard_ensemble" in done.output
    assert not (tmp_path / "results").exists()


def test_rules_over_several_settings_name_what_was_set():
    with pytest.raises(UsageError, match=r"--set apd.epochs=1 --set apd.keep=1: keep: expected at least 2"):
        resolved("apd", epochs=1, keep=1)
    assert resolved("sgld", epochs=1, keep=1).method.kept == 1


@pytest.mark.parametrize("name", registry.methods())
def test_a_smoke_fit_of_mnist_is_a_pass_or_two_in_large_steps(name):
    entry = registry.method(name)
    found = resolve(entry, entry.load().Config, "smoke", "mnist", {}).document()
    assert found["epochs"] <= 2 and found["batch"] >= 32


def test_list_settings_shows_defaults_and_ranges():
    lines = [line.split("\t")[:4] for line in bench("list", "settings", "mc_dropout-p01").output.splitlines()]
    assert ["p", "number", "at least 0 and below 1", "0.1"] in lines
    assert ["epochs", "integer", "at least 1", "100"] in lines
    assert ["tf32", "switch", "true, false", "false"] in lines
    assert "choice\twgan, gaussian, none" in bench("list", "settings", "apd").output
    assert bench("list", "settings", "apd,mnf").exit_code == 2


def entry(toml, **own):
    return MethodEntry("m", "package.m_file:M", "", "m", own, toml)


@settings
class Config:
    """Settings of no method."""

    a: Count = 1
    b: Annotated[float, Field(le=2)] = 0.5


def test_a_value_outside_its_range_in_a_toml_file_names_the_file():
    for toml in ({"quick": {"a": 0}}, {"quick": {"x": {"a": "many"}}}, {"quick": {"c": 1}}):
        with pytest.raises(BenchError, match=r"m_file.toml, preset quick, m: .*correct the file") as error:
            resolve(entry(toml), Config, "quick", "x", {})
        assert not isinstance(error.value, UsageError)


def test_a_config_without_ranges_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Plain:
        a: int = 1

    with pytest.raises(BenchError, match=r"Plain: expected a class decorated with @bench.training.settings"):
        resolve(entry({}), Plain, "quick", "x", {})


def test_described_shows_a_variant_s_own_defaults():
    assert list(described(Config, {"a": 7}))[:2] == [
        ("a", 7, "integer", "at least 1"),
        ("b", 0.5, "number", "at most 2"),
    ]


def test_the_most_specific_table_wins():
    toml = {
        "smoke,quick": {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "x,y": {"d": 5, "e": 5}},
        "quick": {"b": 2, "c": 2, "d": 2, "e": 2, "x,y,z": {"c": 3, "d": 3, "e": 3}, "x": {"e": 4}},
        "paper": {"x": {"a": 9}},
    }
    # x: e from [quick.x], d from [quick."x,y,z"] (3 names) over ["smoke,quick"."x,y"] (4)
    assert preset_values(toml, "quick", "x") == {"a": 1, "b": 2, "c": 3, "d": 3, "e": 4}
    assert preset_values(toml, "quick", "w") == {"a": 1, "b": 2, "c": 2, "d": 2, "e": 2}
    assert preset_values(toml, "smoke", "y") == {"a": 1, "b": 1, "c": 1, "d": 5, "e": 5}
    assert preset_values(toml, "paper", "x") == {"a": 9}


def test_a_variant_overrides_the_file_and_set_overrides_both():
    toml = {"quick": {"a": 2, "x": {"a": 3}}}
    assert resolve(entry(toml), Config, "quick", "x", {}).method.a == 3
    assert resolve(entry(toml, a=4), Config, "quick", "x", {}).method.a == 4
    assert resolve(entry(toml, a=4), Config, "quick", "x", {"a": "5"}).method.a == 5


def test_a_variant_s_tables_hold_for_their_presets_and_tasks():
    own = {"a": 4, "smoke": {"a": 5}, "quick,paper": {"x": {"a": 6}}}
    asked = [("smoke", "x"), ("quick", "x"), ("quick", "y"), ("paper", "x")]
    found = [resolve(entry({"quick": {"a": 2}}, **own), Config, *place, {}).method.a for place in asked]
    assert found == [5, 6, 4, 6]


def test_a_variant_begins_with_those_it_is_like(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(
        "[variants.first]\nabout = 'one'\na = 2\nb = 0.25\n[variants.first.quick.x]\na = 3\nb = 1.0\n"
        "[variants.second]\nlike = 'first'\nb = 0.75\n[variants.second.quick.x]\nb = 2.0\n"
    )
    variants = {e.name: e for e in with_variants(Entry("m", "package.m_file:M", ""), read_toml(path, "m"))}
    second = variants["m-second"]
    assert second.about == ""
    assert second.values("smoke", "x") == {"a": 2, "b": 0.75}
    assert second.values("quick", "x") == {"a": 3, "b": 2.0}
    assert variants["m-first"].values("quick", "x") == {"a": 3, "b": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["quick,huge"]\na = 1', "not about, a preset, variants or search"),
        ('["quick,"]\na = 1', "expected different names"),
        ('[quick."x,x"]\na = 1', "expected different names"),
        ('[quick."x,y"]\na = 1\n[quick."y,z"]\na = 2', "a is set by two tables"),
        ('["quick,smoke"]\na = 1\n["quick,paper"]\na = 2', "a is set by two tables"),
        ("[variants.v.huge]\na = 1", "variant v: huge is not a preset"),
        ('[variants.v]\nlike = "w"\n[variants.w]\na = 1', "no variant that stands before it"),
        ('[variants.v.quick."x,y"]\na = 1\n[variants.v.quick."y,z"]\na = 2', "a is set by two tables"),
    ],
)
def test_an_ambiguous_or_invalid_file_is_refused(tmp_path, text, said):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(BenchError, match=said):
        read_toml(path, "m")


@pytest.mark.parametrize("command", ["--help", "list methods", "list tasks", "list presets"])
def test_list_and_help_import_neither_torch_nor_pydantic(command):
    code = (
        "import sys\nfrom bench.cli.main import main\ntry: main(sys.argv[1:])\n"
        "finally: print('heavy:', *(m for m in ('torch', 'pydantic') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
    assert done.stdout.strip().endswith("heavy:")
