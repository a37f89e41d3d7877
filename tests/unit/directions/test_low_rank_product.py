"""EGGROLL's law: regenerable factors, uncorrelated unit-variance entries, a factored forward."""

import math

import pytest
import torch
from torch import Tensor

from foretune import Optimizer, TwoSided, noise
from foretune.directions import Gaussian, LowRankProduct
from foretune.errors import UsageError
from foretune.noise import LowRankNoise, Noise, Purpose
from foretune.types import Combination, TensorState
from toys import Quadratic, assert_mean, trainables_of


def draw(rank: int, key: int = 7, **shapes: tuple[int, ...]) -> Combination:
    (trainable,) = trainables_of(**shapes)
    drawn = LowRankProduct(rank=rank).draw(trainable, TensorState(), key=key, step=0, coordinate_shape=trainable.shape)
    return drawn.vector


def factors(key: int, rank: int, m: int, n: int) -> tuple[Tensor, Tensor]:
    """A (m, rank) and B (n, rank) of tensor `w`, regenerated from their addresses."""
    stream = noise.stream_id("w")
    a = noise.fill(torch.empty(rank, m, dtype=torch.float64), Noise(key, stream, Purpose.LEFT)).T
    b = noise.fill(torch.empty(rank, n, dtype=torch.float64), Noise(key, stream, Purpose.RIGHT)).T
    return a, b


def test_keys_regenerate_the_factors() -> None:
    weight = torch.zeros(5, 4, dtype=torch.float64)
    vector = draw(3, w=(5, 4))
    assert vector.products == ((1.0, LowRankNoise(7, noise.stream_id("w"), 3)),)
    a, b = factors(7, 3, 5, 4)
    torch.testing.assert_close(vector.materialize((5, 4), weight), a @ b.T / math.sqrt(3), rtol=0, atol=1e-14)
    assert not torch.equal(vector.materialize((5, 4), weight), draw(3, key=8, w=(5, 4)).materialize((5, 4), weight))


def test_vectors_are_gaussian() -> None:
    (trainable,) = trainables_of(b=(1, 6))
    arguments = {"key": 7, "step": 0, "coordinate_shape": (1, 6)}
    ours = LowRankProduct().draw(trainable, TensorState(), **arguments)
    assert ours == Gaussian().draw(trainable, TensorState(), **arguments)


def test_tensors_of_more_dimensions_are_matrices() -> None:
    matrix = draw(2, w=(3, 2, 4)).materialize((3, 2, 4), torch.zeros(3, 2, 4, dtype=torch.float64)).view(3, 8)
    assert torch.linalg.matrix_rank(matrix) == 2


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_entries_are_uncorrelated_with_unit_variance(rank: int) -> None:
    """E[vec(E) vec(E)^T] = I for every rank."""
    weight = torch.zeros(2, 3, dtype=torch.float64)
    keys = [noise.mix(0, step) for step in range(1500)]
    samples = torch.stack([draw(rank, key=key, w=(2, 3)).materialize((2, 3), weight).flatten() for key in keys])
    assert_mean(samples, 0.0)
    assert_mean(torch.einsum("si,sj->sij", samples, samples), torch.eye(6, dtype=torch.float64))


def test_the_factored_forward_is_the_dense_one() -> None:
    """x (W + sigma E)^T = x W^T + sigma / sqrt(rank) (x B) A^T."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    moved = torch.empty_like(weight)
    draw(3, w=(5, 4)).scaled(0.1).add_to(moved, weight)
    a, b = factors(7, 3, 5, 4)
    torch.testing.assert_close(x @ moved.T, x @ weight.T + 0.1 / math.sqrt(3) * (x @ b) @ a.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("rank", "num_directions"), [(1, 1), (1, 3), (2, 2), (3, 4)])
def test_the_rank_of_a_step(rank: int, num_directions: int) -> None:
    """min(q rank, m, n)."""
    model = Quadratic({"w": (6, 5)})
    before = model.w.detach().clone()
    estimator = TwoSided(num_directions=num_directions)
    Optimizer(model, direction=LowRankProduct(rank=rank), estimator=estimator, lr=0.1).step(model)
    change = model.w.detach() - before
    assert torch.linalg.matrix_rank(change, rtol=1e-9) == min(rank * num_directions, 5)


def test_nothing_is_remembered() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    state, direction = TensorState(), LowRankProduct()
    direction.advance(trainable, state, keys=[1], step=0, coordinate_shape=(3, 4), scalars=(2.0,))
    assert state == TensorState()
    assert direction.num_state_elements(trainable, (3, 4)) == 0


def test_a_rank_out_of_range_is_named() -> None:
    with pytest.raises(UsageError, match="rank must be at least 1, got 0"):
        LowRankProduct(rank=0)
