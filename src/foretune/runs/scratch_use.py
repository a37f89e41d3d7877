"""What the layerwise engine holds for the modules of a model that are running."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

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
    _open: list[tuple[nn.Module, list[tuple[Trainable, bool]]]] = field(default_factory=list)

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

    @contextmanager
    def followed(self) -> Iterator[None]:
        """A block in which the model runs."""
        handles = []
        for module, members in find_owners(self.model, self.trainables):
            handles.append(module.register_forward_pre_hook(self._before(members, reads_rows(module))))
            handles.append(module.register_forward_hook(self._after, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, members: tuple[Trainable, ...], by_rows: bool) -> Callable[[nn.Module, Any], None]:
        def open_members(module: nn.Module, args: tuple[Any, ...]) -> None:
            known = {trainable for _, opened in self._open for trainable, _ in opened}
            opened = [(trainable, by_rows) for trainable in members if trainable not in known]
            self._open.append((module, opened))
            if by_rows:
                for trainable, _ in opened:
                    self._num_rows[trainable] = self._num_rows.get(trainable, 0) + args[0].numel()
            held = [member for _, of_module in self._open for member in of_module]
            self.peak = max(self.peak, sum(_size(trainable) for trainable, _ in held))
            self._whole_peak = max(self._whole_peak, sum(_size(trainable) for trainable, rows in held if not rows))

        return open_members

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._open.pop()


def _size(trainable: Trainable) -> int:
    return aligned(trainable.parameter.numel() * trainable.parameter.itemsize)


def _row_pages(trainable: Trainable) -> int:
    """Return the bytes of pages that a row lies in, on average over the places where one can begin."""
    return trainable.parameter[0].numel() * trainable.parameter.itemsize + mmap.PAGESIZE - aligned(1)
