"""The lazy low-rank space: the lift, its scale, the basis and what is carried from one to the next."""

import pytest
import torch
from torch import Tensor

from foretune import noise
from foretune.directions import Gaussian
from foretune.errors import UsageError
from foretune.noise import Law, Noise, Purpose
from foretune.spaces import LowRank
from foretune.types import Combination, TensorState, Trainable
from toys import assert_mean, trainables_of

SEED = 11


def lift(space: LowRank, trainable: Trainable, vector: Combination, epoch: int = 0) -> Tensor:
    zeros = torch.zeros(trainable.shape, dtype=torch.float64)
    space.add(trainable, vector, out=zeros, base=zeros, seed=SEED, epoch=epoch)
    return zeros


def draw(trainable: Trainable, key: int) -> Combination:
    return Gaussian().draw(trainable, TensorState(), key=key, step=0, coordinate_shape=()).vector


def coordinates(space: LowRank, trainable: Trainable, vector: Combination) -> Tensor:
    zeros = torch.zeros(space.coordinate_shape(trainable), dtype=torch.float64)
    noise.add(zeros, zeros, noise=vector.noise, dense=vector.dense)
    return zeros


@pytest.mark.parametrize("rank", [1, 2, 7])
@pytest.mark.parametrize("shape", [(3, 4), (5, 2, 3)])
def test_lift_is_u_times_v_transposed(shape: tuple[int, ...], rank: int) -> None:
    """Also for a rank above min(m, n), and for a tensor of three dimensions viewed as (shape[0], rest)."""
    (trainable,) = trainables_of(w=shape)
    space = LowRank(rank=rank, interval=3)
    m, n = shape[0], torch.Size(shape[1:]).numel()
    assert space.coordinate_shape(trainable) == (m, rank)
    left = torch.arange(1.0, m * rank + 1, dtype=torch.float64).view(m, rank)
    vector = draw(trainable, noise.mix(SEED, 4)) + Combination(dense=(0.5, left))
    u = coordinates(space, trainable, vector)
    v = noise.fill(
        torch.empty(rank, n, dtype=torch.float64), Noise(noise.mix(SEED, 1), trainable.stream, Purpose.RIGHT)
    ).T
    torch.testing.assert_close(space.basis(trainable, seed=SEED, epoch=1), v, rtol=0, atol=0)
    lifted = lift(space, trainable, vector, epoch=1)
    torch.testing.assert_close(lifted, (u @ v.T).view(shape), rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(lifted.view(m, n)) == min(rank, m, n)


def test_rows_of_an_embedding_are_those_of_the_whole_lift() -> None:
    (trainable,) = trainables_of(w=(6, 3))
    space, vector = LowRank(rank=2), draw(trainable, noise.mix(SEED, 0))
    out = torch.full(trainable.shape, 9.0, dtype=torch.float64)
    base = torch.ones_like(out)
    rows = torch.tensor([4, 1])
    space.add(trainable, vector, out=out, base=base, seed=SEED, epoch=0, rows=rows)
    whole = lift(space, trainable, vector) + 1.0
    assert torch.equal(out[rows], whole[rows])
    assert (out[[0, 2, 3, 5]] == 9.0).all()


def test_a_zero_vector_only_scales() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    base = torch.ones(3, 4, dtype=torch.float64)
    zero = draw(trainable, 1).scaled(0.0)
    LowRank().add(trainable, zero, out=base, base=base, seed=SEED, epoch=0, scale=0.5)
    assert (base == 0.5).all()


@pytest.mark.parametrize("shape", [(), (5,), (1, 5), (5, 1), (1, 1, 5)])
def test_vectors_keep_the_full_space(shape: tuple[int, ...]) -> None:
    (trainable,) = trainables_of(b=shape)
    space = LowRank(rank=2)
    assert space.coordinate_shape(trainable) == shape
    assert not space.lifts(trainable)
    assert space.estimate_scale(trainable) == 1.0
    address = Noise(noise.mix(SEED, 0), trainable.stream, Purpose.DIRECTION, Law.GAUSSIAN)
    z = noise.fill(torch.empty(shape, dtype=torch.float64), address)
    assert torch.equal(lift(space, trainable, draw(trainable, address.key)), z)
    state = torch.ones(shape)
    assert space.transport(trainable, state, seed=SEED, old_epoch=0, new_epoch=1) is state


def test_a_matrix_always_lifts_even_where_the_shapes_agree() -> None:
    (trainable,) = trainables_of(w=(3, 2))
    space = LowRank(rank=2)
    assert space.coordinate_shape(trainable) == trainable.shape
    assert space.lifts(trainable)


def test_the_basis_stays_for_an_interval_and_then_changes() -> None:
    first, second = trainables_of(a=(3, 4), b=(3, 4))
    space = LowRank(rank=2, interval=3)
    assert [space.epoch(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    bases = [
        space.basis(trainable, seed=seed, epoch=epoch)
        for trainable, seed, epoch in ((first, 1, 0), (first, 1, 1), (first, 2, 0), (second, 1, 0))
    ]
    for i, basis in enumerate(bases):
        for other in bases[i + 1 :]:
            assert not torch.equal(basis, other)


def test_mean_estimate_given_v_is_the_gradient_projected() -> None:
    """E[estimate | V] = G V V^T / r."""
    (trainable,) = trainables_of(w=(3, 4))
    space, num = LowRank(rank=2), 20_000
    gradient = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = space.basis(trainable, seed=SEED, epoch=0)
    u = noise.fill(torch.empty(num, 3, 2, dtype=torch.float64), Noise(1, 1, Purpose.DIRECTION))
    z = u @ v.T
    slopes = torch.einsum("nij,ij->n", z, gradient)
    estimates = slopes[:, None, None] * z * space.estimate_scale(trainable)
    assert_mean(estimates, gradient @ v @ v.T / 2)


def test_moments_over_v() -> None:
    """E estimate = G; E||estimate||^2 = (m n + 2 (m + n + 1) / r + 2) ||G||^2, here 44 ||G||^2."""
    (trainable,) = trainables_of(w=(6, 5))
    space, num = LowRank(rank=2), 4000
    gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v = torch.stack([space.basis(trainable, seed=SEED, epoch=epoch) for epoch in range(num)])
    u = noise.fill(torch.empty(num, 6, 2, dtype=torch.float64), Noise(2, 1, Purpose.DIRECTION))
    z = u @ v.transpose(1, 2)
    slopes = torch.einsum("nij,ij->n", z, gradient)
    estimates = slopes[:, None, None] * z * space.estimate_scale(trainable)
    assert_mean(estimates, gradient)
    assert_mean(estimates.square().sum((1, 2)), 44 * float(gradient.square().sum()))


def test_transport_is_n_v_old_v_new_over_n() -> None:
    (trainable,) = trainables_of(w=(3, 50))
    space = LowRank(rank=2)
    state = torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    old, new = (space.basis(trainable, seed=SEED, epoch=epoch) for epoch in (4, 7))
    moved = space.transport(trainable, state, seed=SEED, old_epoch=4, new_epoch=7)
    torch.testing.assert_close(moved, state @ old.T @ new / 50, rtol=0, atol=1e-14)
    assert space.transport(trainable, state, seed=SEED, old_epoch=4, new_epoch=4) is state


@pytest.mark.parametrize("rank", [2, 8])
def test_mean_of_what_is_carried_over(rank: int) -> None:
    """E[lift(transport(N))] = (r / n) lift(N): less than it was for r < n, more for r > n."""
    (trainable,) = trainables_of(w=(2, 4))
    space = LowRank(rank=rank)
    state = torch.randn(2, rank, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    lifted = state @ space.basis(trainable, seed=SEED, epoch=0).T
    carried = [
        space.transport(trainable, state, seed=SEED, old_epoch=0, new_epoch=epoch)
        @ space.basis(trainable, seed=SEED, epoch=epoch).T
        for epoch in range(1, 1501)
    ]
    assert_mean(torch.stack(carried), rank / 4 * lifted)


def test_transport_within_one_basis_is_nearly_the_identity() -> None:
    """V^T V / n -> I as n grows: the transport is the cheap form of least squares."""
    (trainable,) = trainables_of(w=(2, 20_000))
    v = LowRank(rank=2).basis(trainable, seed=SEED, epoch=0)
    torch.testing.assert_close(v.T @ v / 20_000, torch.eye(2, dtype=torch.float64), rtol=0, atol=0.05)


@pytest.mark.parametrize("option", ["rank", "interval"])
def test_settings_out_of_range_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
        LowRank(**{option: 0})
