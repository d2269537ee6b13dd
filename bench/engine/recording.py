"""A fit's step, recorded once on a GPU and replayed: one launch instead of hundreds of calls from the host.

A method says what decides each step (images, noise made beforehand, rates) as a row, and what a step does
with one; `Recorded.run` runs it for all rows of a round and returns the losses. On a CPU that is a plain
loop. On a GPU rows are brought over together, as tables; after a few steps as they are the step becomes a
CUDA graph, which reads its row at a position that it moves on itself, and which the host only starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.engine import work

WARM_UP = 3  # steps before the one that is recorded: real ones, in which libraries and optimisers set up
# Of rows that lie on a GPU at once; a round of more is brought over in parts.
TABLE_BYTES, TABLE_ROWS = 64 * 2**20, 4096

# By name, what decides a step: tensors of one shape and type each, made on the CPU, and numbers.
Row = Mapping[str, Any]
Step = Callable[[Row], Sequence[Tensor]]


class Recorded:
    """Runs one step of a fit for rows of what changes from step to step.

    A step takes a row and returns its losses, scalars. On a GPU a row's numbers are scalar tensors there. So
    that it can be recorded, a step

    - changes only tensors that stay where they are: weights, an optimiser's state, buffers, in place;
    - asks no value of the device (`.item()`, `.tolist()`, `if` on a tensor) and makes no tensor of host data;
    - draws random numbers on the device from `generators` alone. A fit keeps them, and seeds them anew in
      every round, so that one that was stopped ends the same. Small noise can come with the row;
    - does the same with the same shapes every time. What changes is in the row: a rate, a weight of a loss.

    A step that cannot be recorded runs as it is, with a warning that says why. An optimiser has to be one of
    `bench.training.adam`, or another whose state and rate lie on the device (`capturable`).

    device: where the step runs. Use one for each step, from `start` on: what is recorded holds on to the
    tensors that the step has seen, so that nothing may be loaded into a fit after its first round.
    """

    allowed: ClassVar[bool] = True  # False: steps run as they are on a GPU too, to measure and to find faults

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator] = ()) -> None:
        self.device, self.generators = device, generators
        self.calls = 0
        self._recorder: CUDAGraphRecorder | None = None
        self._ready = False  # the recorder holds a step
        self._flop = 0  # of the step that it holds
        self._tables: dict[str, Tensor] = {}
        self._numbers: list[str] = []  # names of numbers, which share a table
        self._capacity = 0
        self._losses: Tensor | None = None

    def run(self, step: Step, rows: Iterable[Row]) -> Tensor:
        """Run `step` for every row, in order; returns the losses [steps, losses], on the CPU."""
        if self.device.type == "cpu":
            return torch.stack([_stacked(step(row)) for row in rows])
        rest = iter(rows)
        first = next(rest)
        size = self._capacity or max(1, min(TABLE_ROWS, TABLE_BYTES // max(1, _row_bytes(first))))
        found, rest = [], chain([first], rest)
        while part := list(islice(rest, size)):
            found.append(self._run_part(step, part))
            size = self._capacity
        return torch.cat(found)

    def _run_part(self, step: Step, rows: list[Row]) -> Tensor:
        self._fill(rows)
        for _ in rows:
            self._one(step)
        assert self._losses is not None
        return self._losses[: len(rows)].cpu()

    def _fill(self, rows: list[Row]) -> None:
        """Bring rows over; the first ones decide how large the tables are."""
        if not self._tables:
            self._capacity = len(rows)
            self._numbers = [name for name, value in rows[0].items() if not isinstance(value, Tensor)]
            self.position = torch.zeros(1, dtype=torch.long, device=self.device)
        columns = {n: torch.stack([row[n] for row in rows]) for n in rows[0] if n not in self._numbers}
        # Optimisers read their rates in single precision on a GPU.
        columns[""] = torch.tensor([[float(row[n]) for n in self._numbers] for row in rows])
        for name, column in columns.items():
            if name not in self._tables:
                shape = (self._capacity, *column.shape[1:])
                self._tables[name] = torch.empty(shape, dtype=column.dtype, device=self.device)
            self._tables[name][: len(rows)].copy_(column)
        self.position.zero_()

    def _one(self, step: Step) -> None:
        self.calls += 1
        if self.calls == 1 and self.allowed:
            self._recorder = CUDAGraphRecorder(self.device, self.generators)
        if self._recorder is None:
            self._whole(step)
        elif self.calls <= WARM_UP:
            self._recorder.warm_up(lambda: self._whole(step))
        elif self._ready or self._record(self._recorder, step):
            self._recorder.replay()
            work.add(self._flop)

    def _record(self, recorder: CUDAGraphRecorder, step: Step) -> bool:
        """Record the step; one that cannot be is run, now and from now on."""
        before = work.counted()
        try:
            recorder.record(lambda: self._whole(step))
            self._ready = True
        except RuntimeError as error:
            self._recorder = None
            warnings.warn(
                f"a step could not be recorded and runs as it is, slower: {_first_cause(error)}", stacklevel=2
            )
        self._flop = work.counted() - before
        work.add(-self._flop)  # what was recorded was not run
        if not self._ready:
            self._whole(step)
        return self._ready

    def _whole(self, step: Step) -> None:
        """One step from its row to its losses, all on the device: takes nothing, returns nothing."""
        row = {n: table.index_select(0, self.position).squeeze(0) for n, table in self._tables.items()}
        numbers = row.pop("")
        losses = _stacked(step({**row, **{name: numbers[i] for i, name in enumerate(self._numbers)}}))
        if self._losses is None:
            self._losses = losses.new_zeros(self._capacity, len(losses))
        self._losses.index_copy_(0, self.position, losses[None])
        self.position += 1


def _stacked(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack([loss.detach() for loss in losses])


def _row_bytes(row: Row) -> int:
    return sum(v.numel() * v.element_size() for v in row.values() if isinstance(v, Tensor))


def _first_cause(error: BaseException) -> str:
    """What went wrong first, in a line: leaving a broken recording raises an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"


class CUDAGraphRecorder:
    """A CUDA graph of one step: warmed up and recorded on its own stream, replayed on the current one."""

    def __init__(self, device: torch.device, generators: Sequence[torch.Generator]) -> None:
        self.device, self.generators = device, generators
        self.stream = torch.cuda.Stream(device)
        self.graph = torch.cuda.CUDAGraph()

    def warm_up(self, step: Callable[[], None]) -> None:
        """Run a step as it is, on the stream on which it will be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            step()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def record(self, step: Callable[[], None]) -> None:
        """Record a step without running it. Raises RuntimeError where something in it cannot be recorded."""
        for generator in self.generators:
            # Before torch 2.12 a graph has to be told of them.
            if hasattr(self.graph, "register_generator_state"):
                self.graph.register_generator_state(generator)
        before, states = torch.cuda.current_stream(self.device), [g.get_state() for g in self.generators]
        try:
            with torch.cuda.graph(self.graph, stream=self.stream):
                step()
        except RuntimeError:
            # What a recording that failed leaves: its stream as the current one, generators that still wait
            # for its end and refuse to draw.
            torch.cuda.set_stream(before)
            for generator, state in zip(self.generators, states, strict=True):
                fresh = torch.Generator(self.device)
                fresh.set_state(state)
                generator.graphsafe_set_state(fresh)
            raise

    def replay(self) -> None:
        """Start the recorded step."""
        self.graph.replay()
