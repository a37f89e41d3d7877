"""Numba against the reference: every bit must match, for any shape, offset and dtype; nan matches nan."""

import multiprocessing
import os

import pytest
import torch

from foretune.noise import Law, add, add_low_rank, fill, use_backend
from noise_calls import BITS, DTYPES, ROUNDING, address, any_values, assert_as_reference, half_patterns, random_add

LARGE = 300_007  # elements: enough for several threads, and odd


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize("count", [1, 7, 8, 127, 129, 1023, 1024, 1025, LARGE])
def test_fill(dtype, law, count):
    assert_as_reference("numba", lambda: fill(torch.full((count,), float("nan"), dtype=dtype), address(1, law)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(12))
def test_add_over_random_shapes_and_options(dtype, seed):
    assert_as_reference("numba", random_add(dtype, seed, 60, 1500))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [0, 1, 3, 4, 5, 8, 11])
def test_add_low_rank(dtype, rank):
    generator = torch.Generator().manual_seed(rank)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    base = any_values((151, 1201), dtype, rank)
    left = torch.randn(151, rank, generator=generator, dtype=compute)
    right = torch.randn(rank, 1201, generator=generator, dtype=compute).t()
    for rows in (None, torch.tensor([150, 3, 77])):

        def call(rows=rows):
            out = torch.full_like(base, float("nan"))
            add_low_rank(out, base, left, right, scale=0.5, rounding=ROUNDING, rows=rows)
            return out

        assert_as_reference("numba", call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_pattern_is_read_and_rounded_alike(dtype):
    """All 65,536 patterns, pushed off their grid by steps from far below to far above their own size."""
    base = half_patterns(dtype)
    for coefficient in (1e-9, 1e-6, 1e-3, 1.0, 3e4, 3e38):

        def call(coefficient=coefficient):
            out = torch.empty_like(base)
            add(out, base, noise=[(coefficient, address(2))], rounding=ROUNDING)
            return out

        assert_as_reference("numba", call)


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
