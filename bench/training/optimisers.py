"""Adam, its learning rate, and networks that train at once as each would alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as functional_adam

from bench.engine import parallel
from bench.training.method import Method

# Numbers that Adam changes in one piece: with gradient and moments 8 MiB, a core's cache.
BLOCK = 2**19

# Of parameters, or of blocks of them: value, gradient, both moments and count of steps.
Piece = list[tuple[Tensor, ...]]


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam; many numbers on a CPU are updated in pieces, on all cores.

    Adam acts on each number by itself, so that pieces change nothing but the time.
    """

    _numbers: int | None = None

    def step(self, closure: Any = None) -> Any:
        """One step, as `torch.optim.Adam.step`."""
        if closure is not None or self._few() or not all(map(self._in_pieces, self.param_groups)):
            return super().step(closure)
        work = [(group, piece) for group in self.param_groups for piece in self._pieces(group)]
        parallel.each(lambda item: _update(*item), work)
        return None

    def _few(self) -> bool:
        """Whether all numbers together are too few for two pieces."""
        if self._numbers is None:
            self._numbers = sum(p.numel() for group in self.param_groups for p in group["params"])
        return self._numbers < 2 * BLOCK

    def _in_pieces(self, group: Mapping[str, Any]) -> bool:
        """Whether a group's first step has made its moments, and pieces of it are views."""
        held = [p for p in group["params"] if p.grad is not None]
        return (
            not group["amsgrad"]
            and all(p in self.state and p.device.type == "cpu" and p.is_contiguous() for p in held)
            and all(p.grad.is_contiguous() for p in held)
        )

    def _pieces(self, group: Mapping[str, Any]) -> Iterator[Piece]:
        """Blocks of the large parameters, then the small ones together."""
        small: Piece = []
        for parameter in (p for p in group["params"] if p.grad is not None):
            state = self.state[parameter]
            tensors = (parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"])
            if parameter.numel() < BLOCK:
                small.append((*tensors, state["step"]))
                continue
            flat = [t.view(-1) for t in tensors]
            for block in parallel.blocks(parameter.numel(), BLOCK):
                # The update counts too: every block a copy.
                yield [(*(t[block] for t in flat), state["step"].clone())]
            state["step"] += 1
        if small:
            yield small


def _update(group: Mapping[str, Any], piece: Piece) -> None:
    parameters, gradients, means, squares, steps = (list(same) for same in zip(*piece, strict=True))
    beta1, beta2 = group["betas"]
    rest = {name: group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
    with torch.no_grad():
        functional_adam(
            parameters, gradients, means, squares, [], steps, fused=True, beta1=beta1, beta2=beta2, **rest
        )


def adam(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Adam:
    """Adam in its fused form: one pass over memory instead of one per operation.

    parameters: parameters, or groups of them, `{"params": [...], "relative": 0.3}`: a group's rate is
    `relative` times what `set_rate` or `anneal` sets, here lr. Of parameters on a GPU it keeps the rates
    there too, so that its steps can be recorded.
    """
    held: list[Any] = list(parameters)
    groups = held if held and isinstance(held[0], dict) else [{"params": held}]
    first: Any = next((p for group in groups for p in group["params"]), None)
    on_gpu = first is not None and first.device.type == "cuda"
    made = Adam(
        groups,
        lr=torch.tensor(lr, device=first.device) if on_gpu else lr,
        betas=betas,
        weight_decay=weight_decay,
        fused=True,
        capturable=on_gpu,
    )
    for group in made.param_groups:
        group["lr"] = group["lr"].clone() if on_gpu else lr  # a rate of its own
    set_rate(made, lr)
    return made


def anneal(optimiser: torch.optim.Optimizer, lr: float, step: int, steps: int) -> None:
    """Set the learning rate of this step, `annealed`."""
    set_rate(optimiser, annealed(lr, step, steps))


def annealed(lr: float, step: int, steps: int) -> float:
    """The learning rate of a step, lr (1 + cos(pi step / steps)) / 2.

    A function of the step alone, so that a resumed fit needs no scheduler's state.
    """
    return lr * 0.5 * (1 + math.cos(math.pi * step / steps))


def set_rate(optimiser: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """Set an optimiser's learning rate; one that is a tensor is overwritten, as recorded steps need it.

    A group with a `relative` rate gets that many times lr (`adam`).
    """
    for group in optimiser.param_groups:
        rate = lr * group["relative"] if "relative" in group else lr
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate) if isinstance(rate, Tensor) else group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def minimise(optimiser: torch.optim.Optimizer, loss: Tensor, lr: float | Tensor) -> None:
    """One step of an optimiser down a loss, at this rate."""
    set_rate(optimiser, lr)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def means(losses: Tensor) -> list[float]:
    """Means over steps of losses [steps, losses], added one after the other in their own precision."""
    total = torch.zeros_like(losses[0])
    for step in losses:
        total += step
    return (total / len(losses)).tolist()


class Independent:
    """Networks that train at once on stacked weights, each as it would alone.

    Adam acts on each number by itself, and the gradient of a sum of losses is each network's own.

    first: the weights that network m starts from, for m below `networks`. steps: of the whole fit, over
    which lr is annealed. What trains is registered with the method.
    """

    def __init__(
        self,
        method: Method,
        networks: int,
        first: Callable[[int], Mapping[str, Tensor]],
        lr: float,
        steps: int,
        decay: float = 0.0,
    ) -> None:
        self.lr, self.steps = lr, steps
        shapes = method.engine.shapes
        holder = nn.ParameterList(
            nn.Parameter(torch.empty((networks, *shape), device=method.device)) for shape in shapes.values()
        )
        self.weights: dict[str, Tensor] = dict(zip(shapes, holder, strict=True))
        method.keep("weights", holder)
        self.optimiser = adam(holder.parameters(), lr, weight_decay=decay)
        method.keep("optimiser", self.optimiser)
        # Registered before they are filled: networks that do not fit in memory are refused at once.
        for m in range(networks):
            for name, value in first(m).items():
                self.weights[name].detach()[m] = value

    def rate(self, step: int) -> float:
        """The learning rate of a step of the fit."""
        return annealed(self.lr, step, self.steps)

    def descend(self, losses: Tensor, lr: float | Tensor) -> None:
        """One step of every network at this rate, on losses [M]."""
        minimise(self.optimiser, losses.sum(), lr)

    def permuted(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Weights of as many networks as generators: a permutation without replacement.

        From the first generator alone, so that a larger draw begins with a smaller one.
        """
        count = len(next(iter(self.weights.values())))
        order = torch.randperm(count, generator=rngs[0])[: len(rngs)]
        return {name: w.detach()[order.to(w.device)] for name, w in self.weights.items()}
