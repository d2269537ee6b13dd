"""The one interface of all methods: a method is a way to draw stacked weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.engine import Cost, Engine, Loss, spent, watch
from bench.ensemble import Ensemble
from bench.errors import BenchError
from bench.rng import Streams
from bench.task import Split
from bench.training import checkpoint, limits

Part = TypeVar("Part", bound=checkpoint.Kept)


class Method(ABC):
    """What an author writes: `Config`, `start`, `rounds`, `round`, `draw`; also `adapt`, `ready` or `rested`.

    Config: a class under `@bench.training.settings`. `fit` calls `rounds` and `start` once, then `round(0)`,
    `round(1)`, ...; between rounds it may write a checkpoint and call `draw`. After a kill another process
    calls `start` again, reads the checkpoint into what is kept, and goes on with the next round: what a
    round leaves for later ones has to be kept, and everything else has to follow from `start`.

    network: the target network of the task, whose own weights mean nothing. config: an instance of `Config`.
    Both are there as `self.network` (after `adapt`) and `self.config`; `self.engine` evaluates the network.
    `self.device` is the CPU until a fit starts: use it in `start` and later, not in `__init__`.

    max_members: how many networks a method holds that holds finitely many; None where draws have no end. It
    is asked for before `start`: set it in `__init__`, from settings. members_setting: the setting that
    raises it, for messages. stage: see `stage_round`. Everything after the draw sees only the `Ensemble`
    that `sample` returns.
    """

    Config: ClassVar[type]
    max_members: int | None = None
    members_setting: ClassVar[str] = "networks"
    stage: ClassVar[tuple[str, ...]] = ()

    def __init__(self, network: nn.Module, config: Any) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.network = self.adapt(network)
        self.engine = Engine(self.network)
        self.stage_folder: Path | None = None  # where shared rounds lie; None: in memory alone
        self.stage_identity: Mapping[str, Any] = {}  # whose rounds those are
        self.borrowed: dict[int, Cost] = {}  # by round: what a round read from there cost
        self._parts: dict[str, checkpoint.Kept] = {}

    def adapt(self, network: nn.Module) -> nn.Module:
        """The target network with this method's head; by default as it is.

        Change a copy (`copy.deepcopy`). Called by `__init__`, when only `self.config` and `self.device` are
        there. What is drawn must fit the network that this returns.
        """
        return network

    @abstractmethod
    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        """Build what trains, and register with `keep` all that rounds change: optimisers, moments, counts.

        Called again when a killed fit goes on, so nothing here may depend on anything but the arguments and
        `self.config`. Both splits are already on `self.device`; modules and tensors come there by `keep`.
        loss: logits [M, B, K], labels [B] or [M, B] -> [M], for `self.engine.losses`; a mean over the batch,
        so that a log-likelihood is -N times it, N = len(train). rng: streams of this fit, to be stored.

        PyTorch's own initialisers read the global generator: build modules inside `with rng.initialise():`.
        """

    @abstractmethod
    def rounds(self) -> int:
        """How many rounds a fit has: epochs, or blocks of a later stage.

        From settings alone: it is asked for before `start`.
        """

    def rested(self) -> bool:
        """Whether training ends before its last round; by default it never does.

        Asked after every round; the answer has to follow from what is kept, and from training and validation
        data alone.
        """
        return False

    @abstractmethod
    def round(self, i: int) -> dict[str, float]:
        """Train round i, counted from 0, and return its mean losses by name, as floats (`loss.item()`).

        Random numbers come from generators that are made here, `rng("order", i)`: one purpose a use and the
        round's number in it. A generator that lives longer would make a fit that was killed end otherwise.
        For the same reason a learning rate follows from the step's number (`anneal`), not from a scheduler,
        and a mode (`train()`, frozen statistics) is set here, not assumed: `draw` may have changed it.

        Losses stand in progress lines and in the trace; one that is not finite ends the fit. On a GPU
        products of float32 are TF32 here where the setting `tf32` is true, and nowhere else.
        """

    @abstractmethod
    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Stacked weights by name, float32 on `self.device`, [len(rngs), *shape] for each of `engine.shapes`.

        rngs: a CPU generator a network. Network m depends on `rngs[m]` alone, so that a larger ensemble
        begins with a smaller one; a method with finitely many networks takes a permutation of them from
        `rngs[0]` (as `Independent.permuted`). Make random numbers on the CPU and move them: a draw must not
        depend on the device.

        Called after the fit, and between rounds by the trace, as soon as `ready`: it must leave all that is
        kept, and what the next round relies on, as it was. Gradients are enabled; the ensemble detaches
        what it is given, so a large graph is worth a `torch.no_grad()`.
        """

    def ready(self) -> bool:
        """Whether there is something to draw; by default from `start` on.

        The trace draws networks between rounds. A method that collects them late answers False until it has
        some, from what is kept (a finished fit that is read back must be ready): until then traces hold the
        losses alone. True after the last round, always.
        """
        return True

    @final
    def keep(self, name: str, part: Part) -> Part:
        """Register what a fit changes, so that checkpoints hold it; returns it, on the device.

        part: a module (with its buffers), an optimiser, or a tensor, which need not train: running moments,
        a count. Modules are moved in place; of a tensor use what is returned. A checkpoint is read into the
        same objects, so a tensor is changed in place, by `copy_`, `+=` or `t[i] = ...`: after
        `self.mean = self.mean + x` the checkpoint would go on holding the old one. A number in Python is
        not kept: use a tensor, `self.keep("count", torch.zeros((), dtype=torch.int64))`.

        What convolutions and linear layers in a module do is counted as the fit's cost (`bench.engine.work`).

        A finished fit's checkpoint is without optimisers: `draw` must not need them. Raises BenchError where
        all that is kept, with gradients and optimisers' state, does not fit in the device's memory.
        """
        held: Any = part.to(self.device) if isinstance(part, nn.Module | Tensor) else part
        if isinstance(part, nn.Module):
            watch(part)
        self._parts[name] = held
        limits.check_training(type(self).__name__, self.config, self._parts, self.device)
        return held

    @final
    def stage_round(
        self, i: int, compute: Callable[[], tuple[dict[str, Tensor], dict[str, float]]]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What round i of the shared stage leaves (tensors, on the device) and its losses.

        For variants that begin alike, as a chain that is then distilled in several ways. `stage` names the
        settings that decide the first rounds; fits that agree on those, the seed and the data share them. In
        `round`, `compute` trains the round and returns what it leaves; where another fit has left it in the
        stage's folder, it is read instead and `compute` is not called, so that all that later rounds need
        must be in those tensors. The round counts what it took when it was computed.

        A round is one file, whole or absent. Raises BenchError for a file that cannot be read or is another
        fit's.
        """
        path = None if self.stage_folder is None else self.stage_folder / f"round-{i:05}.safetensors"
        if path is not None and path.exists():
            tensors, about = checkpoint.read(path, {**self.stage_identity, "round": i})
            self.borrowed[i] = Cost(**about["cost"])
            return {name: t.to(self.device) for name, t in tensors.items()}, about["losses"]
        begun = spent()
        tensors, losses = compute()
        if path is not None:
            cost = asdict(spent() - begun)
            about = {"identity": {**self.stage_identity, "round": i}, "losses": losses, "cost": cost}
            checkpoint.write(path, tensors, about)
        return tensors, losses

    @final
    def sample(self, members: int, seed: int, purpose: str = "draw") -> Ensemble:
        """An ensemble of the first `members` networks of this seed.

        Member i comes from the stream (seed, purpose, i), so a larger ensemble begins with a smaller
        one. Raises BenchError where the method holds fewer networks, or none yet.
        """
        if not self.ready():
            raise BenchError(f"{type(self).__name__} has no networks to draw yet; train more rounds first")
        if self.max_members is not None and members > self.max_members:
            name = type(self).__name__
            raise BenchError(
                f"{name} holds {self.max_members} networks, {members} asked for; "
                "ask for fewer with --members, or train more with a larger "
                f"--set <method>.{self.members_setting}"
            )
        rng = Streams(seed, purpose)
        weights = self.draw([rng(i) for i in range(members)])
        return Ensemble(self.network, weights, self.engine)

    @final
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training changes: tensors, and the rest as JSON."""
        return checkpoint.state(self._parts)

    @final
    def restore(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Put back a state, whole or without optimisers (a finished fit holds none)."""
        parts = {n: p for n, p in self._parts.items() if not isinstance(p, Optimizer) or n in rest}
        checkpoint.restore(parts, tensors, rest)

    @final
    def save(self, path: Path, about: dict[str, Any], finished: bool = False) -> None:
        """Write a checkpoint; a finished fit's is without optimisers."""
        parts = {n: p for n, p in self._parts.items() if not isinstance(p, Optimizer) or not finished}
        tensors, rest = checkpoint.state(parts)
        checkpoint.write(path, tensors, {**about, "finished": finished, "rest": rest})

    @final
    def load(self, path: Path, identity: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Read a checkpoint into what `start` has built; returns what was said about it.

        identity: whose it has to be (None: anybody's). Raises BenchError for another's, and reads nothing.
        """
        tensors, about = checkpoint.read(path, identity)
        self.restore(tensors, about["rest"])
        return about
