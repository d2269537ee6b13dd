"""What a GPU makes of this project: its ceilings, training steps and epochs, evaluation, profile.

python tests/gpu/probe.py [SECTION ..] prints a table, and writes JSON lines to $OUT/probe.jsonl. Without a
GPU it runs tiny sizes on the CPU, to find mistakes before device time is spent. `compare` and `lend` are for
`check.sh`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import time
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

import bench.datasets
import bench.methods  # noqa: F401
from bench import networks, registry
from bench.attacks import oblivious
from bench.engine import Engine, Recorded, convolution, float32
from bench.ensemble import Ensemble
from bench.records import store
from bench.rng import Streams, stream
from bench.running import agreement
from bench.settings import digest, resolve
from bench.task import Split
from bench.training import checkpoint, cross_entropy

REAL = torch.cuda.is_available()
DEVICE = torch.device("cuda" if REAL else "cpu")
OUT = Path(os.environ.get("OUT", "gpu-check"))
BEGUN = time.perf_counter()
STEPS = 40 if REAL else 5
# One variant of each way to train, and what `epochs` may take in seconds (MNIST, 55,000 images).
METHODS = (
    "hypergan", "mnf", "sgld", "standard_ensemble", "deep_ensemble", "mc_dropout", "bayes_by_hypernet",
    "bayesian_hypernetwork",
)  # fmt: skip
EPOCH_TARGETS = {"hypergan": 0.3, "mnf": 1.5, "sgld": 0.2}
PREDICT_TARGET, ATTACK_TARGET = 0.3, 0.5


def note(section: str, name: str, **values: object) -> None:
    """A line of the table."""
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "probe.jsonl").open("a") as file:
        file.write(json.dumps({"section": section, "name": name, **values}) + "\n")
    text = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
    print(f"{time.perf_counter() - BEGUN:6.1f}s {section:<10} {name:<46} {text}", flush=True)


@contextmanager
def told(section: str, name: str):
    """Inside, an error is a line of the table: the next measurement is made all the same."""
    try:
        yield
    except Exception:
        text = traceback.format_exc(limit=-3)[-700:].replace("\n", " | ")
        note(section, name, error=text)
    if REAL:
        torch.cuda.empty_cache()


def sync() -> None:
    if REAL:
        torch.cuda.synchronize()


def seconds(call, repeats=5, budget=3.0) -> float:
    """Median seconds of a call, after two to warm up."""
    if not REAL:
        repeats, budget = 1, 0.1
    for _ in range(2 if REAL else 1):
        call()
    found, end = [], time.perf_counter() + budget
    while len(found) < repeats and (time.perf_counter() < end or len(found) < 2):
        sync()
        begun = time.perf_counter()
        call()
        sync()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def about() -> None:
    name = torch.cuda.get_device_name() if REAL else "cpu"
    cudnn = torch.backends.cudnn.version()
    note("about", torch.__version__, cuda=torch.version.cuda, cudnn=cudnn, device=name, cores=os.cpu_count())


def ceilings() -> None:
    """Memory, matrix products, calls."""
    n = 2**28 if REAL else 2**16
    a, b = torch.empty(n, device=DEVICE), torch.empty(n, device=DEVICE)
    note("ceilings", "copy", GB_per_s=8 * n / seconds(lambda: b.copy_(a)) / 1e9)
    side = 8192 if REAL else 64
    x = torch.randn(side, side, device=DEVICE)
    for tf32 in (False, True):
        with float32(tf32):
            took = seconds(lambda: x @ x)
        note("ceilings", f"product {side} tf32={tf32}", TFLOP_per_s=2 * side**3 / took / 1e12)
    small = torch.zeros(1024, device=DEVICE)

    def many() -> None:
        for _ in range(200):
            small.add_(1e-9)

    note("ceilings", "a call", us=seconds(many) / 200 * 1e6)
    note("ceilings", "a value asked for", us=seconds(lambda: small[0].item()) * 1e6)


def layers() -> None:
    """Ways to the convolutions that cost most and to their derivatives, in ms."""
    how = ((1, 1), (0, 0), (1, 1))
    cases = {  # members, batch, channels in and out, side, kernel, own maps
        "mnist conv1 train": (16, 32, 1, 32, 28, 5, True),
        "mnist conv2 train": (16, 32, 32, 32, 12, 5, True),
        "mnist conv1 predict": (14, 1000, 1, 32, 28, 5, False),
        "mnist conv2 predict": (14, 1000, 32, 32, 12, 5, True),
        "mnist conv1 attack": (146, 100, 1, 32, 28, 5, False),
        "mnist conv2 attack": (146, 100, 32, 32, 12, 5, True),
        "cifar conv1 train": (16, 32, 3, 16, 32, 3, True),
        "cifar conv2 train": (16, 32, 16, 32, 15, 3, True),
        "cifar conv2 attack": (100, 100, 16, 32, 15, 3, True),
    }
    for name, (m, b, c, o, side, k, own) in cases.items():
        m, b = (m, b) if REAL else (2, 2)
        h = torch.randn(b, m * c if own else c, side, side, device=DEVICE)
        weight = torch.randn(m, o, c, k, k, device=DEVICE)
        upstream = torch.randn(b, m * o, side - k + 1, side - k + 1, device=DEVICE)
        kinds = {
            "forward": convolution.outputs(h, weight, how, own),
            "maps": convolution.map_gradients(upstream, weight, h.shape, how, own),
        }
        if "predict" in name:
            kinds = {"forward": kinds["forward"], "pool": convolution.largest(upstream, (2, 2))}
        if "train" in name:
            kinds["weights"] = convolution.weight_gradients(upstream, h, weight.shape, how, own)
        for kind, ways in kinds.items():
            with told("layers", f"{name} {kind}"), float32(False):
                expected = ways["library"]()
                off = [((call() - expected).norm() / expected.norm()).item() for call in ways.values()]
                took = {n: round(seconds(call, budget=0.5) * 1e3, 3) for n, call in ways.items()}
                note("layers", f"{name} {kind}", **took, off=max(off))


def images(count: int) -> Split:
    labels = torch.randint(0, 10, (count,), generator=stream(0, "labels"))
    return Split("noise", torch.rand(count, 1, 28, 28, generator=stream(0, "images")), labels)


def started(name: str, count: int | None = None):
    """A method of the paper preset for MNIST, ready for rounds of `count` images, or of STEPS steps."""
    entry = registry.method(name)
    config = resolve(entry, entry.load().Config, "paper", "mnist", {}).method
    small = {} if REAL else {"hidden": 16, "networks": 2, "batch": 4}
    changes = {"epochs": 6, "keep": 1, "burn_in": 0.2, "free_epochs": 1, **small}
    config = dataclasses.replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})
    method = entry.load()(networks.mnist(), config)
    method.device = DEVICE
    together = name in ("hypergan", "bayes_by_hypernet", "bayesian_hypernetwork")
    data = images(count or STEPS * config.batch * (config.networks if together else 1)).to(DEVICE)
    method.start(data, data, loss=cross_entropy, rng=Streams(0, "fit"))
    return method


@contextmanager
def recording(allowed: bool):
    before, Recorded.allowed = Recorded.allowed, allowed
    try:
        yield
    finally:
        Recorded.allowed = before


def weights_of(method) -> torch.Tensor:
    tensors, _ = method.state()
    kept = [t for n, t in tensors.items() if "optimiser" not in n and t.is_floating_point()]
    return torch.cat([t.detach().double().flatten().cpu() for t in kept])


def steps() -> None:
    """Steps as they are and recorded, of every method: time, and how far the weights end apart."""
    for name in METHODS:
        ends = {}
        for kind in ("as it is", "recorded"):
            with told("steps", f"{name} {kind}"), recording(kind == "recorded"), float32(False):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", category=UserWarning)
                    if REAL:
                        torch.cuda.reset_peak_memory_stats()
                    method = started(name)
                    losses = method.round(0)
                    method.round(1)
                    sync()
                    begun = time.perf_counter()
                    method.round(2)
                    sync()
                    took = (time.perf_counter() - begun) / len(method.batches)
                ends[kind] = weights_of(method)
                first = ends["as it is"]
                peak = torch.cuda.max_memory_allocated() / 2**20 if REAL else 0
                note(
                    "steps", f"{name} {kind}", ms_a_step=took * 1e3, loss=losses["loss"],
                    off=((ends[kind] - first).norm() / first.norm()).item(), peak_MB=peak,
                    warnings=[str(w.message)[:300] for w in caught],
                )  # fmt: skip
                del method


def epochs() -> None:
    """Whole epochs of MNIST's size, rows made on the CPU and brought over included."""
    for name, target in EPOCH_TARGETS.items():
        with told("epochs", name), float32(False):
            method = started(name, 55_000 if REAL else 64)
            method.round(0)
            found = []
            for i in (1, 2, 3):
                sync()
                begun = time.perf_counter()
                method.round(i)
                sync()
                found.append(time.perf_counter() - begun)
            rows = getattr(method, "_chain_rows", None) or method._rows
            begun = time.perf_counter()
            list(rows(4))
            note(
                "epochs", name, seconds=min(found), all=[round(s, 4) for s in found], target=target,
                reached=min(found) <= target, rows_seconds=time.perf_counter() - begun,
            )  # fmt: skip
            del method


