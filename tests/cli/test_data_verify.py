"""`bench data verify` prints what the canaries of the data find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from small import load_stripes, stripes_task

from bench import registry
from bench.cli.main import main
from bench.running import data as running_data


class Stripes:
    """A source whose files are in order."""

    name = "mnist"

    def verify(self, root: Path) -> list[tuple[Path, str]]:
        return [(root / "stripes.txt", "ok")]


@pytest.mark.parametrize(("fault", "said"), [("", "ok  mnist: "), ("copy", "doubt  stripes (test): "),
                                             ("outliers", "wrong  noise (outliers): ")])  # fmt: skip
def test_verify_prints_what_the_canaries_find(monkeypatch, tmp_path, fault: str, said: str) -> None:
    def load(root: Path | None):
        data = load_stripes(None)
        if fault == "copy":
            images = data.train.images.clone()
            images[4] = data.test.images[7]
            return replace(data, train=replace(data.train, images=images))
        if fault == "outliers":
            return replace(data, outliers=replace(data.test.at(torch.arange(9)), name="noise"))
        return data

    monkeypatch.setattr(registry, "source", lambda name: Stripes())
    monkeypatch.setattr(registry, "tasks", lambda: {"mnist": None})
    monkeypatch.setattr(registry, "task", lambda name: replace(stripes_task, load=load))
    done = CliRunner().invoke(main, ["data", "verify", "mnist", "--data", str(tmp_path)])
    assert said in done.output and done.exit_code == (1 if fault else 0)
    assert f"ok  {tmp_path / 'stripes.txt'}" in done.output
    if fault == "copy":
        assert "7 is train 4" in done.output
    assert running_data.checked("mnist", None)[0][0] == said.split()[0]
