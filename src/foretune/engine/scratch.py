"""Scratch memory that is reused from layer to layer."""

from __future__ import annotations

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Bytes: a cache line, and enough for every dtype and vector load."""


class ScratchStack:
    """Hands out uninitialised tensors, last in first out.

    Every device has one buffer, as large as all that was ever out at once: modules nest, so what they borrow
    forms a stack. A layer that follows another thus writes to memory that is still in the cache. Until the
    buffer has grown to that size, what does not fit gets memory of its own for as long as it is out.
    """

    def __init__(self) -> None:
        self._arenas: dict[torch.device, _Arena] = {}

    @property
    def num_bytes(self) -> int:
        """Memory that is kept between uses."""
        return sum(arena.buffer.numel() for arena in self._arenas.values())

    def push(self, like: Tensor) -> Tensor:
        """Return a contiguous tensor of the shape, dtype and device of `like`."""
        arena = self._arenas.get(like.device)
        if arena is None:
            arena = self._arenas[like.device] = _Arena(like.device)
        return arena.push(like.numel() * like.element_size()).view(like.dtype).view(like.shape)

    def pop(self, device: torch.device) -> None:
        """Take back the last tensor that was handed out on `device`."""
        self._arenas[device].spans.pop()

    def clear(self) -> None:
        """Take back everything."""
        for arena in self._arenas.values():
            arena.spans.clear()


class _Arena:
    """The buffer of one device and where in it the tensors that are out lie (start, next start)."""

    def __init__(self, device: torch.device) -> None:
        self.buffer = torch.empty(0, dtype=torch.uint8, device=device)
        self.spans: list[tuple[int, int]] = []
        self._high_water = 0

    def push(self, num_bytes: int) -> Tensor:
        start = self.spans[-1][1] if self.spans else 0
        stop = start + num_bytes
        self._high_water = max(self._high_water, stop)
        if not self.spans and self.buffer.numel() < self._high_water:
            self.buffer = self._empty(self._high_water)
        self.spans.append((start, -(-stop // _ALIGNMENT) * _ALIGNMENT))
        return self.buffer[start:stop] if stop <= self.buffer.numel() else self._empty(num_bytes)

    def _empty(self, num_bytes: int) -> Tensor:
        # allocated outside inference mode, so that every kind of evaluation may write to it
        with torch.inference_mode(False):
            return torch.empty(num_bytes, dtype=torch.uint8, device=self.buffer.device)
