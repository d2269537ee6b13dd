"""Linear layers of much work, as generators of weights end in, computed in blocks of outputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bench.engine import parallel
from bench.engine.pieces import added

# Multiply-adds of a block: 1,024 outputs of a generator's last layer, 512 -> 25,632 for 16 networks, whose
# 2 MiB stay in a core's cache. The weight's gradient is then faster on one core too, 5.4 instead of 14.6 ms.
BLOCK = 2**23


class BlockLinear(nn.Linear):
    """y = x W^T + b as `nn.Linear`, on a CPU in blocks of outputs on all cores; once differentiable there.

    x: [B, inputs] -> [B, outputs]. Blocks, and the order of sums, follow from these sizes alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dim() != 2 or len(_blocks(x, self.weight)) == 1:
            return F.linear(x, self.weight, self.bias)
        return _InBlocks.apply(x, self.weight, self.bias)


def _blocks(x: Tensor, weight: Tensor) -> list[slice]:
    return parallel.blocks(len(weight), max(1, BLOCK // max(1, x.numel())))


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = x.new_empty(len(x), len(weight))

        def call(rows: slice) -> None:
            if bias is None:
                torch.mm(x, weight[rows].t(), out=out[:, rows])
            else:
                torch.addmm(bias[rows], x, weight[rows].t(), out=out[:, rows])

        with torch.no_grad():
            parallel.each(call, _blocks(x, weight))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        to_weight = torch.empty_like(weight) if of_weight else None
        to_bias = upstream.new_empty(len(weight)) if of_bias else None

        def call(rows: slice) -> Tensor | None:
            part = upstream[:, rows]
            if to_weight is not None:
                torch.mm(part.t(), x, out=to_weight[rows])
            if to_bias is not None:
                torch.sum(part, 0, out=to_bias[rows])
            return part @ weight[rows] if of_x else None

        parts = [part for part in parallel.each(call, _blocks(x, weight)) if part is not None]
        return added(parts) if of_x else None, to_weight, to_bias
