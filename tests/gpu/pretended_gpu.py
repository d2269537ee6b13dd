"""A pretended GPU for tests: tensors stay on the CPU, and count as on `cuda:0` where a program put them.

Nothing is computed elsewhere, so values are real (`.item()` works, fits learn), while every ATen call, of
forward and backward passes, is held to a GPU's rules: all tensors of a call on one device, but for the
exceptions that PyTorch makes; a generator on the device that it fills; no `.numpy()` and no `data_ptr()` of
device memory. It counts what makes a GPU slow: calls that become kernels, and moments at which the host
waits.

A storage is on one device, so storages are what is marked: views, gradients and saved tensors need no care.
Tensors that C++ makes for itself (zeros in a derivative's formula) fit to any device. What it cannot see:
numbers, speed, CUDA's own errors, more than one thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)
HOST, GPU, ANY = "cpu", "cuda:0", "any"
aten = torch.ops.aten
ACROSS = {aten.copy_, aten._to_copy, aten._local_scalar_dense, aten.set_, aten.lift_fresh, aten.detach}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
# Besides pointwise calls, those that take a 0-dimensional tensor of the CPU as a number.
NUMBERS = {aten.masked_fill, aten.masked_fill_, aten.fill_, aten.where, aten.pow, aten.lerp, aten.lerp_}
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2}
FACTORIES = (
    "empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "arange", "eye", "linspace",
    "scalar_tensor", "empty_strided", "tensor", "as_tensor", "asarray", "from_numpy",
)  # fmt: skip


class DeviceFault(RuntimeError):
    """What a GPU would have refused."""


class Generator(torch.Generator):
    """A generator of the CPU that says it is on the device it was made for."""

    def __new__(cls, device: Any = None) -> Generator:
        made = super().__new__(cls)
        made.asked = torch.device("cpu" if device is None else device)
        return made

    @property
    def device(self) -> torch.device:
        return CUDA if self.asked.type == "cuda" else self.asked


class Ledger:
    """Where storages are, and what was counted. calls: by ATen name. waits: of the host, by reason."""

    def __init__(self) -> None:
        self.held: dict[int, tuple[StorageWeakRef, str]] = {}
        self.calls: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.capturing = False
        self.recorded = self.replayed = 0  # steps
        self.making = 0  # depth of Python calls that make tensors

    def where(self, tensor: Tensor) -> str:
        try:
            held = self.held.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # a wrapper of torch.func has no storage
            return ANY
        return HOST if held is None or held[0].expired() else held[1]

    def mark(self, tensor: Tensor, place: str) -> None:
        try:
            ref = StorageWeakRef(tensor.untyped_storage())
        except (NotImplementedError, RuntimeError):  # no storage, as above: nothing to mark
            return
        self.held[ref.cdata] = (ref, place)
        if len(self.held) % 4096 == 0:
            self.held = {k: v for k, v in self.held.items() if not v[0].expired()}

    def wait(self, reason: str) -> None:
        if self.capturing:
            raise DeviceFault(f"operation not permitted when stream is capturing: {reason}")
        self.waits[reason] += 1

    def alive(self) -> int:
        """Storages on the GPU that something still holds."""
        return sum(place == GPU and not ref.expired() for ref, place in self.held.values())

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Inside, a wait is a fault, as it is while a CUDA graph is recorded."""
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.device.type != "meta"]


