from __future__ import annotations

import gc

import pytest
import torch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No network; one thread; accelerate's garbage collection at every start need not visit torch."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gc.freeze()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    gc.unfreeze()
