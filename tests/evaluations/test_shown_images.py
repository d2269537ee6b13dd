"""Arrays stored for figures: filters of the first convolutions, and images of extreme entropy."""

import numpy as np
import torch

from bench.ensemble import Ensemble
from bench.evaluations import EVALUATIONS, Subject
from bench.evaluations.diversity import filters
from bench.evaluations.ood import EXTREMES, extremes
from bench.networks import initial, mnist, shapes
from bench.rng import Streams
from bench.task import Data, Scale, Split


def stacked(members):
    rng = torch.Generator().manual_seed(0)
    network = mnist()
    drawn = [initial(shapes(network), rng) for _ in range(members)]
    return network, {name: torch.stack([d[name] for d in drawn]) for name in drawn[0]}


def split(name, count, seed):
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 28, 28, generator=rng)
    return Split(name, images, torch.randint(0, 10, (count,), generator=rng))


def test_filters_are_the_kernels_of_the_first_networks():
    _, weights = stacked(30)
    found = filters(weights)
    assert set(found) == {f"filters/{layer}/{i}" for layer in ("conv1", "conv2") for i in (0, 1)}
    for name, values in found.items():
        _, layer, i = name.split("/")
        assert values.shape == (25, 5, 5) and values.dtype == np.float32
        assert np.array_equal(values[7], weights[f"{layer}.weight"][7, int(i), 0].numpy())
    assert filters({"linear.weight": torch.zeros(3, 10, 4), "linear.bias": torch.zeros(3, 10)}) == {}


def test_extremes_are_the_images_of_lowest_score_ties_in_order():
    part = split("p", 20, 0)
    score = np.repeat(np.arange(10.0)[::-1], 2)
    found = extremes(part, "p/5", score)
    assert found["p/5/extreme_index"].tolist() == [18, 19, 16, 17, 14, 15, 12, 13][:EXTREMES]
    assert np.array_equal(found["p/5/extreme_image"][0], part.images[18].numpy())
    assert found["p/5/extreme_label"].tolist() == part.labels[found["p/5/extreme_index"]].tolist()
    assert len(extremes(split("q", 3, 0), "q/5", np.arange(3.0))["q/5/extreme_index"]) == 3


def test_the_largest_ensemble_stores_its_extreme_images():
    network, weights = stacked(6)
    test, outliers = split("in", 40, 1), split("out", 50, 2)
    data = Data(train=test, val=test, test=test, outliers=outliers)
    ensemble = Ensemble(network, weights)
    subject = Subject(ensemble, data, Scale(), (1, 3, 6), drawn=ensemble)
    arrays = EVALUATIONS["ood"](subject, Streams(0, "ood")).arrays
    assert {n for n in arrays if "extreme" in n and "/6/" not in n} == set()
    within, beyond = (arrays[f"{name}/6/entropy_nats"] for name in ("in", "out"))
    highest, lowest = (arrays[f"{name}/6/extreme_index"] for name in ("in", "out"))
    rest = np.setdiff1d(np.arange(40), highest)
    assert (
        within[highest].min() >= within[rest].max() and list(within[highest]) == sorted(within[highest])[::-1]
    )
    rest = np.setdiff1d(np.arange(50), lowest)
    assert beyond[lowest].max() <= beyond[rest].min()
    assert arrays["out/6/extreme_image"].shape == (EXTREMES, 1, 28, 28)
