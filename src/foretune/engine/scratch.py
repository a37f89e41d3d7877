"""Scratch tensors that are reused from layer to layer."""

from __future__ import annotations

import torch
from torch import Tensor


class ScratchPool:
    """Hands out uninitialised tensors and takes them back.

    It keeps as many buffers as were ever out at once; a buffer that is too small is replaced rather than kept
    beside a larger one. A layer that follows another thus writes to memory that is still in the cache.
    """

    def __init__(self) -> None:
        self._free: dict[torch.device, list[Tensor]] = {}

    def take(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(buffer, view)``: the view is contiguous, of the shape, dtype and device of `like`."""
        size = like.numel() * like.element_size()
        free = self._free.setdefault(like.device, [])
        free.sort(key=Tensor.numel)
        index = next((i for i, buffer in enumerate(free) if buffer.numel() >= size), None)
        if index is not None:
            buffer = free.pop(index)
        else:
            if free:
                free.pop()
            # allocated outside inference mode, so that every kind of evaluation may write to it
            with torch.inference_mode(False):
                buffer = torch.empty(size, dtype=torch.uint8, device=like.device)
        return buffer, buffer[:size].view(like.dtype).view(like.shape)

    def give_back(self, buffer: Tensor) -> None:
        """Make a buffer from `take` available again."""
        self._free[buffer.device].append(buffer)
