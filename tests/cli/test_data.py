"""`bench data`: exit codes."""

from __future__ import annotations

import logging

import pytest
from commands import bench

from bench import registry


class Source:
    def __init__(self, state: str, warning: str) -> None:
        self.state, self.warning = state, warning

    def verify(self, root):
        if self.warning:
            logging.getLogger("bench.datasets").warning("%s: %s", root / "x", self.warning)
        return [(root / "x", self.state)]


@pytest.mark.parametrize(
    ("state", "warning", "code"),
    [("ok", "", 0), ("missing", "", 1), ("ok", "not the copy that this suite was tested with", 1)],
)
def test_verify_exits_with_one_where_it_warns(tmp_path, monkeypatch, state, warning, code):
    monkeypatch.setattr(registry, "source", lambda name: Source(state, warning))
    monkeypatch.setattr(registry, "tasks", dict)  # images are checked in test_data_verify.py
    done = bench("data", "verify", "mnist", "--data", str(tmp_path))
    assert done.exit_code == code
    assert f"{state}  {tmp_path / 'x'}" in done.output
    assert done.output.count("warning: ") == bool(warning) and warning in done.output
