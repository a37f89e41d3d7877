"""The matrices that low-rank spaces see in a tensor, and writing products into them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from foretune.noise import Noise, Purpose
from foretune.parameters import collect_trainables
from foretune.spaces import Identity, LowRank, Masked, OneSidedOrthonormal, Orthonormal
from foretune.spaces.views import add_products, near_square, stack_shape, view_shape
from foretune.types import Combination, Trainable
from toys import trainables_of

ROUNDING = Noise(7, 8, Purpose.UPDATE_ROUNDING)


def three_views(dtype: torch.dtype = torch.float64, num_columns: int = 12) -> Trainable:
    (trainable,) = collect_trainables(nn.ParameterDict({"w": nn.Parameter(torch.zeros(2, num_columns, dtype=dtype))}))
    return replace(trainable, num_views=3)


def factors(a: int, b: int, *, num_views: int = 3, rank: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.randn(*stack_shape(num_views, size, rank), generator=generator, dtype=torch.float64) for size in (a, b)
    )
    return left, right


def test_near_square_is_the_reshaping_table() -> None:
    assert near_square(10 * 2048) == (128, 160)
    assert near_square(8 * 2048) == (128, 128)
    assert near_square(5 * 2048) == (80, 128)
    assert near_square(1) == (1, 1)
    assert near_square(2 * 13) == (2, 13)


@pytest.mark.parametrize("count", [2, 3, 13, 101])
def test_a_prime_count_has_no_other_shape(count: int) -> None:
    assert near_square(count) == (1, count)


def test_no_matrix_loses_by_reshaping() -> None:
    """a is the largest divisor up to the root, so at least the shorter side of the matrix itself."""
    for m in range(2, 15):
        for n in range(2, 15):
            a, b = near_square(m * n)
            assert a * b == m * n
            assert min(m, n) <= a <= math.isqrt(m * n)
            assert not any(m * n % divisor == 0 for divisor in range(a + 1, math.isqrt(m * n) + 1))


def test_shapes_of_views() -> None:
    matrix, tensor = trainables_of(a=(3, 4), b=(5, 2, 3))
    assert (view_shape(matrix), view_shape(tensor)) == ((3, 4), (5, 6))
    assert view_shape(three_views()) == (2, 4)
    assert (stack_shape(1, 2, 5), stack_shape(3, 2, 5)) == ((2, 5), (3, 2, 5))


@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_each_view_gets_its_own_product_row_by_row(shape: tuple[int, int]) -> None:
    trainable, (left, right) = three_views(), factors(*shape)
    base = torch.arange(24.0, dtype=torch.float64).view(2, 12)
    expected = 0.5 * base + torch.cat([product.reshape(2, 4) for product in left @ right.mT], dim=1)
    for out in (torch.full_like(base, torch.nan), base):
        add_products(trainable, left, right, out=out, base=base, scale=0.5)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("num_views", [1, 3])
@pytest.mark.parametrize("reshaped", [False, True])
def test_rows_are_those_of_the_whole_product(num_views: int, reshaped: bool) -> None:
    """Rows of the tensor, also where the factors see its numbers in another shape."""
    trainable = replace(three_views(), num_views=num_views)
    m, n = view_shape(trainable)
    left, right = factors(*((m * 2, n // 2) if reshaped else (m, n)), num_views=num_views)
    base = torch.ones(2, 12, dtype=torch.float64)
    whole, out = torch.empty_like(base), torch.full_like(base, 9.0)
    add_products(trainable, left, right, out=whole, base=base)
    add_products(trainable, left, right, out=out, base=base, rows=torch.tensor([1]))
    assert torch.equal(out[1], whole[1])
    assert (out[0] == 9.0).all()


def test_views_are_rounded_by_bits_of_their_own() -> None:
    """1 + 2^-9 lies between two bfloat16 numbers: up and down alike would show as equal blocks."""
    trainable = three_views(torch.bfloat16, num_columns=3 * 64)
    left, right = (torch.zeros(3, size, 1) for size in (2, 64))
    out = torch.ones(2, 192, dtype=torch.bfloat16)
    add_products(trainable, left, right, out=out, base=out, scale=1 + 2.0**-9, rounding=ROUNDING)
    blocks = out.chunk(3, dim=1)
    assert set(out.unique().tolist()) == {1.0, 1.0 + 2.0**-7}
    assert all(not torch.equal(blocks[i], blocks[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    "space",
    [
        *(Identity(), Masked(sparsity=0.0), LowRank(rank=2), OneSidedOrthonormal(rank=2)),
        *(Orthonormal(rank=2), Orthonormal(rank=2, reshape="always")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("rows", [None, torch.tensor([3, 1])], ids=["all", "rows"])
def test_both_signs_are_those_of_two_writes(space, rows) -> None:
    """Of every space: the bits of a second write of the negated vector."""
    for trainable in trainables_of(matrix=(6, 4), vector=(5,)):
        shape = space.coordinate_shape(trainable)
        vector = Combination(noise=((0.3, Noise(1, trainable.stream, Purpose.DIRECTION)),))
        base = torch.arange(float(trainable.parameter.numel()), dtype=torch.float64).view(trainable.shape)
        plus, minus, mirrored, both = (base.clone() for _ in range(4))
        settings = {"base": base, "seed": 0, "epoch": 0, "rows": rows}
        space.add(trainable, vector, out=plus, **settings)
        space.add(trainable, vector.scaled(-1.0), out=minus, **settings)
        space.add(trainable, vector, out=both, mirrored=mirrored, **settings)
        assert torch.equal(both, plus), shape
        assert torch.equal(mirrored, minus), shape
        factors = space.matrix_factors(trainable, vector, seed=0, epoch=0)
        is_thin = space.lifts(trainable) and getattr(space, "reshape", "auto") == "auto"
        assert (factors is not None) == is_thin
        if factors is not None and rows is None:
            torch.testing.assert_close(base + factors[0] @ factors[1].mT, plus)
