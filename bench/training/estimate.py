"""Whether what a fit starts with fits in memory, asked of shapes alone: nothing of that size is made."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from bench.engine import Loss
from bench.errors import BenchError
from bench.rng import Streams
from bench.task import Split
from bench.training import limits
from bench.training.method import Method

SHAPES = torch.device("meta")  # its tensors have shapes and no values


class _WithoutValues(TorchDispatchMode):
    """Inside, every operation makes a tensor of its shape on `SHAPES`, and draws no random number."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        def moved(value: Any) -> Any:
            if isinstance(value, Tensor) and value.device != SHAPES:
                return torch.empty_like(value, device=SHAPES)
            if isinstance(value, torch.device):
                return SHAPES
            return None if isinstance(value, torch.Generator) else value

        given: dict[str, Any] = tree_map(moved, kwargs or {})
        if any(argument.name == "device" for argument in func._schema.arguments):
            given["device"] = SHAPES
        return func(*tree_map(moved, args), **given)


def check_start(
    kind: type[Method],
    network: nn.Module,
    config: Any,
    data: tuple[Split, Split],
    loss: Loss,
    device: torch.device,
) -> None:
    """Raises BenchError where what a fit makes before its first round would not fit, as `fit` itself does.

    kind: the method. data: training and validation examples. Rounds may need more. Nothing is said of a
    method whose `start` asks for the values of tensors, since they have none here: `fit` watches it.
    """
    name = kind.__name__
    guard = limits.Guard(name, config)
    guard.rooms[SHAPES.type] = limits.room(device)
    try:
        with limits.explained(name, config):
            method = kind(network, config)
            method.device = device
            with guard, _WithoutValues():
                method.start(*data, loss=loss, rng=Streams(0, "fit"))
    except BenchError:
        raise
    except (
        Exception
    ):  # whatever an author's code raises for want of values; a fault of its own shows in `fit`
        return