def refusal() -> None:
    """A step that asks for a value cannot be recorded: it is told, runs as it is, and spoils nothing."""
    for kind in ("asks", "recorded"):
        with told("refusal", kind):
            x = torch.zeros(3, device=DEVICE)
            noise = torch.Generator(DEVICE)
            recorded = Recorded(DEVICE, [noise])

            def step(row, x=x, noise=noise, asks=kind == "asks"):
                if asks:
                    row["rate"].item() if REAL else None
                x.add_(row["rate"] * torch.randn(3, generator=noise, device=DEVICE))
                return (x.sum(),)

            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                for i in range(3):
                    noise.manual_seed(i)
                    losses = recorded.run(step, ({"rate": 1 / (s + 1)} for s in range(8)))
            text = [str(w.message)[:300] for w in caught]
            note("refusal", kind, last=losses[-1, 0].item(), stream=str(recorded._ready), warnings=text)


def stacked(members: int) -> Ensemble:
    network = networks.mnist()
    weights = {
        n: torch.randn(members, *p.shape, generator=stream(0, n)) / max(1, p[0].numel()) ** 0.5
        for n, p in network.named_parameters()
    }
    return Ensemble(network, weights, Engine(network)).to(DEVICE)


def evaluation() -> None:
    """Prediction and attack of the sizes that the paper's tables need."""
    with told("evaluation", "predict"), float32(False), torch.no_grad():
        ensemble, shown = stacked(100 if REAL else 3), torch.rand(1000 if REAL else 8, 1, 28, 28).to(DEVICE)
        took = 10 * seconds(lambda: ensemble(shown), repeats=9)
        note("evaluation", "predict 100 x 10,000", seconds=took, target=PREDICT_TARGET,
             reached=took <= PREDICT_TARGET)  # fmt: skip
    with told("evaluation", "attack"), float32(False):
        ensemble, split = stacked(1000 if REAL else 4), images(100 if REAL else 2)
        x, y = split.images.to(DEVICE), split.labels.to(DEVICE)

        def gradient():
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(F.cross_entropy(ensemble(leaf).mean(0), y), leaf)[0]

        note("evaluation", "gradient 1,000 x 100", seconds=seconds(gradient))
        took = seconds(lambda: oblivious.pgd(ensemble, split.images, split.labels, 0.1, 10, stream(1)), 3, 8)
        peak = torch.cuda.max_memory_allocated() / 2**30 if REAL else 0.0
        note("evaluation", "PGD-10 1,000 x 100", seconds=took, target=ATTACK_TARGET,
             reached=took <= ATTACK_TARGET, peak_GB=peak)  # fmt: skip


