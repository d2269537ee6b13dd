"""Shared fixtures. Imports no torch: tests of the report and of rows run without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench import registry

if TYPE_CHECKING:
    from bench.task import Split

registry.add_task("stripes", "small:stripes_task", "images of three classes, for tests")


@pytest.fixture
def train() -> Split:
    from small import stripes

    return stripes(96)


@pytest.fixture
def val() -> Split:
    from small import stripes

    return stripes(30, seed=1)
