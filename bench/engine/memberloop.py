"""One member after the other, activations in cache: the fastest way to evaluate networks on a CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.engine import kernels
from bench.engine.steps import Step
from bench.engine.ways import Entered, InputOperation, LayerOperation, Way, Weights, geometry


@dataclass(frozen=True)
class Block:
    """A layer, with the 2x2 pooling that follows it and the activation after that.

    slope: the activation's below 0, 1 where none follows; None where no pooling follows.
    """

    step: Step
    slope: float | None = None


class MemberLoop(Way):
    """One member after the other.

    What it gains over a plain loop: convolutions pool and activate before they write (`kernels`), or in one
    pass after it; tensors are channels-last; what backward passes keep is which entry of a window won, in a
    byte each, and their gradients are of these entries alone.
    """

    concurrent = True

    def __init__(self, steps: Sequence[Step]) -> None:
        self.before = [s for s in steps if s.kind == "normalise"]
        self.blocks = tuple(_blocks([s for s in steps if s.kind != "normalise"]))

    def prepare(self, weights: Weights) -> Weights:
        # Channels-last for each member: otherwise every call of a convolution would reorder them.
        return {
            n: w.movedim(2, -1).contiguous().movedim(-1, 2) if w.dim() == 5 and w.shape[2] > 3 else w
            for n, w in weights.items()
        }

    def enter(self, x: Tensor, own: bool) -> Entered:
        # Own images are normalised member by member, so that they are still in cache.
        return Entered(x if own else self._normalised(x), own)

    def _normalised(self, x: Tensor) -> Tensor:
        for step in self.before:
            x = step.module(x)
        return x

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        names = list(weights)
        outputs = []
        for m, values in enumerate(zip(*(weights[name].unbind(0) for name in names), strict=True)):
            x = self._normalised(entered.data[m]) if entered.own else entered.data
            outputs.append(self.walk(dict(zip(names, values, strict=True)), x))
        return torch.stack(outputs)

    def walk(
        self,
        weights: Weights,
        x: Tensor,
        operation: LayerOperation | None = None,
        before: InputOperation | None = None,
    ) -> Tensor:
        """One member's logits [B, K] of normalised images.

        `operation` replaces what layers with weights do, except where it returns None; `before` changes what
        they are given.
        """
        h = x
        for block in self.blocks:
            step, given = block.step, None
            if before is not None and step.has_weights:
                h = before(step, h)
            if operation is not None and step.has_weights:
                given = operation(step, weights, h)
            if given is not None:
                h = given if block.slope is None else _pooled(given, block.slope)
            else:
                h = _apply(block, weights, h)
        return h

    def kept_bytes(self, network: nn.Module, image: Tensor) -> int:
        kept: dict[int, int] = {}
        weights = {name: w.detach() for name, w in network.named_parameters()}
        weights = {name: w.to(image.dtype) for name, w in weights.items()}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            # Two images against one: what is kept once for all images, such as weights, falls out.
            counts = []
            for images in (image[None], image[None].expand(2, *image.shape)):
                kept.clear()
                logits = self.walk(weights, self._normalised(images).detach().requires_grad_())
                counts.append(sum(kept.values()))
                del logits
        return counts[1] - counts[0]


def _blocks(steps: Sequence[Step]) -> Iterator[Block]:
    i = 0
    while i < len(steps):
        step, following = steps[i], [*(s.module for s in steps[i + 1 : i + 3]), None, None]
        i += 1
        if not (step.kind == "conv" and _in_quarters(following[0])):
            yield Block(step)
            continue
        match following[1]:
            case nn.LeakyReLU() as activation:
                yield Block(step, activation.negative_slope)
                i += 2
            case nn.ReLU():
                yield Block(step, 0.0)
                i += 2
            case _:
                yield Block(step, 1.0)
                i += 1


def _apply(block: Block, weights: Weights, h: Tensor) -> Tensor:
    module, name = block.step.module, block.step.name
    if block.slope is None:
        return apply(block.step, weights, h)
    assert isinstance(module, nn.Conv2d)  # _blocks pools after nothing else
    if kernels.convolves(module, h):
        return kernels.pooled_convolution(
            h, weights[f"{name}.weight"], weights.get(f"{name}.bias"), block.slope
        )
    return _pooled(apply(block.step, weights, h), block.slope)


def _pooled(h: Tensor, slope: float) -> Tensor:
    return kernels.pooled(h, slope) if kernels.pools(h) else F.leaky_relu(F.max_pool2d(h, 2), slope)


def apply(step: Step, weights: Weights, h: Tensor) -> Tensor:
    """What a known layer does with one member's weights, by name as in the network."""
    module = step.module
    # Only without a graph: overwriting a view costs the backward pass a copy.
    inplace = not torch.is_grad_enabled()
    match module:
        case nn.Conv2d():
            weight = weights[f"{step.name}.weight"].contiguous(memory_format=torch.channels_last)
            h = h.contiguous(memory_format=torch.channels_last)
            return _Convolution.apply(h, weight, weights.get(f"{step.name}.bias"), geometry(module))
        case nn.Linear():
            return F.linear(h, weights[f"{step.name}.weight"], weights.get(f"{step.name}.bias"))
        case nn.LeakyReLU():
            return F.leaky_relu(h, module.negative_slope, inplace and module.negative_slope > 0)
        case nn.ReLU():
            return F.relu(h, inplace)
    return module(h)


def _in_quarters(module: nn.Module | None) -> bool:
    """Whether a layer is a 2x2 max-pooling without overlap."""
    return (
        isinstance(module, nn.MaxPool2d)
        and all(size in (2, (2, 2)) for size in (module.kernel_size, module.stride))
        and module.padding in (0, (0, 0))
        and module.dilation in (1, (1, 1))
        and not (module.ceil_mode or module.return_indices)
    )


class _Convolution(torch.autograd.Function):
    """A convolution that keeps its input only where its weight needs a gradient; PyTorch's always does."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]) -> Tensor:
        ctx.how, ctx.biased, ctx.like = how, bias is not None, (h.shape, h.stride())
        ctx.save_for_backward(h if ctx.needs_input_grad[1] else None, weight)
        return F.conv2d(h, weight, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        h, weight = ctx.saved_tensors
        if h is None:  # only its shape is read
            h = torch.empty_strided(*ctx.like, dtype=upstream.dtype, device=upstream.device)
        wanted = [*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]]
        return *torch.ops.aten.convolution_backward(
            upstream, h, weight, [len(weight)], *ctx.how, False, [0, 0], 1, wanted
        ), None