def profile() -> None:
    """Where a GPU's time goes, of steps as they are, a prediction and a gradient."""
    if not REAL:
        return
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorder

    def show(name: str, call, divide: int) -> None:
        with recorder(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            call()
            sync()
        events = [e for e in found.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
        events = [e for e in events if not e.key.startswith("Optimizer.")]
        total = sum(e.self_device_time_total for e in events)
        note("profile", name, kernels=sum(e.count for e in events) / divide, gpu_ms=total / divide / 1e3)
        for e in sorted(events, key=lambda e: -e.self_device_time_total)[:14]:
            note("profile", "  " + e.key[:90], share=e.self_device_time_total / total,
                 times=e.count / divide, us=e.self_device_time_total / e.count)  # fmt: skip

    with recording(False), float32(False):
        for name in ("hypergan", "mnf", "sgld"):
            with told("profile", name):
                method = started(name)
                method.round(0)
                show(name, lambda method=method: method.round(1), STEPS)
        with told("profile", "predict"), torch.no_grad():
            ensemble, x = stacked(100), torch.rand(1000, 1, 28, 28).to(DEVICE)
            ensemble(x)
            show("predict 100 x 1,000", lambda: ensemble(x), 1)
        with told("profile", "gradient"):
            ensemble, leaf = stacked(1000), torch.rand(100, 1, 28, 28).to(DEVICE).requires_grad_()
            show("gradient 1,000 x 100", lambda: torch.autograd.grad(ensemble(leaf).sum(), leaf), 1)


def compare(first: str, second: str, which: str) -> None:
    """Runs of one name in two results folders, within the tolerance that `bench verify` would allow."""
    tolerance = getattr(agreement, which)
    # Names end in a hash that holds the device.
    here, there = ({p.stem[:-9]: p for p in (Path(f) / "raw").glob("*.csv")} for f in (first, second))
    found = sorted(set(here) & set(there))
    bad = rows = 0
    for name in found:
        with told("compare", name):
            c = agreement.Comparison()
            pairs = ((first, here), (second, there))
            a, b = (agreement.read_rows(Path(f), paths[name].stem) for f, paths in pairs)
            agreement.compare_rows(a, b, tolerance, c)
            arrays = (store.read_arrays(Path(f), paths[name].stem) for f, paths in pairs)
            agreement.compare_arrays(*arrays, tolerance, c)
            rows += c.rows
            if parts := c.differing or c.missing or c.added:
                bad += 1
                note("compare", name[:46], differing=len(c.differing), missing=len(c.missing),
                     added=len(c.added), first=str(parts[0])[:150])  # fmt: skip
    note("compare", f"{first} {second} {which}"[:46], cells=len(found), of=len(here), rows=rows, differ=bad)


def lend(first: str, second: str) -> None:
    """Checkpoints of one results folder, in another as if this device had fitted them."""
    for path in sorted((Path(first) / "checkpoints").rglob("*.safetensors")):
        tensors, about = checkpoint.read(path)
        place = {"device": DEVICE.type}
        known = {key: value for key, value in about["identity"].items() if key != "device"}
        fit = "class" in known  # else a round that variants share, which names no CPU, as folders do not
        of_folder = {key: v for key, v in known.items() if key not in ("class", "settings")}
        folder = digest(of_folder | (place if REAL else {}))[:16]
        identity = known | (place if REAL or fit else {})
        to = Path(second) / "checkpoints" / path.parent.parent.name / folder / path.name
        checkpoint.write(to, tensors, {**about, "identity": identity})


SECTIONS = (about, ceilings, layers, steps, epochs, refusal, evaluation, profile)

if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] in (["compare"], ["lend"]):
        {"compare": compare, "lend": lend}[sys.argv[1]](*sys.argv[2:])
        sys.exit()
    for section in SECTIONS:
        if not sys.argv[1:] or section.__name__ in sys.argv[1:]:
            with told(section.__name__, "failed"):
                section()
