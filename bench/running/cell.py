"""A cell: the unit that is run, stored and skipped, and the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import registry
from bench.registry import MethodEntry
from bench.settings import Settings, digest
from bench.system import provenance
from bench.task import Task


@dataclass(frozen=True)
class Cell:
    """One method on one task under one preset and seed: the unit that is run, stored and skipped.

    sizes: ensemble sizes asked for, ascending. checksums: of the data that was read; fitted_on: of
    the part of it that training sees.
    """

    entry: MethodEntry
    task: Task
    preset: str
    seed: int
    sizes: tuple[int, ...]
    settings: Settings
    checksums: tuple[tuple[str, str], ...]
    fitted_on: str

    @property
    def name(self) -> str:
        return f"{self.entry.name} · {self.task.name} · {self.preset} · seed {self.seed}"

    def key(self) -> str:
        """What makes two runs the same measurement; code, threads and device are provenance."""
        return digest(
            {
                "method": self.entry.name,
                "config": self.settings.document(),
                "task": self.task.name,
                "preset": self.preset,
                "seed": self.seed,
                "members": self.sizes,
                "data": dict(self.checksums),
            }
        )

    def code(self) -> str:
        """Version of the code that computes the cell's rows."""
        task = registry.tasks()[self.task.name].module
        names = (*provenance.TRAINING, *provenance.EVALUATION)
        return provenance.code_version(names, (self.entry.module, task))

    def checkpoint(self, results: Path) -> Path:
        """The file of the trained method, shared by tasks with the same train key."""
        return self._folder(results, self.entry.name, self.settings.document()) / "fit.safetensors"

    def stage(self, results: Path) -> Path | None:
        """The folder of the rounds that variants share; None for a method without such rounds."""
        names = self.entry.load().stage
        document = self.settings.document()
        shared = {name: document[name] for name in (*names, "tf32")}
        return self._folder(results, self.entry.base, shared) if names else None

    def _folder(self, results: Path, method: str, config: dict[str, Any]) -> Path:
        document = {
            "method": method,
            "config": config,
            "train": self.task.train,
            "preset": self.preset,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "data": self.fitted_on,
            "code": provenance.code_version(provenance.TRAINING, (self.entry.module,)),
        }
        return results / "checkpoints" / self.task.train / digest(document)[:16]

    def next_run(self, results: Path) -> str:
        """The name of the cell's next run: the first is without a number, later ones count."""
        stem = f"{self.entry.name}-{self.task.name}-{self.preset}-s{self.seed}-{self.key()[:8]}"
        name, count = stem, 1
        while (results / "raw" / f"{name}.csv").exists():
            count += 1
            name = f"{stem}-{count}"
        return name

    def runs(self, results: Path) -> list[str]:
        """Names of the cell's runs, oldest first, by the name that its next one will have."""
        mark = self.key()[:8]
        stem, _, number = self.next_run(results).partition(mark)
        return [f"{stem}{mark}" + (f"-{i}" if i > 1 else "") for i in range(1, int(number[1:] or 1))]
