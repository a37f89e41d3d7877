"""Numba against the reference: every bit must match, for any shape, offset and dtype; nan matches nan."""

from itertools import product

import pytest
import torch

from foretune.noise import Law, Window, add, add_low_rank, fill
from noise_calls import DTYPES, LARGE, ROUNDING, address, any_values, assert_as_reference, half_patterns, random_add


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
@pytest.mark.parametrize("num_columns", [1, 63, 64, 65, 255, 256, 257, 320, 521])
def test_noise_alone_around_the_ends_of_blocks(dtype, num_columns):
    """Whatever element a row begins with, in place or not, one sign or both; and nothing beside it is written."""
    for start, in_place, mirrors in product(range(9), (False, True), (False, True)):

        def call(start=start, in_place=in_place, mirrors=mirrors):
            base, out, mirrored = (any_values((3, num_columns + 16), dtype, seed) for seed in range(3))
            inside = slice(None), slice(8, 8 + num_columns)
            terms = [(0.3, address(1)), (2.0, address(2, Law.RADEMACHER)), (-0.1, address(3))]
            for row in range(3):
                middle = out[inside][row : row + 1]
                add(
                    middle,
                    middle if in_place else base[inside][row : row + 1],
                    noise=terms[: row + 1],
                    rounding=ROUNDING,
                    window=Window(row, start, num_columns + 9),
                    mirrored=mirrored[inside][row : row + 1] if mirrors else None,
                )
            return torch.cat((out, mirrored))

        assert_as_reference("numba", call)


@pytest.mark.parametrize("num_elements", [56, 64, 256, 321, 512])
def test_fill_writes_nothing_beside_a_tensor(num_elements):
    buffer = torch.zeros(num_elements + 16)
    fill(buffer[8:-8], address(1))
    assert buffer[8:-8].all()
    assert not torch.cat((buffer[:8], buffer[-8:])).any()


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
