"""Kernels share PyTorch's threads: they start none of their own and load no second OpenMP library."""

import multiprocessing
import os
import subprocess
import sys
import threading

import pytest
import torch

from foretune.noise import add, cpu_threads, fill, use_backend
from noise_calls import BITS, LARGE, ROUNDING, address, any_values

_COUNTS = """
import os, torch
from foretune.noise import Noise, Purpose, add, cpu_threads

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
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_is_started_beside_pytorchs():
    child = subprocess.run([sys.executable, "-c", _COUNTS], capture_output=True, text=True, timeout=120)
    assert child.stdout == "tested\n", child.stderr


def test_where_pytorch_has_no_gnu_openmp_pythons_threads_give_the_same_bits(monkeypatch, threads):
    def missing():
        raise OSError("no such library")

    threads(3)
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
    assert any(thread.name.startswith("foretune-noise") for thread in threading.enumerate()), "they were used"


def test_every_element_is_taken_once(threads):
    """In place, a piece that two threads work on would be added twice."""
    threads(3)
    with use_backend("numba"):
        z = fill(torch.empty(LARGE), address(1))
        for _ in range(20):
            out = torch.zeros(LARGE)
            add(out, out, noise=[(1.0, address(1))])
            assert torch.equal(out, z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thread_count_changes_no_bit(dtype, threads):
    base = any_values((LARGE,), dtype, 1)
    outs = []
    for count in (1, 2, 3):
        threads(count)
        out = torch.full_like(base, float("nan"))
        with use_backend("numba"):
            add(out, base, noise=[(0.1, address(1))], rounding=ROUNDING)
        outs.append(out.view(BITS[out.element_size()]))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def _sum_in_child(queue):
    with use_backend("numba"):
        queue.put(float(fill(torch.empty(LARGE), address(1)).numpy().sum()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # it is what is tested
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_draw_noise():
    with use_backend("numba"):
        expected = float(fill(torch.empty(LARGE), address(1)).numpy().sum())
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_sum_in_child, args=(queue,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == expected