class _Calls(TorchDispatchMode):
    """Every ATen call."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, ledger, packet = kwargs or {}, self.ledger, func.overloadpacket
        tensors = _tensors((args, kwargs))
        places = [ledger.where(t) for t in tensors]
        if GPU in places:
            self._check(func, args, tensors, places)
        before = {t.untyped_storage()._cdata for t in tensors}
        out = func(*args, **kwargs)
        fresh = [t for t in _tensors(out) if t.untyped_storage()._cdata not in before]
        if GPU in places:
            for t in fresh:
                if packet is not aten._local_scalar_dense:
                    ledger.mark(t, GPU)
            if fresh or func._schema.is_mutable:
                ledger.calls[str(packet)] += 1
            masks = packet in INDEXING and any(
                t.dtype in (torch.bool, torch.uint8) for t in _tensors(args[1])
            )
            if packet in WAITS or masks:
                ledger.wait(str(packet))
        elif (not tensors and not ledger.making) or (ANY in places and HOST not in places):
            for t in fresh:
                ledger.mark(t, ANY)
        return out

    def _check(self, func: Any, args: Any, tensors: list[Tensor], places: list[str]) -> None:
        ledger, packet = self.ledger, func.overloadpacket
        if packet in ACROSS:
            if packet is aten.copy_ and HOST in places and not (len(args) > 2 and args[2]):
                ledger.wait("copy_ between devices")
        elif packet in INDEXING:
            index = [ledger.where(i) for i in _tensors(args[1])]
            if ledger.where(args[0]) == HOST and GPU in index:
                raise DeviceFault(f"{func}: expected indices on the CPU, found them on {GPU}")
            if HOST in index:
                ledger.wait("an index on the CPU")
            if any(ledger.where(t) == HOST and t.dim() for t in _tensors(args[2:])):
                raise DeviceFault(f"{func}: expected values on {GPU}, found them on the CPU")
        else:
            number = torch.Tag.pointwise in func.tags or packet in NUMBERS
            for t, place in zip(tensors, places, strict=True):
                if place == HOST and not (number and t.dim() == 0):
                    shapes = [f"{list(t.shape)} on {p}" for t, p in zip(tensors, places, strict=True)]
                    raise DeviceFault(f"{func}: expected all tensors on one device, found {shapes[:6]}")


class _Python(TorchFunctionMode):
    """Calls from Python: where they name a device, and what they read of a tensor."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, ledger = dict(kwargs or {}), self.ledger
        own = args[0] if args and isinstance(args[0], Tensor) else None
        on_gpu = own is not None and ledger.where(own) == GPU
        if func == Tensor.device.__get__:
            return CUDA if on_gpu else func(*args, **kwargs)
        if func == Tensor.is_cuda.__get__:
            return on_gpu
        if own is not None and (func is Tensor.to or func is Tensor.cpu or func is Tensor.cuda):
            return self._move(func, own, args[1:], kwargs)
        if on_gpu and func in (Tensor.numpy, Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        if on_gpu and func is Tensor.data_ptr:
            raise DeviceFault("data_ptr: expected memory of the host, found a tensor on cuda:0")
        if on_gpu and func is Tensor.tolist:
            ledger.wait("tolist")
            with _disable_current_modes():
                return func(*args, **kwargs)
        if on_gpu and func is Tensor.__setitem__ and isinstance(args[2], (int, float)):
            waits = ledger.waits["copy_ between devices"]  # a number is filled in on the device
            func(*args, **kwargs)
            ledger.waits["copy_ between devices"] = waits
            return None
        return self._make(func, args, kwargs, on_gpu)

    def _make(self, func: Any, args: Any, kwargs: dict[str, Any], on_gpu: bool) -> Any:
        ledger, name = self.ledger, getattr(func, "__name__", "")
        device = kwargs.get("device")
        wanted = None if device is None else torch.device(device)
        generator = kwargs.get("generator")
        if generator is not None:
            fills = CUDA if on_gpu else (wanted or torch.device("cpu"))
            if generator.device.type != fills.type:
                raise DeviceFault(
                    f"{name}: expected a '{fills.type}' generator, found '{generator.device.type}'"
                )
        if wanted is not None and wanted.type == "cuda":
            kwargs["device"] = "cpu"
        ledger.making += name in FACTORIES
        try:
            out = func(*args, **kwargs)
        finally:
            ledger.making -= name in FACTORIES
        if wanted is not None and wanted.type in ("cuda", "cpu"):
            for t in _tensors(out):
                ledger.mark(t, GPU if wanted.type == "cuda" else HOST)
            if wanted.type == "cuda":
                ledger.calls[name] += 1
                if name in ("tensor", "as_tensor", "asarray"):
                    ledger.wait(f"{name} of host data")
        elif func is Tensor.new_tensor and on_gpu:
            ledger.mark(out, GPU)
            ledger.wait("new_tensor of host data")
        return out

    def _move(self, func: Any, own: Tensor, args: Any, kwargs: dict[str, Any]) -> Tensor:
        ledger, here = self.ledger, self.ledger.where(own)
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        if func is not Tensor.to:
            device = "cpu" if func is Tensor.cpu else "cuda"
        for a in args:
            if isinstance(a, torch.dtype):
                dtype = a
            elif isinstance(a, Tensor):
                device, dtype = ("cuda" if ledger.where(a) == GPU else "cpu"), a.dtype
            elif isinstance(a, (torch.device, str)):
                device = a
        kind = None if device is None else torch.device(device).type
        if kind not in (None, "cuda", "cpu"):
            return func(own, *args, **kwargs)
        there = here if kind is None else (GPU if kind == "cuda" else HOST)
        if there != here:
            if not kwargs.get("non_blocking"):
                ledger.wait("to the host" if there == HOST else "to the device")
            own = _Transfer.apply(own, ledger, there)
        return own if dtype is None or dtype == own.dtype else own.to(dtype=dtype)


class _Transfer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ledger: Ledger, there: str) -> Tensor:
        ctx.ledger, ctx.here = ledger, ledger.where(x)
        return _copied(x, ledger, there)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _copied(upstream, ctx.ledger, ctx.here), None, None


