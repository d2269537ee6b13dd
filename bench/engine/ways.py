"""Three ways to evaluate stacked networks; each computes the same logits and gradients.

A way has three parts. `prepare` lays weights out in memory, once for all images; `enter` does what
all members share on an image batch, once; `run` evaluates the members on what was entered. All are
differentiable. Shapes: x [B, ...] shared by all members, or [M, B, ...] with own images; weights by
name [M, *shape]; logits [M, B, K].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench.engine.plan import Step

Weights = Mapping[str, Tensor]
# A layer's own operation: (step, this member's weights by name, input) -> output.
LayerOperation = Callable[[Step, Weights, Tensor], Tensor]


@dataclass(frozen=True)
class Entered:
    """An image batch after `enter`: `batch` images as `data`, unfolded to patches or not."""

    data: Tensor
    batch: int
    own: bool
    patches: tuple[int, int] | None = None  # height and width of the first layer's output


class Way(ABC):
    """How stacked networks of one shape are evaluated."""

    def prepare(self, weights: Weights) -> Weights:
        """The same weights, laid out as `run` reads them fastest."""
        return weights

    @abstractmethod
    def enter(self, x: Tensor, own: bool) -> Entered: ...

    @abstractmethod
    def run(self, weights: Weights, entered: Entered) -> Tensor: ...


class MemberLoop(Way):
    """One member after the other, activations in cache: the fastest way on a CPU.

    What it gains over a plain loop: patches of a one-channel first layer are unfolded once for all
    members, so that the layer is one matrix product a member; tensors stay channels-last; pooling
    comes before the activation, which then works in place.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.before = [s for s in steps if s.kind == "normalise"]
        self.steps = tuple(s for s in steps if s.kind != "normalise")

    def prepare(self, weights: Weights) -> Weights:
        # Channels-last for each member: otherwise every call of a convolution would reorder them.
        return {
            n: w.movedim(2, -1).contiguous().movedim(-1, 2) if w.dim() == 5 else w for n, w in weights.items()
        }

    def enter(self, x: Tensor, own: bool) -> Entered:
        batch = x.shape[1] if own else x.shape[0]
        flat = x.flatten(0, 1) if own else x
        for step in self.before:
            flat = step.module(flat)
        first = self.steps[0].module
        grid = None
        if isinstance(first, nn.Conv2d) and _one_channel(first):
            kh, kw = cast(tuple[int, int], first.kernel_size)
            flat = flat.unfold(2, kh, 1).unfold(3, kw, 1)  # [B, 1, H', W', kh, kw]
            grid = (flat.shape[2], flat.shape[3])
            flat = flat.reshape(flat.shape[0], -1, kh * kw)  # [B, H'W', kh kw]
        elif flat.dim() == 4:
            flat = flat.contiguous(memory_format=torch.channels_last)
        return Entered(flat.unflatten(0, (-1, batch)) if own else flat, batch, own, grid)

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        names = list(weights)
        members = zip(*(weights[name].unbind(0) for name in names), strict=True)
        outputs = []
        for m, values in enumerate(members):
            data = entered.data[m] if entered.own else entered.data
            outputs.append(self.walk(dict(zip(names, values, strict=True)), data, entered.patches))
        return torch.stack(outputs)

    def walk(
        self,
        weights: Weights,
        data: Tensor,
        patches: tuple[int, int] | None = None,
        operation: LayerOperation | None = None,
    ) -> Tensor:
        """One member's logits [B, K]; `operation` replaces what layers with weights do."""
        h = data
        for i, step in enumerate(self.steps):
            if step.has_weights and operation is not None:
                h = operation(step, weights, h)
            elif i == 0 and patches is not None:
                h = _product_of_patches(step, weights, h, patches)
            else:
                h = apply(step, weights, h, inplace=operation is None)
        return h


def _channels_last(stacked: Tensor) -> Tensor:
    return stacked.movedim(2, -1).contiguous().movedim(-1, 2)


