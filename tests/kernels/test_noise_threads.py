"""Kernels share PyTorch's threads: they start none of their own and load no second OpenMP library."""

import subprocess
import sys

import pytest
import torch

from foretune.noise import add, cpu_threads, fill, use_backend
from noise_calls import ROUNDING, address, any_values

LARGE = 300_007  # elements: enough for several threads, and odd

_COUNTS = """
import os, torch
from foretune.noise import Law, Noise, Purpose, add, cpu_numba, cpu_threads

def state():
    loaded = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
    return len(os.listdir("/proc/self/task")), {path for path in loaded if "gomp" in path or "omp5" in path}

torch.set_num_threads(3)
base = torch.randn(1 << 20)
(base + base).sum()
cpu_threads._parallel()
add(base[:8], base[:8], noise=[(1.0, Noise(1, 2, Purpose.DIRECTION))])  # compiled, on this thread
before = state()
add(base, base, noise=[(1.0, Noise(1, 2, Purpose.DIRECTION))])
assert state() == before, (before, state())
print("tested")
"""


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_is_started_beside_pytorchs():
    child = subprocess.run([sys.executable, "-c", _COUNTS], capture_output=True, text=True, timeout=120)
    assert child.stdout == "tested\n", child.stderr


def test_where_pytorch_has_no_gnu_openmp_pythons_threads_give_the_same_bits(monkeypatch, three_threads):
    def missing():
        raise OSError("no such library")

    base = any_values((LARGE,), torch.bfloat16, 1)
    outs = []
    with use_backend("numba"):
        for _ in range(2):
            out = torch.full_like(base, float("nan"))
            add(out, base, noise=[(0.1, address(1))], rounding=ROUNDING)
            outs.append(out.view(torch.int16))
            monkeypatch.setattr(cpu_threads, "_torch_library", missing)
            cpu_threads._parallel.cache_clear()
    cpu_threads._parallel.cache_clear()
    assert torch.equal(*outs)


def test_every_element_is_taken_once(three_threads):
    """In place, a piece that two threads work on would be added twice."""
    with use_backend("numba"):
        z = fill(torch.empty(LARGE), address(1))
        for _ in range(20):
            out = torch.zeros(LARGE)
            add(out, out, noise=[(1.0, address(1))])
            assert torch.equal(out, z)
