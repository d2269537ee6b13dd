"""The toy regression: 20 noisy points of x^3, and the reference posterior from HMC; embedded."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np
import torch

from bench import networks
from bench.datasets.files import sha256
from bench.task import NOISE_SD, Data, Reference, Scale, Split, Task

POINTS = 20  # HyperGAN paper, section 4.3, after Hernandez-Lobato & Adams 2015
INSIDE = (-4.0, 4.0)  # interval of the points; HyperGAN paper, section 4.3
OUTSIDE = (-6.0, 6.0)  # interval of the bands; HyperGAN paper, Figure 2
STEPS = 120  # grid intervals over `OUTSIDE`, each 0.1 wide
HELD_OUT = 1000  # points for the log-likelihood: its standard error is about a thirtieth of a point's sd
# Of all points; a constant, so that all run seeds train on the same 20. The first seed whose points leave
# no gap in `INSIDE` farther than 0.6 from a point: otherwise the RMSE to x^3 depends more on the sample than
# on the method (seeds 0 to 9: 3.9 to 8.5 for the mean of the exact posterior).
POINTS_SEED = 4
REFERENCE = Path(__file__).with_name("toy_reference.csv")


def target(x: np.ndarray) -> np.ndarray:
    """The function without noise, x^3."""
    return x**3


def draw(count: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Points x ~ U[-4, 4], y = x^3 + N(0, 3^2): two arrays [count], float32."""
    x = random.uniform(*INSIDE, count).astype(np.float32)
    return x, (target(x.astype(float)) + NOISE_SD * random.standard_normal(count)).astype(np.float32)


def grid() -> np.ndarray:
    """Inputs from -6 to 6, [121]."""
    return np.linspace(*OUTSIDE, STEPS + 1)


@cache
def points() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Training, validation and test points, (x, y) each."""
    # RandomState, not Generator: NumPy guarantees that its stream never changes (NEP 19).
    random = np.random.RandomState(POINTS_SEED)
    return tuple(draw(count, random) for count in (POINTS, POINTS, HELD_OUT))


def points_checksum() -> str:
    """SHA-256 of the training points, recorded in the reference file."""
    return sha256(b"".join(values.tobytes() for values in points()[0]))


@cache
def reference() -> Reference:
    """Mean and sd of the network's output under the posterior on the grid, from HMC."""
    with REFERENCE.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(line for line in file if not line.startswith("#")))
    x, mean, sd = (torch.tensor([float(line[name]) for line in lines]) for name in ("x", "mean", "sd"))
    on_grid = Split("toy:grid", x[:, None], torch.from_numpy(target(grid()))[:, None].float())
    return Reference(on_grid, INSIDE, mean, sd)


def _split(name: str, x: np.ndarray, y: np.ndarray) -> Split:
    return Split(name, torch.from_numpy(x)[:, None], torch.from_numpy(y)[:, None])


@cache
def _load() -> Data:
    train, val, test = points()
    return Data(
        train=_split("toy", *train),
        val=_split("toy-val", *val),
        test=_split("toy", *test),
        reference=reference(),
        checksums={"toy": points_checksum(), "toy-reference": sha256(REFERENCE.read_bytes())},
    )


def _toy(root: Path | None) -> Data:
    return _load()


toy = Task(
    name="toy",
    train="toy",
    load=_toy,
    network=networks.toy,
    loss="gaussian",
    evaluations=("regression", "diversity"),
    embedded=True,
    scales={
        "smoke": Scale(sizes=(1, 5, 10)),
        # The paper's Figure 2 shows 10 and 100.
        "quick": Scale(sizes=(1, 10, 100)),
        "paper": Scale(sizes=(1, 10, 100)),
    },
)
