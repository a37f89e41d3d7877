"""`add`, `add_low_rank` and `fill` against their formulas, on every backend and dtype."""

import functools
import math
import sys
from types import ModuleType

import pytest
import torch

from foretune.errors import UsageError
from foretune.noise import (
    LaneMask,
    Law,
    LowRankNoise,
    MagnitudeMask,
    Noise,
    Purpose,
    RowMask,
    Window,
    add,
    add_low_rank,
    fill,
    kept,
    lanes,
    low_rank_factors,
    mix,
    ops,
    stream_id,
    use_backend,
)
from foretune.noise.reference import values
from noise_calls import INTERPRETED

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
HALF = [torch.bfloat16, torch.float16]
STREAM = stream_id("weight")
GAUSSIAN = Noise(mix(0, 1), STREAM, Purpose.DIRECTION)
RADEMACHER = Noise(mix(0, 1, 1), STREAM, Purpose.DIRECTION, Law.RADEMACHER)
ROUNDING = Noise(mix(0, 1), STREAM, Purpose.PERTURBATION_ROUNDING)
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.fixture(params=["reference", "numba", *(["triton"] if INTERPRETED else [])], autouse=True)
def backend(request):
    with use_backend(request.param):
        yield request.param


def compute(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def sample(shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same_bits(a, b):
    return torch.equal(a.contiguous().view(BITS[a.element_size()]), b.contiguous().view(BITS[b.element_size()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_add_is_its_formula_with_every_product_rounded(dtype):
    base, dense = sample((17, 33), dtype), sample((17, 33), dtype, 1)
    z = [fill(torch.empty(17, 33, dtype=dtype), noise) for noise in (GAUSSIAN, RADEMACHER)]
    out = torch.full_like(base, math.nan)
    add(out, base, scale=0.9, noise=[(1e-3, GAUSSIAN), (-0.7, RADEMACHER)], dense=(0.3, dense))
    expected = base * 0.9
    expected = expected + 0.3 * dense
    expected = expected + 1e-3 * z[0]
    expected = expected + -0.7 * z[1]
    assert same_bits(out, expected)


@pytest.mark.parametrize("dtype", HALF)
def test_half_types_are_within_one_step_of_the_float32_result(dtype):
    base = sample((40, 50), dtype)
    out, exact = torch.full_like(base, math.nan), torch.empty(40, 50)
    add(out, base, noise=[(1e-2, GAUSSIAN)], rounding=ROUNDING)
    add(exact, base.float(), noise=[(1e-2, GAUSSIAN)])
    step = torch.maximum(exact.abs() * torch.finfo(dtype).eps, torch.tensor(2.0**-24))
    assert bool(((out.float() - exact).abs() < step).all())
    assert not same_bits(out, exact.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_coefficients_of_zero_change_no_bit(dtype):
    specials = [0.0, -0.0, math.inf, -math.inf, 1.0, 6e-8, -6e-8, torch.finfo(dtype).max]
    base = torch.tensor(specials * 40, dtype=dtype)
    out = torch.full_like(base, math.nan)
    zero = 1e-60 if dtype != torch.float64 else 0.0  # rounds to zero in the compute dtype
    dense = torch.full(base.shape, math.inf, dtype=compute(dtype))
    add(
        out,
        base,
        noise=[(0.0, GAUSSIAN), (-0.0, RADEMACHER), (zero, GAUSSIAN)],
        dense=(0.0, dense),
        rounding=ROUNDING,
    )
    assert same_bits(out, base)


@pytest.mark.parametrize("dtype", HALF)
def test_ten_perturbations_of_coefficient_zero_drift_by_nothing(dtype):
    weight = sample((64, 64), dtype)
    before = weight.clone()
    for step in range(10):
        rounding = Noise(mix(0, step), STREAM, Purpose.UPDATE_ROUNDING)
        add(weight, weight, noise=[(0.0, GAUSSIAN)], rounding=rounding)
    assert same_bits(weight, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_equals_out_of_place(dtype):
    base = sample((31, 7), dtype)
    out = torch.full_like(base, math.nan)
    add(out, base, scale=0.5, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING)
    add(base, base, scale=0.5, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING)
    assert same_bits(out, base)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(50, 13), (50, 3, 5), (50,)])
def test_rows_are_those_of_the_whole_tensor_and_no_other_is_written(dtype, shape):
    base, dense = sample(shape, dtype), sample(shape, compute(dtype), 1)
    rows = torch.tensor([49, 0, 7, 8])
    whole, some = torch.empty_like(base), torch.full_like(base, math.nan)
    for out, selection in ((whole, None), (some, rows)):
        add(
            out,
            base,
            noise=[(0.1, GAUSSIAN), (0.2, RADEMACHER)],
            dense=(0.3, dense),
            rounding=ROUNDING,
            rows=selection,
        )
    assert same_bits(some[rows], whole[rows])
    assert int(some.reshape(50, -1).isnan().all(dim=1).sum()) == 46


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_may_repeat_where_the_base_is_not_summed_up(dtype):
    base, once, twice = sample((50, 13), dtype), *(torch.full((50, 13), math.nan, dtype=dtype) for _ in range(2))
    left, right = (sample((size, 2), compute(dtype), size) for size in (50, 13))
    rows, repeated = torch.tensor([3, 7, 49]), torch.tensor([7, 3, 7, 49, 3, 3])
    for out, selection in ((once, rows), (twice, repeated)):
        add(out, base, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING, rows=selection)
    assert same_bits(twice, once)
    for out, selection in ((once, rows), (twice, repeated)):
        add_low_rank(out, base, left, right, rounding=ROUNDING, rows=selection)
    assert same_bits(twice, once)
    for out, selection in ((once, rows), (twice, repeated)):
        out.zero_()
        add(out, out, scale=0.0, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING, rows=selection)
    assert same_bits(twice, once)


@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_tile_the_whole_matrix(dtype):
    base = sample((30, 41), dtype)
    whole, tiled = torch.empty_like(base), torch.full_like(base, math.nan)
    terms = [(0.1, GAUSSIAN), (0.2, RADEMACHER)]
    add(whole, base, noise=terms, rounding=ROUNDING)
    for row, height in ((0, 11), (11, 19)):
        for column, width in ((0, 3), (3, 38)):
            block = slice(row, row + height), slice(column, column + width)
            local, window = base[block].clone(), Window(row, column, 41)
            add(local, local, noise=terms, rounding=ROUNDING, window=window)
            tiled[block] = local
    assert same_bits(tiled, whole)


def test_a_row_list_within_a_window():
    whole = fill(torch.empty(30, 41), GAUSSIAN)
    local = torch.full((10, 5), math.nan)
    add(local, torch.zeros(10, 5), noise=[(1.0, GAUSSIAN)], rows=torch.tensor([2]), window=Window(20, 30, 41))
    assert torch.equal(local[2], whole[22, 30:35])


def test_elements_beyond_32_bits():
    window = Window(2**30, 100, 2**10)
    local = torch.empty(1, 9)
    add(local, torch.zeros(1, 9), noise=[(1.0, GAUSSIAN)], window=window)
    assert torch.equal(local, values(torch.tensor([2**40 + 100]), 9, GAUSSIAN))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype):
    base = sample((12, 10), dtype)
    expected = torch.empty_like(base)
    add(expected, base, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING)
    transposed = base.t().contiguous().t()
    out = torch.full((12, 20), math.nan, dtype=dtype)[:, ::2]
    add(out, transposed, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING)
    assert same_bits(out, expected)
    some = torch.full((10, 12), math.nan, dtype=dtype).t()
    add(some, transposed, noise=[(0.1, GAUSSIAN)], rounding=ROUNDING, rows=torch.tensor([3, 5]))
    assert same_bits(some[[3, 5]], expected[[3, 5]])
    assert bool(some[0].isnan().all())
    filled = fill(torch.empty(10, 12, dtype=dtype).t(), GAUSSIAN)
    assert same_bits(filled, fill(torch.empty(12, 10, dtype=dtype), GAUSSIAN))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("law", list(Law))
def test_fill_is_z_rounded_to_nearest(dtype, law):
    noise = Noise(GAUSSIAN.key, STREAM, Purpose.DIRECTION, law)
    exact = fill(torch.empty(5001), noise)
    out = torch.full((5001,), math.nan, dtype=dtype)
    assert fill(out, noise) is out
    assert same_bits(out, exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [0, 1, 4, 7])
def test_low_rank_is_its_formula_rank_by_rank(dtype, rank):
    base, left, right = sample((19, 23), dtype), sample((19, rank), dtype, 1), sample((23, rank), dtype, 2)
    expected = base * 0.9
    for j in range(rank):
        expected = expected + left[:, j, None] * right[:, j]
    out = torch.full_like(base, math.nan)
    add_low_rank(out, base, left, right, scale=0.9)
    assert same_bits(out, expected)
    torch.testing.assert_close(out, 0.9 * base + left @ right.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_low_rank_rows_and_more_dimensions(dtype):
    base = sample((12, 3, 5), dtype)
    left, right = sample((12, 2), compute(dtype), 1), sample((15, 2), compute(dtype), 2)
    whole, some = torch.empty_like(base), torch.full_like(base, math.nan)
    rows = torch.tensor([11, 4])
    add_low_rank(whole, base, left, right, rounding=ROUNDING)
    add_low_rank(some, base, left, right, rounding=ROUNDING, rows=rows)
    assert same_bits(some[rows], whole[rows])
    assert int(some.isnan().sum()) == 10 * 15


def test_parameters_that_require_grad_and_inference_mode():
    weight = torch.nn.Parameter(torch.ones(8, 8))
    left = torch.ones(8, 1, requires_grad=True)
    add(weight, weight, noise=[(0.1, GAUSSIAN)])
    add_low_rank(weight, weight, left, left)
    fill(weight, GAUSSIAN)
    with torch.inference_mode():
        scratch = torch.empty(8, 8)
        add(scratch, weight, noise=[(0.1, GAUSSIAN)])
    assert weight.is_leaf
    assert weight.grad_fn is None


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), ()])
def test_empty_and_scalar_tensors(shape):
    out = torch.zeros(shape)
    fill(out, GAUSSIAN)
    add(out, out, noise=[(1.0, GAUSSIAN)])
    add(torch.zeros(4, 4), torch.zeros(4, 4), noise=[(1.0, GAUSSIAN)], rows=torch.empty(0, dtype=torch.int64))
    assert lanes(0, GAUSSIAN).shape == (0,)


def test_the_global_generator_is_neither_read_nor_seeded():
    before = torch.get_rng_state()
    add(torch.empty(9), torch.zeros(9), noise=[(1.0, GAUSSIAN)])
    assert torch.equal(torch.get_rng_state(), before)


def _call(**changes):
    arguments = {"out": torch.zeros(4, 6), "base": torch.zeros(4, 6), "noise": [(1.0, GAUSSIAN)]} | changes
    add(arguments.pop("out"), arguments.pop("base"), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": torch.zeros(4, 6, dtype=torch.int8)}, "int8"),
        ({"out": torch.zeros(4, 6).to(torch.float8_e4m3fn)}, "float8"),
        ({"base": torch.zeros(6, 4)}, "base must match"),
        ({"base": torch.zeros(4, 6, dtype=torch.float64)}, "base must match"),
        ({"out": torch.zeros(4, 6).half(), "base": torch.zeros(4, 6).half()}, "rounding="),
        ({"dense": (1.0, torch.zeros(4, 6).half())}, "dense must be"),
        ({"dense": (1.0, torch.zeros(6))}, "dense must be"),
        ({"rows": torch.tensor([4])}, r"rows must lie in \[0, 4\); found 4"),
        ({"rows": torch.tensor([0, -1])}, "found -1"),
        ({"rows": torch.tensor([0], dtype=torch.int32)}, "int64"),
        ({"rows": torch.zeros(1, 1, dtype=torch.int64)}, "int64"),
        ({"window": Window(0, 3, 8)}, "no room"),
        ({"window": Window(-1, 0, 6)}, "no room"),
        ({"out": torch.zeros(6), "base": torch.zeros(6), "window": Window(0, 0, 6)}, "2-D"),
        ({"out": torch.zeros(()), "base": torch.zeros(()), "rows": torch.tensor([0])}, "first dimension"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        _call(**changes)


def test_bad_low_rank_arguments_are_named():
    base, left, right = torch.zeros(4, 6), torch.zeros(4, 2), torch.zeros(6, 2)
    with pytest.raises(UsageError, match="one rank"):
        add_low_rank(base, base, left, torch.zeros(6, 3))
    with pytest.raises(UsageError, match="out has shape"):
        add_low_rank(base, base, torch.zeros(5, 2), right)
    with pytest.raises(UsageError, match="left must be"):
        add_low_rank(base, base, left.double(), right)
    with pytest.raises(UsageError, match="rows must lie"):
        add_low_rank(base, base, left, right, rows=torch.tensor([4]))


def test_each_kind_of_device_has_its_backend(monkeypatch):
    """No GPU is needed to ask."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "triton", ModuleType("triton"))
        patch.setattr(ops, "_fastest", functools.cache(ops._fastest.__wrapped__))
        assert [ops._fastest(kind) for kind in ("cpu", "cuda", "mps")] == ["numba", "triton", "reference"]


def test_cuda_tensors_without_triton_are_served_slowly_and_one_warning_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # importing it fails
    monkeypatch.setattr(ops, "_fastest", functools.cache(ops._fastest.__wrapped__))
    with pytest.warns(UserWarning, match=r"Triton cannot be imported .*`pip install foretune\[gpu\]") as caught:
        assert [ops._fastest("cuda"), ops._fastest("cuda")] == ["reference", "reference"]
    assert len(caught) == 1


def test_an_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="Available: reference, numba"), use_backend("cuda"):
        pass


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "mask",
    [LaneMask(GAUSSIAN, 9_000, 50_000), MagnitudeMask(0.5), RowMask(torch.arange(3, 38, 2))],
    ids=["lanes", "magnitude", "rows"],
)
def test_what_a_mask_does_not_keep_is_copied_from_the_base(dtype, mask):
    base = sample((40, 50), dtype)
    out, unmasked = torch.full_like(base, math.nan), torch.empty_like(base)
    options = {"scale": 0.9, "noise": [(0.1, RADEMACHER)], "rounding": ROUNDING}
    add(unmasked, base, **options)
    add(out, base, mask=mask, **options)
    keep = kept(mask, base)
    assert 100 < int(keep.sum()) < 1900
    assert same_bits(out, torch.where(keep, unmasked, base))


@pytest.mark.parametrize("mask", [MagnitudeMask(0.5), RowMask(torch.tensor([7, 1, 3, 0]))], ids=["magnitude", "rows"])
def test_only_the_rows_asked_for_are_written_whatever_a_mask_keeps(mask):
    base = sample((8, 50), torch.bfloat16)
    options = {"noise": [(0.1, RADEMACHER)], "rounding": ROUNDING, "mask": mask}
    rows = torch.tensor([5, 3, 0, 6])
    whole, out = torch.empty_like(base), torch.full_like(base, 7.0)
    add(whole, base, **options)
    add(out, base, rows=rows, **options)
    expected = torch.full_like(base, 7.0)
    expected[rows] = whole[rows]
    assert same_bits(out, expected)
    in_place = base.clone()
    add(in_place, in_place, **options)
    assert same_bits(in_place, whole)


def test_a_lane_mask_keeps_its_share_and_adjoining_ones_are_disjoint():
    base = torch.empty(300, 1000)
    share = 0.3
    cut = round(share * 2**16)
    below, above = kept(LaneMask(GAUSSIAN, 0, cut), base), kept(LaneMask(GAUSSIAN, cut, 2**16), base)
    assert torch.equal(below, ~above)
    assert abs(below.double().mean() - share) < 5 * math.sqrt(share * (1 - share) / base.numel())


def test_a_magnitude_mask_compares_as_float32():
    limit = 0.1  # its float32 is larger
    base = torch.tensor([limit, -limit, 0.0, torch.finfo(torch.float32).max, math.nan])
    assert kept(MagnitudeMask(limit), base).tolist() == [True, True, True, False, False]
    assert kept(MagnitudeMask(limit), base.double()).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("interval", [(-1, 5), (7, 5), (0, 65_537)])
def test_a_lane_mask_without_an_interval_is_refused(interval):
    with pytest.raises(UsageError, match=r"keeps \[start, stop\) within"):
        LaneMask(GAUSSIAN, *interval)


def test_low_rank_noise_is_its_formula():
    products = [(0.5, LowRankNoise(7, STREAM, 2)), (-2.0, LowRankNoise(8, STREAM, 3))]
    left, right = low_rank_factors(products, torch.empty(5, 2, 3, dtype=torch.float64))
    expected = torch.zeros(5, 6, dtype=torch.float64)
    for coefficient, product in products:
        a = fill(torch.empty(product.rank, 5, dtype=torch.float64), Noise(product.key, STREAM, Purpose.LEFT))
        b = fill(torch.empty(product.rank, 6, dtype=torch.float64), Noise(product.key, STREAM, Purpose.RIGHT))
        expected += coefficient / math.sqrt(product.rank) * a.T @ b
    torch.testing.assert_close(left @ right.T, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 4])
def test_low_rank_noise_has_uncorrelated_entries_of_unit_variance(rank):
    """E[vec(E) vec(E)^T] = I for any rank, within 5 standard errors over 4,000 keys."""
    samples = []
    for key in range(4000):
        left, right = low_rank_factors([(1.0, LowRankNoise(key, STREAM, rank))], torch.empty(2, 3, dtype=torch.float64))
        samples.append((left @ right.T).flatten())
    vectors = torch.stack(samples)
    moments = vectors[:, :, None] * vectors[:, None, :]
    error = moments.std(dim=0) / math.sqrt(len(samples))
    assert ((moments.mean(dim=0) - torch.eye(6)).abs() <= 5 * error).all()


def test_low_rank_noise_without_a_rank_is_refused():
    with pytest.raises(UsageError, match="at least 1; found 0"):
        LowRankNoise(0, STREAM, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0])], ids=["all", "rows"])
def test_mirrored_gets_the_bits_of_a_call_with_negated_coefficients(dtype, rows):
    base = torch.randn(5, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    dense = torch.randn(5, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dense = dense if dtype == torch.float64 else dense.float()
    other = Noise(8, STREAM, Purpose.DIRECTION, Law.RADEMACHER)
    for mask in (None, LaneMask(GAUSSIAN, 100, 40_000), MagnitudeMask(0.5), RowMask(torch.tensor([0, 3]))):
        written = []
        for sign in (1.0, -1.0):
            options = {
                "scale": 0.9,
                "noise": [(sign * 1e-2, GAUSSIAN), (sign * 0.3, other)],
                "dense": (sign * 0.1, dense),
                "rounding": Noise(9, STREAM, Purpose.PERTURBATION_ROUNDING),
                "rows": rows,
                "mask": mask,
            }
            written.append(base.clone())
            add(written[-1], base, **options)
        plus, minus = base.clone(), base.clone().t().contiguous().t()
        add(plus, base, **options | {"noise": [(1e-2, GAUSSIAN), (0.3, other)], "dense": (0.1, dense)}, mirrored=minus)
        assert torch.equal(plus, written[0])
        assert torch.equal(minus, written[1])
