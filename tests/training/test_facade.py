"""The door for authors: its example runs, and what it lists is what it exports."""

from __future__ import annotations

import doctest
import re

import pytest
import torch
from small import small_method, stripes

from bench import rng, training
from bench.training import FitSettings


@pytest.mark.parametrize("module", [training, rng])
def test_examples_in_docstrings_run(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_the_docstring_lists_every_name_that_is_exported():
    assert training.__doc__ is not None
    listed = set(re.findall(r"`(\w+)", training.__doc__[training.__doc__.index("What there is") :]))
    assert set(training.__all__) <= listed
    assert {name for name in training.__all__ if not hasattr(training, name)} == set()


def test_losses_that_are_tensors_are_refused_after_the_first_round(monkeypatch):
    method = small_method("mc_dropout")
    whole = method.round
    monkeypatch.setattr(method, "round", lambda i: {n: torch.tensor(v) for n, v in whole(i).items()})
    with pytest.raises(TypeError, match=r"round 0: expected losses as floats, found \{'loss': 'Tensor'\}"):
        training.fit(method, stripes(96), stripes(30, seed=1), FitSettings(seed=0))