def _copied(x: Tensor, ledger: Ledger, place: str) -> Tensor:
    with _disable_current_modes():
        out = x.detach().clone()
    ledger.mark(out, place)
    return out


class EmulatedGraph(TorchDispatchMode):
    """What a CUDA graph does, by calls instead of kernels: the same calls on the same memory, every time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        # Not a call from Python, whose words about devices would count.
        with torch._C.DisableTorchFunction():
            out = func(*args, **kwargs)
        made = enumerate(_tensors(out))
        fresh = [(i, t.detach()) for i, t in made if t.untyped_storage()._cdata not in before]
        if fresh or func._schema.is_mutable or "batch_norm" in str(func):
            self.calls.append((func, args, kwargs, fresh))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, fresh in self.calls:
            if "empty" in func._schema.name:
                continue
            with torch._C.DisableTorchFunction():
                outs = _tensors(func(*args, **kwargs))
            for i, t in fresh:
                t.copy_(outs[i])


class Recorder:
    """In place of `bench.engine.recording.CUDAGraphRecorder`: a wait while it records is a fault.

    An emulation runs while it records, and so leaves out the first replay.
    """

    def __init__(self, ledger: Ledger, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        assert all(g.device == CUDA for g in generators)
        self.ledger, self.graph, self.ran = ledger, EmulatedGraph(), False

    def warm_up(self, step: Callable[[], None]) -> None:
        step()

    def record(self, step: Callable[[], None]) -> None:
        with self.ledger.capture(), self.graph:
            step()
        self.ran = True
        self.ledger.recorded += 1

    def replay(self) -> None:
        if not self.ran:
            self.graph.replay()
            self.ledger.replayed += 1
        self.ran = False


class _Nothing:
    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: Any) -> None: ...


@contextmanager
def pretended_gpu() -> Iterator[Ledger]:
    """Inside, `torch.device("cuda")` is a device that has rules and no hardware; for one thread."""
    ledger, threads = Ledger(), torch.get_num_threads()
    run, grouped = torch.autograd._engine_run_backward, torch._C._group_tensors_by_device_and_dtype

    def backward(*args: Any, **kwargs: Any) -> Any:
        """`torch.autograd.grad` is itself a call that the mode sees, and in which it would be off."""
        with _Python(ledger):
            return run(*args, **kwargs)

    def group(lists: Any, with_indices: bool = False) -> Any:
        """C++ groups an optimiser's tensors by the device that it sees."""
        return {
            (CUDA if ledger.where(value[0][0][0]) == GPU else device, dtype): value
            for (device, dtype), value in grouped(lists, with_indices).items()
        }

    patches = {
        "torch.Generator": Generator,
        "torch.autograd._engine_run_backward": backward,
        "torch._C._group_tensors_by_device_and_dtype": group,
        "torch.cuda.synchronize": lambda *_: ledger.wait("synchronize"),
        "torch.cuda.get_device_name": lambda *_: "pretended",
        "torch.cuda.reset_peak_memory_stats": lambda *_: None,
        "torch.cuda.max_memory_allocated": lambda *_: 0,
        "torch.cuda.memory_allocated": lambda *_: 0,
        "torch.cuda.memory_reserved": lambda *_: 0,
        "torch.cuda.mem_get_info": lambda *_: (2**33, 2**33),
        "torch.cuda.get_device_properties": lambda *_: SimpleNamespace(total_memory=2**33),
        "torch.cuda.is_current_stream_capturing": lambda: ledger.capturing,
        "bench.engine.convolution.milliseconds": lambda call: len(call().shape),
        "bench.engine.convolution._chosen": {},
        "torch.cuda.get_rng_state": lambda *_: torch.zeros(0),
        "torch.cuda.set_rng_state": lambda *_: None,
        "torch.cuda.manual_seed": lambda *_: None,
        "torch.cuda.manual_seed_all": lambda *_: None,
        "torch.cuda.device": _Nothing,
        "bench.engine.recording.CUDAGraphRecorder": partial(Recorder, ledger),
    }
    torch.set_num_threads(1)
    try:
        with ExitStack() as stack:
            for name, value in patches.items():
                stack.enter_context(mock.patch(name, value))
            stack.enter_context(_Calls(ledger))
            stack.enter_context(_Python(ledger))
            yield ledger
    finally:
        torch.set_num_threads(threads)
