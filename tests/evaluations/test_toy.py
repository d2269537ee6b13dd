"""The toy regression: data, reference posterior, loss, metrics, evaluation and figure."""

from __future__ import annotations

import csv
import dataclasses
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import norm
from torch.func import functional_call

from bench import networks, registry, report, training
from bench.cli.main import main
from bench.datasets import toy, toy_hmc
from bench.ensemble import Ensemble
from bench.evaluations import EVALUATIONS
from bench.evaluations.subject import Subject
from bench.metrics import predictions
from bench.records import runs
from bench.rng import Streams, stream
from bench.settings import resolve
from bench.task import Scale
from bench.training import FitSettings, gaussian

TINY = {"epochs": 3, "free_epochs": 1, "passes": 4, "keep": 2, "networks": 4, "blocks": 2, "block_steps": 2}


# --- data


def test_the_points_are_x_cubed_with_noise_of_sd_three():
    (x, y), _, (more_x, more_y) = toy.points()
    assert len(x) == 20 and np.abs(x).max() <= 4
    assert np.abs(y - x**3).max() < 4 * 3
    noise = more_y.astype(float) - more_x.astype(float) ** 3
    assert noise.mean() == pytest.approx(0, abs=4 * 3 / math.sqrt(1000))
    assert noise.std() == pytest.approx(3, rel=0.1)
    assert not set(x) & set(more_x)


def farthest(x: np.ndarray) -> float:
    """The largest distance from a location in [-4, 4] to the nearest point."""
    return np.abs(np.linspace(-4, 4, 8001)[:, None] - x).min(1).max()


def test_the_seed_is_the_first_whose_points_cover_the_interval():
    far = [farthest(toy.draw(20, np.random.RandomState(seed))[0]) for seed in range(toy.POINTS_SEED + 1)]
    assert min(far[:-1]) > 0.6 >= far[-1]


def test_the_reference_belongs_to_these_points_and_has_converged():
    comments = [line for line in toy.REFERENCE.read_text().splitlines() if line.startswith("#")]
    assert comments[0] == f"# points sha256: {toy.points_checksum()}"
    with toy.REFERENCE.open() as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    mixed = [float(line["r_hat"]) for line in lines]
    assert min(mixed) > 0.99 and max(mixed) < 1.05
    assert f"largest R-hat {max(mixed):.4f}" in comments[1]
    np.testing.assert_allclose([float(line["x"]) for line in lines], toy.grid(), atol=1e-9)


def test_the_reference_sd_is_small_at_the_points_and_large_outside():
    known = toy.reference()
    x = known.grid.images[:, 0]
    inside = x.abs() <= 4
    assert (inside.sum(), len(x)) == (81, 121)
    assert known.sd[~inside].min() > known.sd[inside].min() > 0
    residual = known.mean[inside] - x[inside] ** 3
    assert residual.square().mean().sqrt() < 5


# --- Hamiltonian Monte Carlo


