"""The one interface of all methods: a method is a way to draw stacked weights."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.engine import Engine, Loss
from bench.ensemble import Ensemble
from bench.errors import BenchError
from bench.rng import Streams
from bench.task import Split
from bench.training import checkpoint, limits

Part = TypeVar("Part", bound=checkpoint.Kept)


class Method(ABC):
    """What an author writes: `Config`, `start`, `rounds`, `round`, `draw`, at times `adapt`.

    network: the target network of the task. config: an instance of the method's `Config`, a frozen
    dataclass. Everything after the draw sees only the `Ensemble` that `sample` returns.
    """

    Config: ClassVar[type]
    max_members: int | None = None  # None: draws without end
    members_setting: ClassVar[str] = "networks"  # which setting raises `max_members`
    # Settings that decide the first rounds of a fit; variants that agree on them share those rounds.
    stage: ClassVar[tuple[str, ...]] = ()

    def __init__(self, network: nn.Module, config: Any) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.network = self.adapt(network)
        self.engine = Engine(self.network)
        self.stage_folder: Path | None = None  # where shared rounds lie; None: in memory alone
        self.stage_identity: Mapping[str, Any] = {}  # whose rounds those are
        self.borrowed_seconds: dict[int, float] = {}  # by round: what a round read from there cost
        self._parts: dict[str, checkpoint.Kept] = {}

    def adapt(self, network: nn.Module) -> nn.Module:
        """The target network with this method's head; by default as it is."""
        return network

    @abstractmethod
    def start(self, train: Split, val: Split, *, loss: Loss, rng: Streams) -> None:
        """Build what trains and register it with `keep`, optimisers and running moments too.

        train, val: already on `self.device`. loss: logits [M, B, K], labels -> [M].
        """

    @abstractmethod
    def rounds(self) -> int:
        """How many rounds a fit has: epochs, or blocks of a later stage; known before `start`."""

    @abstractmethod
    def round(self, i: int) -> dict[str, float]:
        """Train round i and return its mean losses by name. Random numbers: `rng(purpose, i)`."""

    @abstractmethod
    def draw(self, rngs: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Stacked weights by name, [len(rngs), *shape]; member m hangs on its own generator alone.

        A method with finitely many members takes a permutation of them from the first generator.
        """

    def ready(self) -> bool:
        """Whether there is something to draw; by default from the first round on.

        A trace during the fit draws networks. A method that collects them late answers False until it has
        some: traces hold the losses alone until then.
        """
        return True

    @final
    def keep(self, name: str, part: Part) -> Part:
        """Register what a fit changes, so that checkpoints hold it; returns it, on the device.

        part: a module (with its buffers), an optimiser, or a tensor, which need not train. A checkpoint is
        read into the same objects in place: change a tensor by `copy_`, `add_` and the like, never by
        assignment. A finished fit's checkpoint is without optimisers. Raises BenchError where all that is
        kept, with gradients and optimisers' state, does not fit in the device's memory.
        """
        held: Any = part.to(self.device) if isinstance(part, nn.Module | Tensor) else part
        self._parts[name] = held
        limits.check_training(type(self).__name__, self.config, self._parts, self.device)
        return held

    @final
    def stage_round(
        self, i: int, compute: Callable[[], tuple[dict[str, Tensor], dict[str, float]]]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What round i of the shared stage leaves (tensors, on the device) and its losses.

        Read from the stage's folder where a fit has left it there, else computed and written: a round
        is one file, whole or absent. Raises BenchError for a file that cannot be read or is another fit's.
        """
        path = None if self.stage_folder is None else self.stage_folder / f"round-{i:05}.safetensors"
        if path is not None and path.exists():
            tensors, about = checkpoint.read(path, self.stage_identity)
            self.borrowed_seconds[i] = about["seconds"]
            return {name: t.to(self.device) for name, t in tensors.items()}, about["losses"]
        begun = time.perf_counter()
        tensors, losses = compute()
        if path is not None:
            seconds = time.perf_counter() - begun
            about = {"identity": self.stage_identity, "losses": losses, "seconds": seconds}
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
