"""What the layerwise engine holds for the modules of a model that are running."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from foretune.engine.held import choose_held
from foretune.engine.ownership import find_owners, reads_rows
from foretune.engine.scratch import aligned
from foretune.types import Trainable


@dataclass
class ScratchUse:
    """Follows what `Layerwise` would hold, most of it while the largest layer runs.

    Attributes:
        model: The model.
        trainables: What is perturbed.
        peak: Bytes that it allocates.
    """

    model: nn.Module
    trainables: tuple[Trainable, ...]
    peak: int = 0
    _whole_peak: int = 0
    _num_rows: dict[Trainable, int] = field(default_factory=dict)
    _open: list[tuple[Trainable, bool]] = field(default_factory=list)

    @property
    def touched_peak(self) -> int:
        """Bytes in the pages that it writes to, at most; on a CPU memory that is never written takes no place.

        Layers that follow each other write to the same place. Of an embedding the rows alone are written that are
        looked up, which lie anywhere in it.
        """
        rows = sum(
            min(_size(trainable), number * _row_pages(trainable)) for trainable, number in self._num_rows.items()
        )
        return min(self.peak, self._whole_peak + rows)

    def followed(self) -> AbstractContextManager[None]:
        """A block in which the model runs."""
        return opened_by_layer(self.model, self.trainables, self._open_members, self._close_members)

    def _open_members(self, module: nn.Module, args: tuple[Any, ...], members: Sequence[Trainable]) -> None:
        by_rows = reads_rows(module)
        self._open += [(trainable, by_rows) for trainable in members]
        if by_rows:
            for trainable in members:
                self._num_rows[trainable] = self._num_rows.get(trainable, 0) + args[0].numel()
        self.peak = max(self.peak, sum(_size(trainable) for trainable, _ in self._open))
        whole = sum(_size(trainable) for trainable, by_rows in self._open if not by_rows)
        self._whole_peak = max(self._whole_peak, whole)

    def _close_members(self, members: Sequence[Trainable]) -> None:
        del self._open[len(self._open) - len(members) :]


@contextmanager
def opened_by_layer(
    model: nn.Module,
    trainables: Sequence[Trainable],
    on_open: Callable[[nn.Module, tuple[Any, ...], Sequence[Trainable]], None],
    on_close: Callable[[Sequence[Trainable]], None],
) -> Iterator[None]:
    """A block in which tensors are opened and closed when `Layerwise` would, as the modules that own them run.

    Of linear layers that run by factors it would open no weight; they are taken as any other.

    Args:
        model: The model.
        trainables: What may be opened.
        on_open: Called with a module that is about to run, its arguments, and those of its tensors that are not open;
            before, with the model itself and those that are held throughout.
        on_close: Called with the same tensors when it has run, also if it raised.
    """
    held = choose_held(model, trainables)
    throughout = set(held)
    layered = [trainable for trainable in trainables if trainable not in throughout]
    frames: list[list[Trainable]] = []

    def enter(module: nn.Module, args: tuple[Any, ...], *, members: Sequence[Trainable]) -> None:
        known = {trainable for frame in frames for trainable in frame}
        frames.append([trainable for trainable in members if trainable not in known])
        on_open(module, args, frames[-1])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        on_close(frames.pop())

    handles = []
    on_open(model, (), held)
    try:
        for module, members in find_owners(model, layered):
            handles.append(module.register_forward_pre_hook(partial(enter, members=members)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        on_close(held)


def _size(trainable: Trainable) -> int:
    return aligned(trainable.parameter.numel() * trainable.parameter.itemsize)


def _row_pages(trainable: Trainable) -> int:
    """Return the bytes of pages that a row lies in, on average over the places where one can begin."""
    return trainable.parameter[0].numel() * trainable.parameter.itemsize + mmap.PAGESIZE - aligned(1)
