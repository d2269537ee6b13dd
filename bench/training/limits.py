"""Memory of a fit against what the machine has: refused in words before the system ends the process."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode

from bench.errors import BenchError
from bench.system.machine import memory_bytes
from bench.training.checkpoint import Kept

COUNTED = 4096  # bytes from which a tensor counts
FAILED = ("can't allocate memory", "not enough memory", "overflowed", "Overflow when unpacking")
_JOINED = {torch.ops.aten.stack.default, torch.ops.aten.cat.default}
_COPIED = {torch.ops.aten.clone.default, torch.ops.aten._to_copy.default}


def room(device: torch.device) -> float:
    """Bytes that this process may come to hold on a device, with those that it holds; infinite if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    found = memory_bytes() if device.type == "cpu" else None
    return math.inf if found is None else found


class Guard(TorchDispatchMode):
    """Inside, no tensor is made that would not fit beside those that were made inside and are still there.

    Every operation runs as it would outside; what it makes is counted, where the size shows in its
    arguments before it runs, and a parameter twice, since it will have a gradient. Raises BenchError
    that names the settings of `config` to lower.
    """

    def __init__(self, name: str, config: Any) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.rooms: dict[str, float] = {}
        self.made: dict[str, list[tuple[StorageWeakRef, int]]] = {}
        self.held: dict[str, int] = {}  # at most: tensors that have gone since are counted until asked
        self.parameters: dict[int, nn.Parameter] = {}

    def __enter__(self) -> Guard:
        self.hook = register_module_parameter_registration_hook(self._registered)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hook.remove()

    def _registered(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        """Called by PyTorch for every parameter of a module, before its values are set."""
        if parameter is None or not parameter.requires_grad or id(parameter) in self.parameters:
            return
        self.parameters[id(parameter)] = parameter
        self._check(parameter.nbytes, tuple(parameter.shape), parameter.device)
        self._count(parameter)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        shape, dtype, device = _asked(func, args, kwargs)
        size = math.prod(shape) * dtype.itemsize
        if size >= COUNTED:
            self._check(size, shape, device)
        found = func(*args, **kwargs)
        if _makes(func) and isinstance(found, Tensor) and found.nbytes >= COUNTED:
            self._count(found)
        return found

    def _count(self, tensor: Tensor) -> None:
        kind, storage = tensor.device.type, tensor.untyped_storage()
        self.made.setdefault(kind, []).append((StorageWeakRef(storage), storage.nbytes()))
        self.held[kind] = self.held.get(kind, 0) + storage.nbytes()

    def _check(self, size: int, shape: tuple[int, ...], device: torch.device) -> None:
        kind = device.type
        if kind not in self.rooms:
            self.rooms[kind] = room(device)
        if self.held.get(kind, 0) + size <= self.rooms[kind]:
            return
        left = [(weak, held) for weak, held in self.made.get(kind, []) if not weak.expired()]
        self.made[kind], self.held[kind] = left, sum(held for _, held in left)
        if self.held[kind] + size > self.rooms[kind]:
            dimensions = " x ".join(map(str, shape))
            what = (
                f"a tensor of {dimensions} needs {_gigabytes(size)}, {_gigabytes(self.held[kind])} are taken"
            )
            raise too_large(self.name, self.config, what, self.rooms[kind], shape)


def check_training(name: str, config: Any, parts: Mapping[str, Kept], device: torch.device) -> None:
    """Raises BenchError where weights, gradients and the optimisers' state would not fit on the device."""
    modules = [part for part in parts.values() if isinstance(part, nn.Module)]
    optimisers = [part for part in parts.values() if isinstance(part, torch.optim.Optimizer)]
    kept = {t for m in modules for t in (*m.parameters(), *m.buffers())}
    kept |= {part for part in parts.values() if isinstance(part, Tensor)}
    trained = {t: copies for o in optimisers for t, copies in _trained(o)}
    size = sum(t.nbytes for t in kept) + sum(t.nbytes * copies for t, copies in trained.items())
    if size < 2**28 or size <= (limit := room(device)):
        return
    largest = max(kept | set(trained), key=lambda t: t.nbytes)
    what = f"weights, gradients and optimiser need {_gigabytes(size)}"
    raise too_large(name, config, what, limit, tuple(largest.shape))


def _trained(optimiser: torch.optim.Optimizer) -> Iterator[tuple[Tensor, int]]:
    """Each tensor of an optimiser and how many of its size training adds: the gradient, and its moments."""
    for group in optimiser.param_groups:
        copies = 1 + (2 if "betas" in group else bool(group.get("momentum"))) + bool(group.get("amsgrad"))
        yield from ((t, copies) for t in group["params"])


@contextmanager
def explained(name: str, config: Any) -> Iterator[None]:
    """Inside, an allocation that fails is a BenchError that names settings to lower."""
    try:
        yield
    except (RuntimeError, TypeError, MemoryError) as error:
        out = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not out and not any(text in str(error) for text in FAILED):
            raise
        what = f"more was asked for: {str(error).splitlines()[0] if str(error) else 'MemoryError'}"
        raise too_large(name, config, what, None, ()) from error


def too_large(name: str, config: Any, what: str, limit: float | None, shape: tuple[int, ...]) -> BenchError:
    """The error of a fit that needs more memory than there is. shape: of its largest tensor."""
    there = "the memory that there is" if limit is None else f"the {_gigabytes(limit)} that are free"
    lower = " or ".join(f"--set <method>.{text}" for text in _settings_to_lower(config, shape))
    return BenchError(
        f"{name}: expected to train within {there}, found that {what}; "
        f"lower {lower or 'a setting that makes networks or layers larger'}"
    )


def _settings_to_lower(config: Any, shape: tuple[int, ...]) -> list[str]:
    """Whole-numbered settings of a config that stand in the shape, else those farthest above default."""
    if not dataclasses.is_dataclass(config):
        return []
    fields = [(f.name, getattr(config, f.name), f.default) for f in dataclasses.fields(config)]
    whole = [(n, v, d) for n, v, d in fields if type(v) is int and type(d) is int and v > 1]
    above = sorted((f for f in whole if f[1] > f[2]), key=lambda f: f[2] / f[1])
    chosen = [f for f in above or whole if f[1] in shape] or above[:2]
    return [f"{name}={value} (default {default})" for name, value, default in chosen]


def _asked(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    """Shape, type and device of what an operation will make, where its arguments say so; else of nothing."""
    place = _place_of_size(func)
    like = args[0] if args and isinstance(args[0], Tensor) else None
    shape: tuple[int, ...] = (0,)
    if place is not None and len(args) > place:
        shape = tuple(args[place])
    elif func in _COPIED and like is not None:
        shape = tuple(like.shape)
    elif func in _JOINED and args[0]:
        like = args[0][0]
        shape = (sum(t.numel() for t in args[0]),) if func is torch.ops.aten.cat.default else ()
        shape = shape or (len(args[0]), *like.shape)
    dtype = kwargs.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
    device = kwargs.get("device") or (torch.device("cpu") if like is None else like.device)
    return shape, dtype, torch.device(device)


@cache
def _place_of_size(func: Any) -> int | None:
    """Where among its arguments an operation that makes a tensor takes its size."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("size") if _makes(func) and "size" in names else None


@cache
def _makes(func: Any) -> bool:
    """Whether what an operation returns is new, neither a view of an argument nor one that it wrote to."""
    return not any(result.alias_info is not None for result in func._schema.returns)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
