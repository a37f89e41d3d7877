"""The default engine: each layer reads a perturbed copy from scratch; the weights are never modified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foretune.engine.base import AbstractEngine, Perturbation
from foretune.engine.ownership import find_owners, reads_rows
from foretune.engine.scratch import ScratchPool
from foretune.types import Trainable


@dataclass(frozen=True, slots=True)
class _Open:
    trainable: Trainable
    true_data: Tensor
    buffer: Tensor


class Layerwise(AbstractEngine):
    """Swaps a perturbed copy in just before a module runs and the true weight back after it.

    Memory: the tensors of one module at a time (and of the modules it is nested in). An embedding perturbs only
    the rows that are looked up. A tensor that is already open in an enclosing module is left as it is.
    """

    name: ClassVar[str] = "layerwise"

    def __init__(self, model: nn.Module, trainables: Sequence[Trainable]) -> None:
        super().__init__(model, trainables)
        self.owners = find_owners(model, trainables)
        self.on_open: Callable[[nn.Module], None] | None = None
        self.on_close: Callable[[nn.Module, object], None] | None = None
        self._scratch = ScratchPool()
        self._perturbation: Perturbation | None = None
        self._frames: list[list[_Open]] = []
        self._open: set[int] = set()

    def is_open(self, parameter: Tensor) -> bool:
        """Whether this tensor is substituted right now, or need not be."""
        return id(parameter) in self._open

    def open_buffers(self) -> list[Tensor]:
        """The scratch that is in use right now."""
        return [entry.buffer for frame in self._frames for entry in frame]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Put the hooks on the owners; the model carries none outside of a session."""
        handles = []
        try:
            for module, members in self.owners:
                handles.append(module.register_forward_pre_hook(_Before(self, members, reads_rows(module))))
                handles.append(module.register_forward_hook(self._after, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _perturbed(self, evaluate: Callable[[], float], perturbation: Perturbation) -> float:
        self._perturbation = perturbation
        try:
            return evaluate()
        finally:
            # normally nothing is open any more; Ctrl-C does not reach the hooks that close
            while self._frames:
                self._close(self._frames[-1])
                self._frames.pop()
            self._open.clear()
            self._perturbation = None

    def before(self, module: nn.Module, members: Sequence[Trainable], rows: Tensor | None) -> None:
        """Open the tensors of a module that is about to run."""
        if self._perturbation is None:
            return
        frame: list[_Open] = []
        self._frames.append(frame)
        for trainable in members:
            parameter = trainable.parameter
            if id(parameter) in self._open or not self._perturbation.moves(trainable):
                continue
            self._open.add(id(parameter))
            true_data = parameter.data
            buffer, out = self._scratch.take(true_data)
            frame.append(_Open(trainable, true_data, buffer))
            self._perturbation.write(trainable, out=out, base=true_data, rows=rows)
            parameter.data = out
        if self.on_open is not None:
            self.on_open(module)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._perturbation is None or not self._frames:
            return
        if self.on_close is not None:
            self.on_close(module, output)
        self._close(self._frames[-1])
        self._frames.pop()

    def _close(self, frame: list[_Open]) -> None:
        while frame:
            entry = frame[-1]
            entry.trainable.parameter.data = entry.true_data
            self._open.discard(id(entry.trainable.parameter))
            frame.pop()
            self._scratch.give_back(entry.buffer)


class _Before:
    """The hook in front of one module."""

    def __init__(self, engine: Layerwise, members: Sequence[Trainable], by_rows: bool) -> None:
        self._engine = engine
        self._members = members
        self._by_rows = by_rows

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = torch.unique(args[0]) if self._by_rows and args else None
        self._engine.before(module, self._members, rows)
