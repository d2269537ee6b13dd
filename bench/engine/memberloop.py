"""One member after the other, activations in cache: the fastest way to evaluate networks on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.engine.plan import Step
from bench.engine.ways import Entered, LayerOperation, Patches, Way, Weights, geometry

Quarters = tuple[Tensor, Tensor, Tensor, Tensor]  # of a tensor, one for each place in a 2x2 window
Masks = tuple[Tensor, Tensor, Tensor]


class MemberLoop(Way):
    """One member after the other.

    What it gains over a plain loop: patches of a one-channel first layer are unfolded once for all
    members, so that the layer is one matrix product a member; tensors stay channels-last; pooling
    comes before bias and activation, and is a maximum of four whole blocks.
    """

    concurrent = True

    def __init__(self, steps: Sequence[Step]) -> None:
        self.before = [s for s in steps if s.kind == "normalise"]
        self.steps = tuple(s for s in steps if s.kind != "normalise")

    def prepare(self, weights: Weights) -> Weights:
        # Channels-last for each member: otherwise every call of a convolution would reorder them.
        return {
            n: w.movedim(2, -1).contiguous().movedim(-1, 2) if w.dim() == 5 else w for n, w in weights.items()
        }

    def enter(self, x: Tensor, own: bool) -> Entered:
        # Own images are opened member by member, so that their patches are still in cache.
        return Entered(x, True) if own else self._open(x)

    def _open(self, x: Tensor) -> Entered:
        for step in self.before:
            x = step.module(x)
        first = self.steps[0].module
        if isinstance(first, nn.Conv2d) and one_channel(first):
            pooled = len(self.steps) > 1 and _in_quarters(self.steps[1].module)
            data, patches = unfold(first, x, pooled)
            return Entered(data, False, patches)
        return Entered(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x, False)

    def run(self, weights: Weights, entered: Entered) -> Tensor:
        names = list(weights)
        outputs = []
        for m, values in enumerate(zip(*(weights[name].unbind(0) for name in names), strict=True)):
            opened = self._open(entered.data[m]) if entered.own else entered
            outputs.append(self.walk(dict(zip(names, values, strict=True)), opened.data, opened.patches))
        return torch.stack(outputs)

    def walk(
        self,
        weights: Weights,
        data: Tensor,
        patches: Patches | None = None,
        operation: LayerOperation | None = None,
    ) -> Tensor:
        """One member's logits [B, K]; `operation` replaces what layers with weights do."""
        h, steps = data, self.steps
        if patches is not None:
            h = product(steps[0], weights, h, patches)
            steps = steps[2:] if patches.pooled else steps[1:]
        for step in steps:
            if step.has_weights and operation is not None:
                h = operation(step, weights, h)
            else:
                h = apply(step, weights, h)
        return h


def apply(step: Step, weights: Weights, h: Tensor) -> Tensor:
    """What a known layer does with one member's weights, by name as in the network."""
    module = step.module
    # Only without a graph: overwriting a view costs the backward pass a copy.
    inplace = not torch.is_grad_enabled()
    match module:
        case nn.Conv2d() if one_channel(module):
            return product(step, weights, *unfold(module, h, pooled=False))
        case nn.Conv2d():
            weight = weights[f"{step.name}.weight"].contiguous(memory_format=torch.channels_last)
            return F.conv2d(h, weight, weights.get(f"{step.name}.bias"), *geometry(module))
        case nn.Linear():
            return F.linear(h, weights[f"{step.name}.weight"], weights.get(f"{step.name}.bias"))
        case nn.LeakyReLU():
            return F.leaky_relu(h, module.negative_slope, inplace and module.negative_slope > 0)
        case nn.ReLU():
            return F.relu(h, inplace)
        case nn.MaxPool2d() if _in_quarters(module) and h.is_contiguous(memory_format=torch.channels_last):
            return _Pooled.apply(h)
    return module(h)


def one_channel(module: nn.Conv2d) -> bool:
    """Whether a convolution is a product of patches here.

    With more channels a channels-last convolution is faster than unfolding (measured).
    """
    plain = module.stride == module.dilation == (1, 1) and module.padding == (0, 0)
    return plain and module.in_channels == 1


def unfold(module: nn.Conv2d, x: Tensor, pooled: bool) -> tuple[Tensor, Patches]:
    """Patches of one-channel images [B, 1, H, W] as rows [B, h w, kh kw], and how they are ordered.

    Where a 2x2 pooling follows, [B, 4, h/2 w/2, kh kw]: one block for each position in a pooled
    window, in reading order.
    """
    kh, kw = cast(tuple[int, int], module.kernel_size)
    parts = x.squeeze(1).unfold(1, kh, 1).unfold(2, kw, 1)  # [B, h, w, kh, kw]
    height, width = parts.shape[1:3]
    if not pooled:
        return parts.reshape(len(x), -1, kh * kw), Patches(height, width, False)
    height, width = height // 2, width // 2
    parts = parts[:, : 2 * height, : 2 * width].unflatten(2, (width, 2)).unflatten(1, (height, 2))
    rows = parts.permute(0, 2, 4, 1, 3, 5, 6).reshape(len(x), 4, -1, kh * kw)
    return rows, Patches(height, width, True)


