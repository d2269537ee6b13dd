"""Search spaces: shares of the way become values; what is no space is refused where it is read."""

from __future__ import annotations

import math

import pytest

from bench import registry
from bench.errors import BenchError
from bench.registry import read_toml, search_values
from bench.running import candidates, tune
from bench.space import Choice, Range, parse

SEARCHED = [
    name for name, entry in registry.methods().items() if name == entry.base and "search" in entry.toml
]


def test_a_share_of_the_way_is_a_value():
    assert [Choice((1, 2, 4)).at(share) for share in (0.0, 0.34, 0.999)] == [1, 2, 4]
    assert Range(1e-4, 1e-2, log=True).at(0.5) == 1e-3
    assert Range(0.0, 2.0).at(0.25) == 0.5
    assert Range(1, 9).at(0.5) == 5 and isinstance(Range(1, 9).at(0.5), int)
    assert Range(1e-4, 1e-2, log=True).at(0.0) == 1e-4
    assert Range(1.0, 2.0).at(1 / 3) == 1.33  # three digits, as people copy them


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "at least one"),
        ([1, 1], "different choices"),
        ({"low": 1}, "a list of choices, or a range"),
        ({"low": 2, "high": 1}, "low < high"),
        ({"low": 0.0, "high": 1.0, "log": True}, "low > 0"),
        ({"low": 1, "high": math.inf}, "numbers"),
        (3, "a list of choices"),
    ],
)
def test_what_is_no_choice_or_range_is_refused(value, said):
    with pytest.raises(ValueError, match=said):
        parse({"lr": value})


def test_a_space_for_train_keys_stands_over_that_of_all_tasks(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text('[search]\nlr = [1, 2]\nlow = [0]\n[search."x,y"]\nlr = {low = 1, high = 3}\n')
    toml = read_toml(path, "m")
    assert search_values(toml, "y") == {"lr": {"low": 1, "high": 3}, "low": [0]}
    assert search_values(toml, "z") == {"lr": [1, 2], "low": [0]}
    path.write_text("[search]\nlr = 3\n")
    with pytest.raises(BenchError, match="list of choices"):
        read_toml(path, "m")


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("train", ["mnist", "cifar10", "digits", "toy"])
def test_settings_accept_what_is_drawn(name, train):
    search = candidates.search(registry.method(name), "quick", train, {})
    drawn = search.candidates(0)
    found = [next(drawn) for _ in range(6)]
    assert len({c.digest for c in found}) == 6
    for candidate in found:
        for length in tune.RUNGS:
            short = search.shortened(candidate, length).document()
            assert short["epochs"] == max(
                1, math.floor(candidate.settings.document()["epochs"] * length + 0.5)
            )


def test_a_space_that_settings_refuse_names_the_file():
    entry = registry.method("mc_dropout")
    toml = {**entry.toml, "search": {"p": [0.5, 1.5]}}
    broken = registry.MethodEntry("m", entry.target, "", "m", {}, toml)
    with pytest.raises(BenchError, match=r"mc_dropout.toml, search, digits: p: expected .*found 1.5"):
        candidates.search(broken, "quick", "digits", {})
