"""Operations are counted as by hand and as PyTorch counts them, on any number of threads, stopped or not."""

from __future__ import annotations

import copy

import pytest
import torch
from small import small_method, small_network, stripes
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from bench import networks, registry, training
from bench.engine import Engine, Vmap, parallel, spent, watch, work
from bench.networks import initial
from bench.rng import Streams, stream
from bench.training import FitSettings, cross_entropy

METHODS = sorted({m.base for m in registry.methods().values() if m.module.startswith("bench.")})
# The MNIST network by hand: outputs x inputs that each reads.
MNIST = (32 * 24 * 24 * 25, 32 * 8 * 8 * 800, 10 * 512)
ALL, FIRST = sum(MNIST), MNIST[0]


def stacked_weights(network, members):
    shapes, rng = networks.shapes(network), stream(0, "weights")
    drawn = [initial(shapes, rng) for _ in range(members)]
    return {name: torch.stack([d[name] for d in drawn]) for name in shapes}


def counted(call):
    before = work.counted()
    call()
    return work.counted() - before


def test_multiply_adds_are_those_by_hand():
    assert work.multiply_adds(networks.mnist(), (1, 28, 28)) == MNIST
    cifar = (16 * 900 * 27, 32 * 169 * 144, 64 * 16 * 288, 128 * 256, 10 * 128)
    assert work.multiply_adds(networks.cifar(), (3, 32, 32)) == cifar
    grouped = nn.Sequential(nn.Conv2d(4, 6, (3, 1), stride=2, padding=1, groups=2), nn.Flatten())
    assert work.multiply_adds(grouped, (4, 5, 7)) == (6 * 3 * 5 * 2 * 3,)


@pytest.mark.parametrize("way", [None, Vmap])
def test_a_pass_counts_its_products_and_those_of_the_gradients_asked_for(way):
    network = networks.mnist()
    engine = Engine(network, way and way(network))
    weights, x = stacked_weights(network, 3), torch.rand(5, 1, 28, 28)
    own, y = torch.rand(3, 5, 1, 28, 28), torch.arange(5)
    leaf, own_leaf = x.clone().requires_grad_(), own.clone().requires_grad_()
    trained = {name: w.clone().requires_grad_() for name, w in weights.items()}
    unit = 2 * 3 * 5

    assert counted(lambda: engine.logits(weights, x)) == unit * ALL
    with torch.no_grad():
        assert counted(lambda: engine.logits(trained, leaf)) == unit * ALL
    assert counted(lambda: engine.logits(weights, leaf).sum().backward()) == unit * 2 * ALL
    assert counted(lambda: engine.logits(trained, x)) == unit * (3 * ALL - FIRST)
    assert counted(lambda: engine.logits(trained, leaf)) == unit * 3 * ALL
    assert counted(lambda: engine.losses(trained, x, y, cross_entropy)) == unit * (3 * ALL - FIRST)
    assert counted(lambda: engine.losses(trained, own, y, cross_entropy, True)) == unit * (3 * ALL - FIRST)
    assert counted(lambda: engine.losses(trained, own_leaf, y, cross_entropy, True)) == unit * 3 * ALL


def test_one_network_with_an_operation_counts_the_products_that_it_says():
    engine = Engine(networks.mnist())
    weights = {name: w[0].requires_grad_() for name, w in stacked_weights(engine.network, 1).items()}
    x = torch.rand(5, 1, 28, 28)

    def run(**more):
        return lambda: engine.single(weights, x, lambda *_: None, **more)

    assert counted(run()) == 2 * 5 * (3 * ALL - FIRST)
    assert counted(run(products=2)) == 2 * 2 * 5 * (3 * ALL - FIRST)
    with torch.no_grad():
        assert counted(run()) == 2 * 5 * ALL


def test_graphs_that_are_made_again_count_nothing():
    network = small_network()
    weights, x = stacked_weights(network, 4), torch.rand(3, 1, 8, 8).requires_grad_()
    none, all_kept = Engine(network, graph_bytes=0), Engine(network)
    found = [counted(lambda e=engine: e.logits(weights, x).sum().backward()) for engine in (none, all_kept)]
    assert found[0] == found[1] > 0