def product(step: Step, weights: Weights, rows: Tensor, patches: Patches) -> Tensor:
    """A convolution as a matrix product; returns [B, O, h, w], channels last in memory.

    Where patches stand in pooling order, the maximum comes first and the bias after it: rounding is
    monotone, so the result is the same, and three quarters of the additions fall away.
    """
    weight = weights[f"{step.name}.weight"].flatten(1)
    out = _PooledProduct.apply(rows, weight) if patches.pooled else rows @ weight.t()
    if (bias := weights.get(f"{step.name}.bias")) is not None:
        out = out.add_(bias)
    return out.view(-1, patches.height, patches.width, out.shape[-1]).permute(0, 3, 1, 2)


def _in_quarters(module: nn.Module) -> bool:
    """Whether a layer is a 2x2 max-pooling without overlap."""
    return (
        isinstance(module, nn.MaxPool2d)
        and all(size in (2, (2, 2)) for size in (module.kernel_size, module.stride))
        and module.padding in (0, (0, 0))
        and module.dilation in (1, (1, 1))
        and not (module.ceil_mode or module.return_indices)
    )


def _corners(y: Tensor) -> Quarters:
    """The four corners of all 2x2 windows of y [B, C, H, W], in reading order."""
    even = y[:, :, : y.shape[2] // 2 * 2, : y.shape[3] // 2 * 2]
    return even[..., ::2, ::2], even[..., ::2, 1::2], even[..., 1::2, ::2], even[..., 1::2, 1::2]


def _largest(quarters: Quarters, out: Tensor, masks: Masks | None) -> None:
    """Write the entrywise maximum to `out`, and to the masks which entries it took.

    Masks are 1 and 0 as numbers, which a CPU compares, writes and multiplies four times faster than
    booleans. Strictly greater: of equal entries the first one wins, as in PyTorch's pooling.
    """
    a, b, c, d = quarters
    above, below = torch.maximum(a, b), torch.maximum(c, d)
    if masks is not None:
        for left, right, mask in zip((a, c, above), (b, d, below), masks, strict=True):
            torch.gt(right, left, out=mask)
    torch.maximum(above, below, out=out)


def _spread(upstream: Tensor, masks: Masks, quarters: Quarters) -> None:
    """Write the gradient of the maximum to the quarters: each goes where its largest entry was."""
    second, fourth, lower = masks
    a, b, c, d = quarters
    below = upstream * lower
    above = upstream - below
    torch.sub(above, torch.mul(above, second, out=b), out=a)
    torch.sub(below, torch.mul(below, fourth, out=d), out=c)


def _masks(like: Tensor) -> Masks:
    return torch.empty_like(like), torch.empty_like(like), torch.empty_like(like)


class _Pooled(torch.autograd.Function):
    """2x2 max-pooling of y [B, C, H, W] by whole tensors."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        quarters = _corners(y)
        out = torch.empty_like(quarters[0])
        masks = _masks(out) if ctx.needs_input_grad[0] else None
        _largest(quarters, out, masks)
        if masks is not None:
            ctx.save_for_backward(*masks)
            ctx.like = y.shape, y.stride(), 4 * out.numel() == y.numel()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        shape, stride, covered = ctx.like
        whole = torch.empty_strided(shape, stride, dtype=upstream.dtype, device=upstream.device)
        if not covered:
            whole.zero_()
        _spread(upstream, ctx.saved_tensors, _corners(whole))
        return whole


class _PooledProduct(torch.autograd.Function):
    """Rows [B, 4, N, P] times weight [O, P], and of the four products the largest, [B, N, O]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        y = rows @ weight.t()
        out = torch.empty_like(y[:, 0])
        masks = _masks(out) if any(ctx.needs_input_grad) else None
        _largest((y[:, 0], y[:, 1], y[:, 2], y[:, 3]), out, masks)
        if masks is not None:
            ctx.save_for_backward(rows, weight, *masks)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight, *masks = ctx.saved_tensors
        y = upstream.new_empty(*rows.shape[:3], weight.shape[0])
        _spread(upstream, (masks[0], masks[1], masks[2]), (y[:, 0], y[:, 1], y[:, 2], y[:, 3]))
        of_rows = y @ weight if ctx.needs_input_grad[0] else None
        of_weight = y.flatten(0, 2).t() @ rows.flatten(0, 2) if ctx.needs_input_grad[1] else None
        return of_rows, of_weight
