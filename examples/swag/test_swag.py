"""The mathematics of SWAG; tests/methods/test_contract.py holds it, once installed, to the contract."""

from __future__ import annotations

import pytest
import torch
from small import small_method, stripes

from bench import training
from bench.training import FitSettings, Streams, cross_entropy

pytest.importorskip("swag_example", reason="pip install --no-deps -e examples/swag")


TRAIN, VAL = stripes(96), stripes(30, seed=1)


@pytest.fixture
def method():
    """SWAG with what `start` builds, on the small network of the tests, before any round."""
    method = small_method("swag-example", rank=3)
    method.start(TRAIN, VAL, loss=cross_entropy, rng=Streams(0, "fit"))
    return method


def path(count: int, size: int) -> torch.Tensor:
    """Weights [count, size] that an SGD path might have left."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1)) + 5


def test_moments_and_deviations_are_those_of_the_collected_weights(method):
    thetas = path(5, len(method.mean))
    for theta in thetas:
        method.collect(theta)
    exact = thetas.double()
    torch.testing.assert_close(method.mean, exact.mean(0))
    torch.testing.assert_close(method.square, exact.square().mean(0))
    running = torch.stack([exact[: i + 1].mean(0) for i in range(5)])
    last = (exact - running)[[3, 4, 2]].float()  # rank 3: the fourth took the first row, the fifth the second
    torch.testing.assert_close(method.deviations, last)


def test_moments_of_two_numbers_by_hand(method):
    method.collect(torch.full_like(method.mean, 1.0))
    assert not method.ready()
    method.collect(torch.full_like(method.mean, 4.0))
    assert method.ready()
    assert method.mean[0] == 2.5 and method.square[0] == 8.5  # variance 8.5 - 2.5^2 = 2.25
    assert method.deviations[:, 0].tolist() == [0.0, 1.5, 0.0]


def test_draws_have_the_mean_and_the_covariance_of_the_closed_form(method):
    for theta in path(5, len(method.mean)):
        method.collect(theta)
    drawn = method.sample(20_000, seed=0).vectors()[:, :4].double()
    columns = method.deviations[:, :4].double()
    variance = (method.square - method.mean.square())[:4]
    covariance = variance.diag() / 2 + columns.T @ columns / (2 * (3 - 1))
    # Standard errors of 20,000 draws: 0.01 of a mean, 0.02 of a covariance.
    torch.testing.assert_close(drawn.mean(0), method.mean[:4], rtol=0, atol=0.05)
    torch.testing.assert_close(drawn.T.cov(), covariance, rtol=0, atol=0.1)


def test_a_trace_waits_until_there_is_something_to_draw():
    method = small_method("swag-example", epochs=6, collect_from=0.5)
    found = training.fit(method, TRAIN, VAL, FitSettings(seed=0, trace_every=1, trace_members=3))
    drawn = [row["epoch"] for row in found.trace if row["metric"] == "disagreement"]
    assert drawn == [5, 6]  # collected after epochs 4, 5 and 6; two are enough
    assert [row["epoch"] for row in found.trace if row["metric"] == "loss"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("epochs", "share", "first"), [(10, 0.5, 5), (10, 0.0, 0), (10, 0.99, 8), (2, 0.5, 0)]
)
def test_collecting_begins_at_a_share_and_leaves_two_epochs(epochs, share, first):
    assert small_method("swag-example", epochs=epochs, collect_from=share).config.first == first
