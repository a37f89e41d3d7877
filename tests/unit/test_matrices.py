"""Coordinates as matrices and back; the matrix sign against its formula and an SVD, its bounds, and what it ignores."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foretune.matrices import as_coordinates, as_matrices, exact_msign, newton_schulz, newton_schulz_
from live_bytes import LiveBytes
from toys import trainables_of

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1)]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(values: Tensor, m: int, n: int) -> Tensor:
    u, v = torch.linalg.qr(gaussian(m, len(values)))[0], torch.linalg.qr(gaussian(n, len(values), seed=1))[0]
    return u @ values.diag() @ v.T


def quintic_of_singular_values(matrix: Tensor) -> Tensor:
    """The iteration in closed form: it acts on each singular value alone."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (matrix.norm() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ s.diag() @ vh


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_iteration_is_a_quintic_of_each_singular_value(shape: tuple[int, int]) -> None:
    matrix = 7.0 * gaussian(*shape)
    torch.testing.assert_close(newton_schulz(matrix), quintic_of_singular_values(matrix), rtol=0, atol=1e-12)


@pytest.mark.parametrize("smallest", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (4, 4)], ids=str)
def test_against_the_svd(shape: tuple[int, int], smallest: float) -> None:
    """Where every singular value is 0.01 ||G||_F or more: the same vectors, values in [0.68, 1.14]."""
    matrix = with_singular_values(torch.tensor([1.0, 0.9, 0.4, smallest], dtype=torch.float64), *shape)
    assert smallest / float(matrix.norm()) >= 0.01
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(exact_msign(matrix), u @ vh, rtol=0, atol=1e-12)
    sign = newton_schulz(matrix)
    values = (u.T @ sign @ vh.T).diagonal()
    torch.testing.assert_close(u @ values.diag() @ vh, sign, rtol=0, atol=1e-10)
    assert 0.68 <= float(values.min()) <= float(values.max()) <= 1.14


def test_bounds_over_all_inputs() -> None:
    """diag(cos x, sin x) takes every normalized singular value: in [0.681, 1.135] from 0.01 on, never above 1.203."""
    largest, above = 0.0, []
    for angle in torch.linspace(0.0, math.pi / 2, 1001, dtype=torch.float64):
        values = torch.stack([angle.cos(), angle.sin()])
        signs = newton_schulz(values.diag()).diagonal()
        largest = max(largest, float(signs.max()))
        above += [float(sign) for value, sign in zip(values, signs, strict=True) if value >= 0.01]
    assert largest <= 1.203
    assert 0.681 <= min(above) <= max(above) <= 1.135


@pytest.mark.parametrize("function", [newton_schulz, exact_msign])
def test_zero_stays_zero(function) -> None:
    assert not function(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("function", [newton_schulz, exact_msign])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_only_the_direction_counts(function, shape: tuple[int, int]) -> None:
    """Of c G for c > 0 (Newton-Schulz: as far as 1e-7 / ||G||_F allows); -G gives the negative, G^T the transpose."""
    matrix = gaussian(*shape)
    sign = function(matrix)
    torch.testing.assert_close(function(1e4 * matrix), sign, rtol=0, atol=1e-6)
    torch.testing.assert_close(function(-matrix), -sign, rtol=0, atol=1e-12)
    torch.testing.assert_close(function(matrix.T), sign.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [newton_schulz, exact_msign])
@pytest.mark.parametrize("shape", [(3, 5), (5, 3)], ids=str)
def test_a_stack_is_taken_matrix_by_matrix(function, shape: tuple[int, int]) -> None:
    """Matrices of very different size do not see each other."""
    stack = gaussian(3, *shape) * torch.tensor([1.0, 1e4, 1e-2], dtype=torch.float64).view(3, 1, 1)
    expected = torch.stack([function(matrix) for matrix in stack])
    torch.testing.assert_close(function(stack), expected, rtol=0, atol=1e-12)


def test_exact_sign_of_a_matrix_without_full_rank() -> None:
    """A partial isometry on what the matrix does not map to 0, however small the matrix is."""
    matrix = 1e-20 * with_singular_values(torch.tensor([3.0, 0.2], dtype=torch.float64), 5, 4)
    sign = exact_msign(matrix)
    values = torch.linalg.svdvals(sign)
    torch.testing.assert_close(values, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(sign @ sign.T @ matrix, matrix, rtol=1e-12, atol=1e-30)


@pytest.mark.parametrize("function", [newton_schulz, exact_msign])
@pytest.mark.parametrize(
    ("dtype", "compute"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    ids=str,
)
def test_precision(function, dtype: torch.dtype, compute: torch.dtype) -> None:
    """float64 or float32, also where the caller computes in less."""
    matrix = gaussian(6, 4).to(dtype)
    sign = function(matrix)
    assert sign.dtype == compute
    torch.testing.assert_close(sign.double(), function(matrix.double()), rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(function(matrix), sign)


@pytest.mark.parametrize(
    ("shape", "num_views", "expected"),
    [
        ((3, 4), 1, (3, 4)),
        ((3, 2, 4), 1, (3, 8)),
        ((3, 1), 1, (3, 1)),
        ((3, 8), 2, (2, 3, 4)),
        ((2, 3, 4), 2, (2, 3, 4)),
    ],
    ids=str,
)
def test_there_and_back(shape: tuple[int, ...], num_views: int, expected: tuple[int, ...]) -> None:
    (trainable,) = trainables_of(w=(3, 8))
    coordinates = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrices = as_matrices(coordinates, replace(trainable, num_views=num_views))
    assert matrices.shape == expected
    assert torch.equal(as_coordinates(matrices, shape), coordinates)


def test_views_are_blocks_of_columns() -> None:
    (trainable,) = trainables_of(w=(2, 6))
    coordinates = torch.arange(12).view(2, 6)
    matrices = as_matrices(coordinates, replace(trainable, num_views=3))
    assert [matrix.tolist() for matrix in matrices] == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]


@pytest.mark.parametrize("shape", [(48, 24_000), (24_000, 48), (2, 100, 6000)], ids=str)
def test_newton_schulz_of_large_matrices_is_made_in_place(shape: tuple[int, ...]) -> None:
    matrix = gaussian(*shape)
    expected = torch.stack([quintic_of_singular_values(m) for m in matrix.view(-1, *shape[-2:])]).view(shape)
    with LiveBytes() as counter:
        found = newton_schulz_(matrix)
    assert found.data_ptr() == matrix.data_ptr()
    assert counter.peak < 0.3 * matrix.nbytes
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-11)
