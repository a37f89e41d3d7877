"""A level that rises when a metric stops improving, remembered in the states of the tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from foretune.types import TensorState, Trainable

_BEST, _STALE, _LEVEL = "best_metric", "stale_reports", "level"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plateau:
    """A level from 0 to `top` that rises after `patience` reports in a row without a new best metric.

        metric < best:  best <- metric, stale <- 0
        otherwise:      stale <- stale + 1;  at `patience` of them level <- min(level + 1, top), stale <- 0

    A nan is no improvement. Metrics are compared in the compute dtype. State: `NUM_ELEMENTS` numbers a tensor, the same
    in each of them.

    Args:
        patience: Reports without improvement before a rise.
        top: The last level.
    """

    STATE_NAMES: ClassVar[tuple[str, ...]] = (_BEST, _STALE, _LEVEL)
    NUM_ELEMENTS: ClassVar[int] = len(STATE_NAMES)

    patience: int
    top: int

    def report(self, metric: float, trainable: Trainable, state: TensorState) -> None:
        """Compare a metric with the best one so far."""
        self._begin(trainable, state)
        value = torch.full_like(state.tensors[_BEST], metric)
        stale = int(state.tensors[_STALE]) + 1
        if bool(value < state.tensors[_BEST]):
            stale, state.tensors[_BEST] = 0, value
        elif stale == self.patience:
            stale, state.tensors[_LEVEL] = 0, (state.tensors[_LEVEL] + 1).clamp(max=self.top)
        state.tensors[_STALE] = torch.full_like(value, stale)

    def restore(self, level: int, trainable: Trainable, state: TensorState) -> None:
        """Note that a level was reached, by the record of a step."""
        self._begin(trainable, state)
        state.tensors[_LEVEL] = state.tensors[_LEVEL].clamp(min=level)

    def level(self, state: TensorState) -> int:
        """Return the present level."""
        return int(state.tensors[_LEVEL]) if _LEVEL in state.tensors else 0

    def has_reports(self, state: TensorState) -> bool:
        """Whether there was any report with a number in it."""
        return _BEST in state.tensors and math.isfinite(state.tensors[_BEST])

    def _begin(self, trainable: Trainable, state: TensorState) -> None:
        if _LEVEL not in state.tensors:
            options = {"dtype": trainable.compute_dtype, "device": trainable.parameter.device}
            start = {_BEST: math.inf, _STALE: 0.0, _LEVEL: 0.0}
            state.tensors |= {name: torch.full((1,), value, **options) for name, value in start.items()}
