"""What a run costs: peak memory of one run after another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from foretune.runs.costs import peak_memory_bytes, reset_peak_memory


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets what a process held")
def test_what_an_earlier_run_held_is_forgotten():
    cpu = torch.device("cpu")
    held = torch.ones(100, 2**20, dtype=torch.uint8)
    high = peak_memory_bytes(cpu)
    del held
    reset_peak_memory(cpu)
    assert peak_memory_bytes(cpu) < high - 90 * 2**20