def test_watched_layers_count_as_pytorch_does():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 7), nn.Linear(7, 2))
    watch(network)
    watch(nn.ModuleList([network]))  # again: counted once
    x = torch.rand(6, 1, 8, 8)

    def passes(images, frozen=()):
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        for i in frozen:
            network[i].requires_grad_(False)
        network(images).square().sum().backward()

    for images in (x, x.clone().requires_grad_()):
        for frozen in ((), (0,), (3, 4)):
            with FlopCounterMode(display=False) as oracle:
                found = counted(lambda i=images, f=frozen: passes(i, f))
            assert found == oracle.get_total_flops() > 0
    with FlopCounterMode(display=False) as oracle, torch.no_grad():
        found = counted(lambda: network(x))
    assert found == oracle.get_total_flops()
    assert counted(lambda: copy.deepcopy(network).to("meta")(x.to("meta"))) == 0


def test_an_engine_counts_as_pytorch_does_for_its_network():
    network = nn.Sequential(nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    weights = {n: p.detach()[None].requires_grad_() for n, p in network.named_parameters()}
    x, y = torch.rand(11, 9), torch.arange(11) % 3
    with FlopCounterMode(display=False) as oracle:
        cross_entropy(network(x)[None], y).sum().backward()
    engine = Engine(network)
    assert counted(lambda: engine.losses(weights, x, y, cross_entropy)) == oracle.get_total_flops()


class Products(TorchDispatchMode):
    """Operations of every matrix product and convolution, by PyTorch's formulas."""

    flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.flop += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


@pytest.fixture
def one_thread():
    parallel.use(1)  # a mode sees the calls of its own thread
    yield
    parallel.use(None)


@pytest.mark.parametrize("name", [*METHODS, "sgld"])
def test_a_round_of_every_method_counts_all_its_products(name, one_thread):
    method, data = small_method(name, blocks=2, block_steps=2), stripes(96)
    method.start(data, data, loss=cross_entropy, rng=Streams(0, "fit"))
    method.round(0)  # in which shapes are met and memory is measured
    for i in range(1, method.rounds()):
        with Products() as oracle:
            found = counted(lambda i=i: method.round(i))
        assert found == oracle.flop > 0


@pytest.mark.parametrize("name", ["hypergan", "mnf", "standard_ensemble"])
def test_a_fit_counts_the_same_on_any_number_of_threads(name):
    found = []
    for threads in (1, 3):
        parallel.use(threads)
        try:
            fit = training.fit(small_method(name), stripes(96), stripes(30, 1), FitSettings(seed=0))
        finally:
            parallel.use(None)
        found.append(fit.cost.flop)
    assert found[0] == found[1] > 0


def test_operations_are_counted_from_many_threads():
    before = work.counted()
    parallel.use(3)
    try:
        parallel.each(lambda _: [work.add(1) for _ in range(1000)], range(50))
    finally:
        parallel.use(None)
    assert work.counted() - before == 50_000


def test_costs_add_up_and_cpu_time_is_that_of_work():
    begun = spent()
    x = torch.rand(300, 300)
    while (found := spent() - begun).cpu_seconds < 0.05:
        x @ x
    assert found.seconds > 0 and found.flop == 0
    twice = found + found
    assert (twice.seconds, twice.cpu_seconds) == (2 * found.seconds, 2 * found.cpu_seconds)


@pytest.mark.parametrize("name", ["hypergan", "apd"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_stopped_fit_and_a_traced_one_count_as_a_whole_one(name, after, tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, total, losses):
        if done == after:
            raise Stopped

    def fitted(**settings):
        method = small_method(name, blocks=2, block_steps=2)
        return training.fit(method, stripes(96), stripes(30, 1), FitSettings(seed=0, **settings))

    whole = fitted(trace_every=1, trace_members=3)
    kept = {"path": tmp_path / "fit.safetensors", "stage": tmp_path / "stage", "checkpoint_every": 0}
    with pytest.raises(Stopped):
        fitted(progress=stop, **kept)
    resumed, reused = fitted(**kept), fitted(**kept)
    assert resumed.cost.flop == whole.cost.flop > 0
    assert reused.reused and reused.cost == resumed.cost
    assert resumed.cost.seconds > 0 and resumed.cost.cpu_seconds > 0
