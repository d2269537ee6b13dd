"""Comments beside fields: what a setting is for and where it comes from, read without importing it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench import registry
from bench.system import fields as module
from bench.system.fields import Field, fields

SOURCE = '''
class Settings:
    """Of a method."""

    # Of ELU; 0 is ReLU,
    # as drawn [paper, section 2].
    alpha: float = 0.5
    lr: float = 1e-3  # rate of Adam [code]
    kind: Literal["a", "b"] = "a"  # [ours]
    wide: bool = False
    size: Count = 2 * N  # "#" is a sign [0, 1] of a comment

    def __post_init__(self):
        inner: int = 1  # no field


class Method:
    Config = Settings
'''


@pytest.fixture
def written(tmp_path, monkeypatch):
    path = tmp_path / "m.py"
    path.write_text(SOURCE)
    monkeypatch.setattr(module.sources, "find", lambda name: path if name == "m" else None)


def test_a_comment_says_what_a_field_is_for_and_in_brackets_where_it_comes_from(written):
    found = fields("m", "Settings")
    assert found == {
        "alpha": Field("Of ELU; 0 is ReLU, as drawn", "paper, section 2", 0.5),
        "lr": Field("rate of Adam", "code", 1e-3),
        "kind": Field("", "ours", "a", ("a", "b")),
        "wide": Field("", "", False, (True, False)),
        "size": Field('"#" is a sign [0, 1] of a comment', "", None),
    }
    assert fields("m", "Method") == found


def test_a_class_or_a_module_without_source_has_no_fields(written):
    assert fields("m", "Other") == fields("elsewhere", "Settings") == {}


@pytest.mark.parametrize("name", [name for name, entry in registry.methods().items() if name == entry.base])
def test_every_setting_of_a_method_says_what_it_is_for(name):
    entry = registry.method(name)
    found = fields(entry.module, entry.target.partition(":")[2])
    assert found and [key for key, field in found.items() if not field.about] == []


def test_settings_are_read_without_importing_torch():
    code = (
        "import sys; from bench import registry; from bench.system.fields import fields; "
        "entry = registry.method('hypergan'); found = fields(entry.module, 'HyperGAN'); "
        "sys.exit(not found['beta'].source or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
