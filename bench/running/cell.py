"""A cell: the unit that is run, stored and skipped, and the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.registry import MethodEntry
from bench.running import versions
from bench.settings import Settings, digest
from bench.task import Task


@dataclass(frozen=True)
class Cell:
    """One method on one task under one preset and seed: the unit that is run, stored and skipped.

    sizes: requested ensemble sizes, ascending. checksums: of the files that were read; fitted_on: of
    the data used for training; asked_of: of the data used by evaluations. device: type of the device.
    """

    entry: MethodEntry
    task: Task
    preset: str
    seed: int
    sizes: tuple[int, ...]
    settings: Settings
    checksums: tuple[tuple[str, str], ...]
    fitted_on: str
    asked_of: str
    device: str = "cpu"

    @property
    def name(self) -> str:
        place = "" if self.device == "cpu" else f" · {self.device}"
        return f"{self.entry.name} · {self.task.name} · {self.preset} · seed {self.seed}{place}"

    def key(self) -> str:
        """Equal for runs of the same measurement; code version and machine are not part of it."""
        return digest(
            {
                **self._device_key(),
                "method": self.entry.name,
                "config": self.settings.document(),
                "task": self.task.name,
                "preset": self.preset,
                "seed": self.seed,
                "members": self.sizes,
                "data": dict(self.checksums),
            }
        )

    def _device_key(self) -> dict[str, str]:
        """The device in keys; nothing for a CPU, so that existing names of runs on a CPU stay valid."""
        return {} if self.device == "cpu" else {"device": self.device}

    def definitions(self) -> dict[str, str]:
        """Hashes, by name, of the definitions that compute the cell's rows and of the evaluation data."""
        found = versions.run_definitions(self.entry, self.task, self.preset)
        return found | {"task: data": self.asked_of[:8]}

    def roots(self) -> tuple[str, ...]:
        """The definitions where the computation of the cell's rows starts, as `module:name`."""
        return versions.run_roots(self.entry, self.task)

    def code(self) -> str:
        """Version of the code that computes the cell's rows."""
        return versions.version(self.definitions())

    def checkpoint(self, results: Path) -> Path:
        """The file of the trained method; tasks with the same train key share it."""
        return self._folder(results, self.identity()) / "fit.safetensors"

    def stage(self, results: Path) -> Path | None:
        """The folder of the training stage that variants share; None for a method without one."""
        identity = self.stage_identity()
        return None if identity is None else self._folder(results, identity)

    def identity(self) -> dict[str, Any]:
        """What determines the trained weights, apart from packages and machine."""
        return self._identity(self.entry.name, self.settings.document())

    def stage_identity(self) -> dict[str, Any] | None:
        """What determines the training stage that variants share; None for a method without one."""
        names = self.entry.load().stage
        document = self.settings.document()
        shared = {name: document[name] for name in (*names, "tf32")}
        return self._identity(self.entry.base, shared) if names else None

    def _identity(self, method: str, config: dict[str, Any]) -> dict[str, Any]:
        return {
            "method": method,
            "config": config,
            "train": self.task.train,
            "preset": self.preset,
            "seed": self.seed,
            "data": self.fitted_on,
            "code": versions.version(versions.fit_definitions(self.entry, self.task)),
            **self._device_key(),
        }

    def _folder(self, results: Path, identity: dict[str, Any]) -> Path:
        return results / "checkpoints" / self.task.train / digest(identity)[:16]

    @property
    def family(self) -> str:
        """How the names of all runs of its method, task and preset begin."""
        return f"{self.entry.name}-{self.task.name}-{self.preset}-s"

    def next_run(self, results: Path) -> str:
        """The name of the cell's next run; from the second on it ends in a number."""
        stem = f"{self.family}{self.seed}-{self.key()[:8]}"
        name, count = stem, 1
        while (results / "raw" / f"{name}.csv").exists():
            count += 1
            name = f"{stem}-{count}"
        return name

    def runs(self, results: Path) -> list[str]:
        """Names of the cell's runs, oldest first."""
        mark = self.key()[:8]
        stem, _, number = self.next_run(results).partition(mark)
        return [f"{stem}{mark}" + (f"-{i}" if i > 1 else "") for i in range(1, int(number[1:] or 1))]
