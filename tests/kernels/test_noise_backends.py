"""Numba against the reference: every bit must match, for any shape, offset and dtype; nan matches nan."""

import multiprocessing
import os

import pytest
import torch

from foretune.noise import (
    LaneMask,
    Law,
    MagnitudeMask,
    Noise,
    Purpose,
    Window,
    add,
    add_low_rank,
    fill,
    mix,
    stream_id,
    use_backend,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
LARGE = 300_007  # elements: enough for several threads, and odd


def address(number, law=Law.GAUSSIAN):
    return Noise(mix(7, number), stream_id("layer.weight"), Purpose(number % 9), law)


ROUNDING = address(5)


def on_both(call):
    """Return what `call` writes under each backend, as integers with every nan made the same."""
    results = []
    for name in ("reference", "numba"):
        with use_backend(name):
            out = call()
        bits = out.contiguous().view(BITS[out.element_size()])
        results.append(torch.where(out.isnan(), -1, bits))
    return results


def any_values(shape, dtype, seed):
    """Numbers of every size: normal, subnormal, huge, zeros of both signs, infinities."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x * torch.exp(8 * torch.randn(shape, generator=generator, dtype=torch.float64))
    x.view(-1)[::11] = 0.0
    x.view(-1)[5::97] = -0.0
    x.view(-1)[7::101] = float("inf")
    return x.to(dtype)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize("count", [1, 7, 8, 127, 129, 1023, 1024, 1025, LARGE])
def test_fill(dtype, law, count):
    expected, found = on_both(lambda: fill(torch.full((count,), float("nan"), dtype=dtype), address(1, law)))
    assert torch.equal(expected, found)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(12))
def test_add_over_random_shapes_and_options(dtype, seed):
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    rows, columns = integer(1, 60), integer(1, 1500)
    base = any_values((rows, columns), dtype, seed)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    scales = [1.0, 0.75, -1e-3]
    terms = [(10.0 ** integer(-6, 2), address(integer(0, 99), Law(integer(0, 2)))) for _ in range(integer(0, 4))]
    options = {
        "scale": scales[integer(0, 3)],
        "noise": terms,
        "rounding": ROUNDING,
        "dense": (0.1, torch.randn(rows, columns, generator=generator, dtype=compute)) if integer(0, 2) else None,
        "rows": torch.randperm(rows, generator=generator)[: integer(1, rows + 1)] if integer(0, 2) else None,
        "window": Window(integer(0, 2**31), integer(0, 50), 2000) if integer(0, 2) else None,
        "mask": [None, LaneMask(address(3), integer(0, 30_000), integer(30_000, 65_537)), MagnitudeMask(0.5)][
            integer(0, 3)
        ],
    }
    in_place = bool(integer(0, 2))

    def call():
        out = base.clone() if in_place else torch.full_like(base, float("nan"))
        add(out, out if in_place else base, **options)
        return out

    expected, found = on_both(call)
    assert torch.equal(expected, found)


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

        expected, found = on_both(call)
        assert torch.equal(expected, found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_pattern_is_read_and_rounded_alike(dtype):
    """All 65,536 patterns, pushed off their grid by steps from far below to far above their own size."""
    base = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    for coefficient in (1e-9, 1e-6, 1e-3, 1.0, 3e4, 3e38):

        def call(coefficient=coefficient):
            out = torch.empty_like(base)
            add(out, base, noise=[(coefficient, address(2))], rounding=ROUNDING)
            return out

        expected, found = on_both(call)
        assert torch.equal(expected, found)


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