def _one_channel(first: nn.Conv2d) -> bool:
    # With more channels a channels-last convolution is faster than unfolding (measured).
    return (
        first.in_channels == 1
        and first.stride == (1, 1)
        and first.padding == (0, 0)
        and first.dilation == (1, 1)
    )


def _product_of_patches(step: Step, weights: Weights, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """The first convolution as a matrix product; returns [B, O, H', W'], channels last in memory."""
    weight = weights[f"{step.name}.weight"].flatten(1).t()
    bias = weights.get(f"{step.name}.bias")
    flat = patches.flatten(0, 1)
    out = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    return out.view(patches.shape[0], *grid, -1).permute(0, 3, 1, 2)


def apply(step: Step, weights: Weights, h: Tensor, inplace: bool = False) -> Tensor:
    """What a known layer does with one member's weights.

    inplace: an activation may overwrite its input; only where nothing before it kept its output for
    the backward pass, as is true of the convolutions, products and poolings here.
    """
    module = step.module
    match module:
        case nn.Conv2d():
            weight = weights[f"{step.name}.weight"].contiguous(memory_format=torch.channels_last)
            bias = weights.get(f"{step.name}.bias")
            return F.conv2d(h, weight, bias, *_geometry(module))
        case nn.Linear():
            return F.linear(h, weights[f"{step.name}.weight"], weights.get(f"{step.name}.bias"))
        case nn.LeakyReLU():
            return F.leaky_relu(h, module.negative_slope, inplace and module.negative_slope > 0)
        case nn.ReLU():
            return F.relu(h, inplace)
    return module(h)


def _geometry(module: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    assert not isinstance(module.padding, str)  # plan.read passes such layers on
    return module.stride, module.padding, module.dilation


class Batched(Way):
    """All members in one call a layer, as grouped convolutions and batched products, for a GPU.

    Activations are [B, M C, H, W] up to the flattening and [M, B, F] after it.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.before = [s for s in steps if s.kind == "normalise"]
        self.steps = tuple(s for s in steps if s.kind != "normalise")

    def enter(self, x: Tensor, own: bool) -> Entered:
        batch = x.shape[1] if own else x.shape[0]
        flat = x.flatten(0, 1) if own else x
        for step in self.before:
            flat = step.module(flat)
        return Entered(flat.unflatten(0, (-1, batch)) if own else flat, batch, own)

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        members = next(iter(weights.values())).shape[0]
        h, stacked = entered.data, entered.own
        if stacked and h.dim() == 5:  # [M, B, C, H, W] -> [B, M C, H, W]
            h = h.transpose(0, 1).flatten(1, 2)
        for step in self.steps:
            module = step.module
            if isinstance(module, nn.Conv2d):
                weight = weights[f"{step.name}.weight"].flatten(0, 1)
                bias = weights.get(f"{step.name}.bias")
                flat = None if bias is None else bias.flatten()
                # The first layer sees shared images: one dense convolution serves all members.
                h = F.conv2d(h, weight, flat, *_geometry(module), groups=members if stacked else 1)
                stacked = True
            elif isinstance(module, nn.Linear):
                h = torch.matmul(h, weights[f"{step.name}.weight"].transpose(1, 2))
                if (bias := weights.get(f"{step.name}.bias")) is not None:
                    h = h + bias.unsqueeze(1)
                stacked = True
            elif step.kind == "flatten" and stacked and h.dim() == 4:
                h = h.unflatten(1, (members, -1)).transpose(0, 1).flatten(2)  # [M, B, F]
            elif step.kind != "flatten" or h.dim() == 4:
                h = apply(step, weights, h)
        return h


class Vmap(Way):
    """`torch.func.functional_call` under `vmap`: any network without buffers, and slower."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def enter(self, x: Tensor, own: bool) -> Entered:
        return Entered(x, x.shape[1] if own else x.shape[0], own)

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        def one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.network, parameters, (x,))

        return vmap(one, in_dims=(0, 0 if entered.own else None))(dict(weights), entered.data)
