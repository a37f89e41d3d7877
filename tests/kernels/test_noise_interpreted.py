"""The Triton kernels, interpreted on the CPU, against the reference: every bit must match, nan matches nan.

Collected where TRITON_INTERPRET=1 is set. The interpreter takes milliseconds an operation, so shapes are small: just
beyond a tile, which is 1,024 elements of a vector, or 16 rows by 64 columns.
"""

import pytest
import torch

from foretune.errors import UsageError
from foretune.noise import LaneMask, Law, MagnitudeMask, RowMask, Window, add, add_low_rank, fill, use_backend
from foretune.noise.address import LowRankNoise
from foretune.noise.ops import low_rank_factors
from noise_calls import DTYPES, ROUNDING, address, any_values, assert_as_reference, half_patterns, random_add

# The interpreter computes with NumPy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize("count", [1, 7, 8, 129, 1023, 1024, 2049])
def test_fill(dtype, law, count):
    assert_as_reference("triton", lambda: fill(torch.full((count,), float("nan"), dtype=dtype), address(1, law)))


@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_rounds_every_magnitude_to_nearest(dtype, law):
    """Twice the table's size: each entry is drawn with a probability of 63 % or more, ties among them."""
    assert_as_reference("triton", lambda: fill(torch.empty(16_384, dtype=dtype), address(8, law)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(9))
def test_add_over_random_shapes_and_options(dtype, seed):
    assert_as_reference("triton", random_add(dtype, seed, 40, 150))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2_500,), (3, 16, 8), (1, 1_040), (17, 1), ()])
@pytest.mark.parametrize("mask", [None, LaneMask(address(3), 100, 40_000), MagnitudeMask(0.5)])
def test_whole_tensors(dtype, shape, mask):
    base = any_values(shape or (1,), dtype, 3).reshape(shape)
    terms = [(0.3, address(1)), (-2.0, address(2, Law.RADEMACHER)), (1e-4, address(1))]

    def call():
        out = torch.full_like(base, float("nan"))
        add(out, base, scale=0.9, noise=terms, rounding=ROUNDING, mask=mask)
        return out

    assert_as_reference("triton", call)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "window", [Window(5, 8, 256), Window(2**33, 3, 77), Window(1, 0, 70), Window(2**40, 16, 2**20)]
)
@pytest.mark.parametrize("rows", [None, [20, 3, 19]])
def test_windows_begin_anywhere_in_an_octet(dtype, window, rows):
    base = any_values((21, 70), dtype, 4)
    rows = rows if rows is None else torch.tensor(rows)

    def call():
        out = base.clone()
        add(out, out, noise=[(0.1, address(4))], rounding=ROUNDING, rows=rows, window=window)
        return out

    assert_as_reference("triton", call)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_masks_and_strided_tensors(dtype):
    base = any_values((70, 21), dtype, 4).t()

    def call():
        out = torch.full_like(base, float("nan"))
        mask, rows = RowMask(torch.arange(0, 21, 2)), torch.arange(20)[::3]
        add(out, base, noise=[(0.1, address(4))], rounding=ROUNDING, rows=rows, mask=mask)
        return out

    assert_as_reference("triton", call)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize("columns", [64, 131])
def test_add_low_rank(dtype, rank, columns):
    generator = torch.Generator().manual_seed(rank)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    base = any_values((18, columns), dtype, rank)
    left = torch.randn(18, rank, generator=generator, dtype=compute)
    right = torch.randn(columns, rank, generator=generator, dtype=compute)
    for rows in (None, torch.tensor([17, 3])):

        def call(rows=rows):
            out = torch.full_like(base, float("nan"))
            add_low_rank(out, base, left, right, scale=0.5, rounding=ROUNDING, rows=rows)
            return out

        assert_as_reference("triton", call)


def test_low_rank_factors():
    products = [(0.5, LowRankNoise(7, 1, 2)), (-1.0, LowRankNoise(8, 1, 3))]
    for factor in (0, 1):
        assert_as_reference("triton", lambda factor=factor: low_rank_factors(products, torch.empty(40, 9))[factor])


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("coefficient", [1e-9, 1e-3, 3e4, 3e38])
def test_every_half_pattern_is_read_and_rounded_alike(dtype, coefficient):
    base = half_patterns(dtype)[:: 7 if coefficient != 1e-3 else 1]

    def call():
        out = torch.empty_like(base)
        add(out, base, noise=[(coefficient, address(2))], rounding=ROUNDING)
        return out

    assert_as_reference("triton", call)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_of_one_and_no_term_change_no_bit(dtype):
    """Not even of a signalling nan, in the types that are not rounded."""
    base = any_values((1_030,), dtype, 6)
    if dtype not in HALF:
        nan = 0x7F800001 if dtype == torch.float32 else 0x7FF0000000000001
        base.view(torch.int32 if dtype == torch.float32 else torch.int64)[3] = nan
    out = torch.empty_like(base)
    with use_backend("triton"):
        add(out, base, noise=[(0.0, address(1))], rounding=ROUNDING)
    assert torch.equal(out.view(torch.uint8), base.view(torch.uint8))


@pytest.mark.parametrize("bad", [-1, 21])
def test_a_row_outside_is_refused_before_the_kernel(bad):
    base = torch.zeros(21, 8)
    with use_backend("triton"), pytest.raises(UsageError, match=r"rows must lie in \[0, 21\)"):
        add(base, base, noise=[(0.1, address(4))], rows=torch.tensor([bad]))