def test_outputs_agree_with_the_network():
    network, rng = networks.toy(), stream(0)
    theta = torch.randn(3, networks.count(network), generator=rng)
    assert theta.shape[1] == 301
    x = torch.linspace(-6, 6, 7)
    for row, found in zip(theta, toy_hmc.outputs(theta, x), strict=True):
        shapes = networks.shapes(network)
        parts = row.split([s.numel() for s in shapes.values()])
        values = {n: part.view(s) for (n, s), part in zip(shapes.items(), parts, strict=True)}
        expected = functional_call(network, values, (x[:, None],))[:, 0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_posterior_is_normal_prior_times_normal_likelihood():
    x, y = torch.tensor([0.5, -2.0]).double(), torch.tensor([1.0, -9.0]).double()
    theta = torch.randn(2, 301, generator=stream(1)).double()
    f = toy_hmc.outputs(theta, x)
    oracle = norm.logpdf(y, f, 3).sum(1) + norm.logpdf(theta).sum(1)
    found = toy_hmc.log_posterior(x, y)(theta).numpy()
    assert found[1] - found[0] == pytest.approx(oracle[1] - oracle[0])


def test_hmc_samples_a_normal_distribution_with_correct_moments():
    mean, sd = torch.linspace(-2, 2, 20).double(), torch.linspace(0.5, 2, 20).double()
    start, rng = torch.zeros(100, 20).double(), stream(2)

    def log_density(theta: torch.Tensor) -> torch.Tensor:
        return -0.5 * ((theta - mean) / sd).square().sum(1)

    drawn, chances = zip(*toy_hmc.hmc(log_density, start, 100, 100, 8, rng), strict=True)
    values = torch.stack(drawn)
    assert torch.stack(chances).mean() == pytest.approx(toy_hmc.ACCEPTED, abs=0.1)
    # 10,000 draws, correlated within chains.
    torch.testing.assert_close(values.mean((0, 1)), mean, rtol=0, atol=0.15)
    torch.testing.assert_close(values.flatten(0, 1).std(0), sd, rtol=0.05, atol=0)
    assert toy_hmc.r_hat(values.numpy()).max() < 1.05


def test_r_hat_detects_separate_and_drifting_chains():
    values = np.random.RandomState(0).standard_normal((400, 4, 1))
    assert toy_hmc.r_hat(values)[0] == pytest.approx(1, abs=0.02)
    assert toy_hmc.r_hat(values + np.arange(4)[None, :, None])[0] > 1.3
    assert toy_hmc.r_hat(values + np.linspace(0, 4, 400)[:, None, None])[0] > 1.3


def test_r_hat_by_hand():
    # Half chains (0, 2), (1, 3), (0, 2), (1, 3): W = 2, variance of their means 1/3, n = 2.
    values = np.array([[0.0, 0.0], [2.0, 2.0], [1.0, 1.0], [3.0, 3.0]])[:, :, None]
    assert toy_hmc.r_hat(values)[0] == pytest.approx(math.sqrt((0.5 * 2 + 1 / 3) / 2))


# --- loss and metrics


def test_the_gaussian_loss_is_the_negative_log_likelihood_of_an_example():
    outputs, y = torch.tensor([[[1.0], [2.0]], [[0.0], [5.0]]]), torch.tensor([[4.0], [2.0]])
    oracle = -norm.logpdf(y.numpy()[None], outputs.numpy(), 3).mean((1, 2))
    torch.testing.assert_close(gaussian(outputs, y).numpy(), oracle.astype("f4"))
    torch.testing.assert_close(gaussian(outputs, y.expand(2, 2, 1)), gaussian(outputs, y))


def test_the_mixture_is_averaged_before_the_logarithm():
    outputs, labels = np.array([[[0.0], [1.0]], [[6.0], [1.0]]]), np.array([0.0, 1.0])
    found = predictions.gaussian_log_likelihoods(outputs, labels, 3.0)
    density = norm.pdf(labels, outputs[..., 0], 3)
    np.testing.assert_allclose(found, np.log(density))
    assert predictions.mixture_log_likelihood(found) == pytest.approx(np.log(density.mean(0)).mean())
    assert predictions.mixture_log_likelihood(np.full((2, 1), -2000.0)) == pytest.approx(-2000)


def test_a_second_output_is_the_variance():
    outputs = np.array([[[1.0, 0.0], [2.0, 30.0]]])
    found = predictions.gaussian_log_likelihoods(outputs, np.array([0.0, 3.0]), 3.0)
    sd = np.sqrt(np.array([math.log(2), 30.0]) + 1e-6)
    np.testing.assert_allclose(found[0], norm.logpdf([0.0, 3.0], [1.0, 2.0], sd), rtol=1e-9)
    assert predictions.variance(np.array([-800.0]))[0] == pytest.approx(1e-6)
    with pytest.raises(ValueError, match="found 3 outputs"):
        predictions.gaussian_log_likelihoods(np.zeros((1, 1, 3)), np.zeros(1), 3.0)


def test_wasserstein_agrees_with_the_distance_of_quantiles():
    (m, s), (n, t) = (1.0, 2.0), (-0.5, 0.3)
    q = (np.arange(200_000) + 0.5) / 200_000
    oracle = math.sqrt(np.square(norm.ppf(q, m, s) - norm.ppf(q, n, t)).mean())
    found = predictions.gaussian_wasserstein2(np.array([m]), np.array([s]), np.array([n]), np.array([t]))
    assert found[0] == pytest.approx(oracle, rel=1e-4)


def test_coverage_by_hand():
    held = predictions.covered(
        np.array([0.0, 3.1, -2.9, 1.0]), np.zeros(4), np.array([0.0, 1.0, 1.0, 0.2]), 3.0
    )
    assert held.tolist() == [True, False, True, False]


# --- evaluation


def constant(*levels: float) -> Ensemble:
    """Networks with constant outputs."""
    network = networks.toy()
    weights = {n: torch.zeros(len(levels), *s) for n, s in networks.shapes(network).items()}
    weights["output.bias"] = torch.tensor(levels)[:, None]
    return Ensemble(network, weights)


def evaluated(ensemble: Ensemble, sizes: tuple[int, ...], name: str = "regression"):
    subject = Subject(ensemble, toy.toy.load(None), Scale(sizes), sizes, ensemble)
    return EVALUATIONS[name](subject, Streams(0, name))


def test_rows_of_constant_networks_by_hand():
    result = evaluated(constant(-3.0, 3.0), (1, 2))
    found = {(r["metric"], r["dataset"], r["members"]): r["value"] for r in result.rows}
    parts = ("toy:inside", "toy:outside")
    metrics_of_bands = ("band_coverage", "band_width", "wasserstein2_to_reference")
    assert set(found) == {
        *((metric, part, 2) for metric in metrics_of_bands for part in parts),
        *(("rmse", "toy:inside", n) for n in (1, 2)),
        *(("log_likelihood_nats", "toy", n) for n in (1, 2)),
    }
    x = np.linspace(-4, 4, 81)
    sd = math.sqrt(18)  # of -3 and 3, ddof 1
    assert found["rmse", "toy:inside", 2] == pytest.approx(np.sqrt((x**6).mean()), rel=1e-5)
    assert found["rmse", "toy:inside", 1] == pytest.approx(np.sqrt((x**6).mean() + 9), rel=1e-5)
    assert found["band_coverage", "toy:inside", 2] == pytest.approx((np.abs(x**3) <= 3 * sd).mean())
    assert found["band_coverage", "toy:outside", 2] == 0
    assert found["band_width", "toy:outside", 2] == pytest.approx(6 * sd)
    known, inside = toy.reference(), toy.reference().grid.images[:, 0].abs() <= 4
    oracle = (known.mean.square() + (known.sd - sd).square()).sqrt()[inside].mean().item()
    assert found["wasserstein2_to_reference", "toy:inside", 2] == pytest.approx(oracle, rel=1e-5)
    y = toy.points()[2][1].astype(float)
    pair = np.stack([norm.pdf(y, level, 3) for level in (-3, 3)])
    assert found["log_likelihood_nats", "toy", 2] == pytest.approx(np.log(pair.mean(0)).mean())
    assert found["log_likelihood_nats", "toy", 1] == pytest.approx(np.log(pair).mean())


def test_the_reference_has_distance_zero_to_itself():
    mean, sd = (t.numpy() for t in (toy.reference().mean, toy.reference().sd))
    half = sd / math.sqrt(2)  # two values at this distance from their mean have sd `sd`, ddof 1
    pair = np.stack([mean - half, mean + half])
    far = predictions.gaussian_wasserstein2(pair.mean(0), pair.std(0, ddof=1), mean, sd)
    assert far.max() < 1e-4


def test_regression_has_no_disagreement():
    result = evaluated(constant(0.0, 1.0), (2,), "diversity")
    assert {r["metric"] for r in result.rows} >= {"weight_norm_mean", "weight_cosine"}
    assert "disagreement" not in {r["metric"] for r in result.rows}


@pytest.mark.parametrize("name", registry.methods())
def test_every_method_fits_the_points(name):
    entry = registry.method(name)
    cls = entry.load()
    config = resolve(entry, cls.Config, "smoke", "toy", {}).method
    fields = {f.name for f in dataclasses.fields(config)}
    tiny = {name: value for name, value in TINY.items() if name in fields}
    method = cls(networks.toy(), dataclasses.replace(config, **tiny))
    data = toy.toy.load(None)
    training.fit(method, data.train, data.val, FitSettings(seed=0, loss=gaussian))
    outputs = method.sample(2, seed=0)(data.test.images)
    assert outputs.shape in {(2, 1000, 1), (2, 1000, 2)}
    assert torch.isfinite(outputs).all()


def test_a_chain_keeps_networks_of_several_epochs():
    entry = registry.method("sgld")
    config = resolve(entry, entry.load().Config, "smoke", "toy", {}).method
    method = entry.load()(
        networks.toy(), dataclasses.replace(config, epochs=2, passes=6, keep=3, burn_in=0.5)
    )
    data = toy.toy.load(None)
    training.fit(method, data.train, data.val, FitSettings(seed=0, loss=gaussian))
    assert len(set(method.sample(3, seed=0).hashes())) == 3
    wrong = entry.load()(networks.toy(), dataclasses.replace(config, passes=2, keep=3))
    with pytest.raises(ValueError, match="an epoch of 2 steps holds no 3 networks"):
        training.fit(wrong, data.train, data.val, FitSettings(seed=0, loss=gaussian))


def test_a_run_is_drawn_as_figure_2(tmp_path):
    arguments = ["run", "--method", "mc_dropout,standard_ensemble", "--task", "toy", "--preset", "smoke"]
    arguments += ["--set", "mc_dropout.epochs=5", "--set", "standard_ensemble.epochs=5"]
    done = CliRunner().invoke(main, [*arguments, "--results", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = runs.read(tmp_path).newest()
    assert rows.loc[rows["evaluation"] == "regression", "value"].notna().all()
    written = {path.name for path in report.build(tmp_path)}
    assert {"figure2-toy.svg", "figure2-toy.png", "regression.csv", "regression.md"} <= written
    page = (tmp_path / "report.html").read_text()
    assert "regression of 20 points" in page and "5 and 10 networks" in page and "seed 0" in page
