"""The contract of all registered methods."""

from __future__ import annotations

import pytest
import torch
from small import line, small_method, small_regression
from torchattacks import PGD

from bench import registry, training
from bench.engine import parallel, single_threaded
from bench.ensemble import MeanLogits
from bench.errors import BenchError
from bench.training import FitSettings, cross_entropy, mse

METHODS = list(registry.methods())
every_method = pytest.mark.parametrize("name", METHODS)


def fitted(name, train, val, **settings):
    method = small_method(name)
    training.fit(method, train, val, FitSettings(seed=3, loss=cross_entropy, **settings))
    return method


@pytest.fixture(scope="module")
def trained():
    """Each method, fitted once for the tests that only draw."""
    from small import stripes

    cache = {}

    def get(name):
        if name not in cache:
            cache[name] = fitted(name, stripes(96), stripes(30, seed=1))
        return cache[name]

    return get


@every_method
def test_drawn_weights_are_stacked_shapes_of_the_network(name, trained):
    ensemble = trained(name).sample(3, seed=0)
    assert {n: w.shape for n, w in ensemble.weights.items()} == {
        n: (3, *p.shape) for n, p in ensemble.engine.network.named_parameters()
    }
    assert ensemble.vectors().shape == (3, sum(w[0].numel() for w in ensemble.weights.values()))
    assert ensemble(torch.rand(5, 1, 8, 8)).shape == (3, 5, 3)


@every_method
def test_equal_seeds_give_equal_draws_and_other_seeds_differ(name, trained):
    method = trained(name)
    first, again, other = (method.sample(3, seed=s).vectors() for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_method
def test_a_larger_draw_begins_with_a_smaller_one(name, trained):
    method = trained(name)
    few, more = method.sample(2, seed=5).vectors(), method.sample(4, seed=5).vectors()
    torch.testing.assert_close(more[:2], few, rtol=1e-5, atol=1e-5)


@every_method
def test_members_differ(name, trained):
    hashes = trained(name).sample(4, seed=0).hashes()
    assert len(set(hashes)) == 4


@every_method
def test_predictions_do_not_depend_on_the_batch_the_mode_or_chunking(name, trained, val):
    ensemble = trained(name).sample(4, seed=0)
    whole = ensemble(val.images)
    ensemble.train()
    parts = torch.cat([ensemble(x) for x in val.images.split(7)], 1)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ensemble[1:3](val.images), whole[1:3], rtol=1e-5, atol=1e-5)


@every_method
def test_drawing_does_not_change_the_global_generator(name, trained):
    before = torch.get_rng_state()
    trained(name).sample(2, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@every_method
def test_a_finite_method_refuses_more_networks_than_it_holds(name, trained):
    method = trained(name)
    if method.max_members is None:
        assert len(method.sample(50, seed=0)) == 50
        return
    with pytest.raises(BenchError, match=f"holds {method.max_members} networks"):
        method.sample(method.max_members + 1, seed=0)


@every_method
def test_fitting_beats_chance(name, train, val):
    method = small_method(name, epochs=30)
    training.fit(method, train, val, FitSettings(seed=0))
    probabilities = method.sample(4, seed=0).probabilities(val.images)
    assert (probabilities.mean(0).argmax(-1) == val.labels).float().mean() > 0.6


@every_method
def test_a_finished_fit_is_loaded_and_gives_the_same_draw(name, train, val, tmp_path):
    path = tmp_path / "fit.safetensors"
    first = fitted(name, train, val, path=path)
    again = small_method(name)
    fit = training.fit(again, train, val, FitSettings(seed=3, path=path))
    assert fit.reused
    assert torch.equal(first.sample(3, seed=0).vectors(), again.sample(3, seed=0).vectors())


@every_method
def test_fits_draws_and_predictions_are_the_same_bits_for_any_number_of_threads(name, train, val):
    found = []
    try:
        for threads in (1, 2, 4):
            parallel.use(threads)
            ensemble = fitted(name, train, val).sample(3, seed=0)
            with single_threaded():
                found.append([*ensemble.weights.values(), ensemble(val.images)])
    finally:
        parallel.use(None)
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))


class KilledError(Exception):
    pass


@every_method
@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_fit_resumes_and_gives_the_same_weights(name, after, train, val, tmp_path):
    undisturbed = fitted(name, train, val, trace_every=1, trace_members=3)
    path = tmp_path / "fit.safetensors"

    def kill(done, total, losses):
        if done == after + 1:
            raise KilledError

    settings = {"path": path, "checkpoint_every": 0.0, "trace_every": 1, "trace_members": 3}
    with pytest.raises(KilledError):
        fitted(name, train, val, progress=kill, **settings)
    resumed = small_method(name)
    rounds = []
    fit = training.fit(
        resumed, train, val, FitSettings(seed=3, progress=lambda done, *_: rounds.append(done), **settings)
    )
    assert rounds[0] == after + 1
    assert fit.rounds == resumed.rounds()
    assert torch.equal(resumed.sample(3, seed=0).vectors(), undisturbed.sample(3, seed=0).vectors())


@every_method
def test_torchattacks_works_on_the_ensemble_and_respects_epsilon(name, trained, val):
    model = MeanLogits(trained(name).sample(3, seed=0))
    with torch.random.fork_rng():
        attacked = PGD(model, eps=0.1, alpha=0.05, steps=3)(val.images, val.labels)
    moved = (attacked - val.images).abs()
    assert 0 < moved.max() <= 0.1 + 1e-6
    assert cross_entropy(model(attacked)[None], val.labels) > cross_entropy(
        model(val.images)[None], val.labels
    )


@every_method
def test_regression_fits_a_line(name):
    method = small_method(name, small_regression(), epochs=200)
    data = line(64)
    training.fit(method, data, line(16, seed=1), FitSettings(seed=0, loss=mse))
    test = line(50, seed=2)
    outputs = method.sample(4, seed=0)(test.images)
    assert outputs.shape in {(4, 50, 1), (4, 50, 2)}  # the second output is a variance
    mean = outputs[..., :1].mean(0)
    assert (mean - test.labels).square().mean() < test.labels.var() / 2
