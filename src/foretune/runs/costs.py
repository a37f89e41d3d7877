"""What a run costs: seconds a step and memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory the run has held: of the GPU, or of the process on a CPU (Linux counts it in KiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Give back what earlier runs of this process have freed, and forget what they held at most.

    On other systems than Linux with glibc, and without a GPU, the process keeps its record.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return


class StepClock(TrainerCallback):
    """Times the steps that are measured, without evaluations and checkpoints.

    The first one, which chooses the engine, is left out.

    Args:
        leaves_out: Asked at the end of a step, by its index, whether it was another than usual: taken from the journal
            by a resumed run, or followed by diagnostics.
    """

    def __init__(self, leaves_out: Callable[[int], bool]) -> None:
        self._leaves_out = leaves_out
        self._durations: list[float] = []
        self._start = 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """Mean duration of a step; None if too few were made."""
        counted = self._durations[1:]
        return sum(counted) / len(counted) if counted else None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it."""
        if not self._leaves_out(state.global_step - 1):
            self._durations.append(time.perf_counter() - self._start)
