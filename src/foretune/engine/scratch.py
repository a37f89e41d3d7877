"""Scratch memory that is reused from layer to layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Bytes: a cache line, and enough for every dtype and vector load."""


def aligned(num_bytes: int) -> int:
    """Return the bytes that a tensor of this size takes from a stack."""
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


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

    @property
    def buffers(self) -> list[Tensor]:
        """The memory that is kept, a buffer a device."""
        return [arena.buffer for arena in self._arenas.values()]

    def push(self, like: Tensor, number: int | None = None) -> Tensor:
        """Return a contiguous tensor of the shape, dtype and device of `like`, or of `number` times that shape."""
        arena = self._arenas.get(like.device)
        if arena is None:
            arena = self._arenas[like.device] = _Arena(like.device)
        return arena.push(like.shape if number is None else (number, *like.shape), like.dtype)

    def pop(self, device: torch.device) -> None:
        """Take back the last tensor that was handed out on `device`."""
        self._arenas[device].stops.pop()

    def clear(self) -> None:
        """Take back everything."""
        for arena in self._arenas.values():
            arena.stops.clear()


class _Arena:
    """The buffer of one device.

    Attributes:
        buffer: All memory of the stack.
        stops: For each tensor that is out, the offset behind it, where the next one begins.
    """

    def __init__(self, device: torch.device) -> None:
        self.buffer = self._allocate(0, device)
        self.stops: list[int] = []
        self._high_water = 0
        # layers of one shape come back to the same place: making three views costs more than all else here
        self._views: dict[tuple[int, tuple[int, ...], torch.dtype], tuple[Tensor, int]] = {}

    def push(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        start = self.stops[-1] if self.stops else 0
        if not self.stops and self.buffer.numel() < self._high_water:
            self.buffer = self._allocate(self._high_water, self.buffer.device)
            self._views.clear()
        key = start, shape, dtype
        known = self._views.get(key)
        if known is not None:
            self.stops.append(known[1])
            return known[0]
        num_bytes = math.prod(shape) * dtype.itemsize
        stop = start + aligned(num_bytes)
        self._high_water = max(self._high_water, stop)
        self.stops.append(stop)
        # made outside inference mode, so that every kind of evaluation may write to it
        with torch.inference_mode(False):
            if stop > self.buffer.numel():
                return torch.empty(shape, dtype=dtype, device=self.buffer.device)
            view = self.buffer[start : start + num_bytes].view(dtype).view(shape)
        self._views[key] = view, stop
        return view

    @staticmethod
    def _allocate(num_bytes: int, device: torch.device) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(num_bytes, dtype=torch.uint8, device=device)
