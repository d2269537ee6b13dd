"""Checkpoints are written so often that a killed fit loses 5 % or 10 seconds, beside its round."""

from __future__ import annotations

import pytest

from bench.training.checkpoint import Pace


def pace(monkeypatch, spent, size, path):
    path.write_bytes(b"")
    monkeypatch.setattr("time.perf_counter", lambda: spent)
    monkeypatch.setattr(type(path), "stat", lambda self, **_: type("S", (), {"st_size": size})())
    return Pace(began=0.0).seconds(path, 60.0)


@pytest.mark.parametrize("spent", [0.5, 10, 100, 1000, 10_000])
@pytest.mark.parametrize("size", [0, 1e6, 1e8, 1e10])
def test_a_fit_loses_no_more_than_5_percent_or_10_seconds(monkeypatch, tmp_path, spent, size):
    assert pace(monkeypatch, spent, size, tmp_path / "fit") <= max(10, spent / 20)


@pytest.mark.parametrize(("spent", "seconds"), [(1, 1), (100, 5), (1000, 10), (5000, 10)])
def test_small_checkpoints_lose_the_smaller_of_both(monkeypatch, tmp_path, spent, seconds):
    assert pace(monkeypatch, spent, 1e6, tmp_path / "fit") == seconds


def test_large_checkpoints_take_their_share_of_the_time_and_no_more(monkeypatch, tmp_path):
    assert pace(monkeypatch, 600, 1e8, tmp_path / "fit") == 20  # a second of writing
    assert pace(monkeypatch, 10_000, 1e10, tmp_path / "fit") == 60
