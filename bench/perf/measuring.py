"""Medians of interleaved repeats, as seconds, GFLOP/s and fractions of two ceilings.

The ceilings of a case are measured between its repeats: the peak of fused multiply-adds, of one core times
the cores that work, and a float32 matrix product. Only the peak is a limit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from bench.engine import float32, kernels, parallel
from bench.perf import cases, steps
from bench.perf.cases import ENGINE
from bench.rng import stream
from bench.system import devices, machine

GEMM = 2048  # side of the matrices: large enough to reach a core's peak, small enough to repeat
REPEATS = 5
SLOW_SECONDS, SLOW_REPEATS = 5.0, 3  # a call that takes longer is repeated less often
STEP_REPEATS = 3  # of a round of steps
NOTE = (
    "Gradients after max-pooling need a quarter of the multiply-adds that are counted: in training\n"
    "and attacks the engine may pass 1."
)


# Of a case: its name, its network's, members and images of each.
Names = tuple[str, str, int | None, int | None]


@dataclass(frozen=True)
class Measurement:
    """Median seconds of one case by one way, beside the ceilings of the same run.

    members, batch: None for a whole step, where they are the method's. Of the peak None where it is not
    known: on a GPU, and where the kernels were not compiled. fraction_of_peak: above 1 is no error in
    training and attacks, where gradients after max-pooling need a quarter of the multiply-adds that count.
    """

    case: str
    network: str
    members: int | None
    batch: int | None
    device: str
    way: str
    seconds: float
    gflop_per_s: float
    peak_gflop_per_s: float | None
    fraction_of_peak: float | None
    gemm_gflop_per_s: float
    fraction_of_gemm: float
    peak_memory_bytes: int


def measure(
    kind: str, device: torch.device, repeats: int = REPEATS, threads: int | None = None
) -> Iterator[Measurement]:
    """Every case of a kind by every way that fits, interleaved so that drift meets all alike.

    With those of "train" whole steps of every method. In full float32 on a GPU, as evaluations are: PyTorch
    would allow TF32 for convolutions, and not for the matrix product beside them. threads: of every way
    (None: PyTorch's number).
    """
    if threads is not None:
        torch.set_num_threads(threads)
        parallel.use(threads)
    a = torch.randn(GEMM, GEMM, generator=stream(0, "gemm")).to(device)
    product = partial(_seconds, partial(torch.matmul, a, a), device)
    for case in cases.CASES[kind]:
        with float32(tf32=False):
            calls = {w: partial(_seconds, call, device) for w, call in cases.prepare(case, device).items()}
            what: Names = (case.name, case.network, case.members, case.batch)
            found = _measured(what, calls, product, device, repeats, case.flop)
        yield from found
    for entry in steps.entries() if kind == "train" else ():
        with float32(tf32=False):
            fits = steps.prepare(entry, device)
            calls = {way: partial(_step_seconds, fit, device) for way, fit in fits.items()}
            what = (f"step-{entry.name}", steps.NETWORK, None, None)
            flop = fits[ENGINE].flop_per_step
            found = _measured(what, calls, product, device, min(repeats, STEP_REPEATS), flop)
        yield from found


def _measured(
    what: Names,
    calls: Mapping[str, Callable[[], float]],
    product: Callable[[], float],
    device: torch.device,
    repeats: int,
    flop: Callable[[], float],
) -> list[Measurement]:
    """Measurements of one case. calls: by way; do the work and return its seconds, as `product` does.

    flop: of what the seconds are for; asked for after the calls.
    """
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    products, limits = [], []
    memory, counts = {}, {}
    for way, call in calls.items():  # the first call warms up and shows the peak
        devices.reset_peak_memory(device)
        before = devices.peak_memory_bytes(device)
        counts[way] = min(repeats, SLOW_REPEATS) if call() > SLOW_SECONDS else repeats
        memory[way] = max(0, devices.peak_memory_bytes(device) - before)
    for i in range(repeats):
        products.append(product())
        limits.append(peak(device))
        for way, call in calls.items():
            if i < counts[way]:
                seconds[way].append(call())
    gemm = 2 * GEMM**3 / statistics.median(products) / 1e9
    limit = max((p for p in limits if p is not None), default=None)
    found = []
    for way in calls:
        median = statistics.median(seconds[way])
        rate = flop() / median / 1e9
        of_peak = None if limit is None else rate / limit
        ceilings = (limit, of_peak, gemm, rate / gemm)
        found.append(Measurement(*what, device.type, way, median, rate, *ceilings, memory[way]))
    return found


def peak(device: torch.device) -> float | None:
    """The peak of fused multiply-adds of all cores that work, in GFLOP/s; None where it is not known."""
    of_core = kernels.peak_gflop_per_s() if device.type == "cpu" else None
    return None if of_core is None else of_core * min(parallel.threads(), machine.cores())


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _step_seconds(fit: steps.Fit, device: torch.device) -> float:
    """Seconds per step of a round."""
    with fit.threads():
        return _seconds(fit.round, device) / fit.steps


def documents(measurements: list[Measurement]) -> list[dict[str, Any]]:
    """Measurements as JSON objects."""
    return [asdict(m) for m in measurements]


def about() -> str:
    """What the measurements hang on beside the device: threads, and the engine's compiled kernels."""
    built = "compiled" if kernels.compiled() else "not compiled, install again where a C++ compiler is"
    return f"{NOTE}\n{parallel.threads()} threads; the engine's CPU kernels are {built}"


def table(measurements: list[Measurement]) -> str:
    """Measurements as plain text: one line a case and way, with the engine's advantage over it."""
    lines = [
        f"{'case':<28}{'way':<8}{'seconds':>9}{'GFLOP/s':>9}{'of peak':>9}{'of GEMM':>9}{'peak MiB':>10}"
        f"{'engine':>9}"
    ]
    engines = {m.case: m.seconds for m in measurements if m.way == ENGINE}
    for m in measurements:
        faster = "" if m.way == ENGINE else f"{m.seconds / engines[m.case]:.2f}x"
        of_peak = "N/A" if m.fraction_of_peak is None else f"{m.fraction_of_peak:.2f}"
        lines.append(
            f"{m.case:<28}{m.way:<8}{m.seconds:>9.4f}{m.gflop_per_s:>9.1f}{of_peak:>9}"
            f"{m.fraction_of_gemm:>9.2f}{m.peak_memory_bytes / 2**20:>10.0f}{faster:>9}"
        )
    return "\n".join(lines)
