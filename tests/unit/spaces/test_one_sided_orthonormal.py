"""The one-sided orthonormal space: the lift, its mean, the basis and what is carried from one to the next."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foretune import noise
from foretune.directions import Gaussian
from foretune.errors import UsageError
from foretune.noise import Noise, Purpose
from foretune.spaces import OneSidedOrthonormal
from foretune.types import Combination, TensorState, Trainable, describe_part
from toys import assert_mean, trainables_of

SEED = 11


def lift(space: OneSidedOrthonormal, trainable: Trainable, vector: Combination, epoch: int = 0) -> Tensor:
    zeros = torch.zeros(trainable.shape, dtype=torch.float64)
    space.add(trainable, vector, out=zeros, base=zeros, seed=SEED, epoch=epoch)
    return zeros


def draw(trainable: Trainable, key: int) -> Combination:
    return Gaussian().draw(trainable, TensorState(), key=key, step=0, coordinate_shape=()).vector


@pytest.mark.parametrize("rank", [1, 2, 5, 7])
@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 3), (5, 8)], ids=str)
def test_lift_is_p_times_psi(shape: tuple[int, ...], rank: int) -> None:
    """P^T P = I; a rank above m is m; a tensor of three dimensions is viewed as (shape[0], rest)."""
    (trainable,) = trainables_of(w=shape)
    space = OneSidedOrthonormal(rank=rank, interval=3)
    m, n = shape[0], torch.Size(shape[1:]).numel()
    rho = min(rank, m)
    assert space.coordinate_shape(trainable) == (rho, n)
    dense = torch.arange(1.0, rho * n + 1, dtype=torch.float64).view(rho, n)
    vector = draw(trainable, noise.mix(SEED, 4)) + Combination(dense=(0.5, dense))
    psi = vector.materialize((rho, n), trainable.parameter)
    p = space.basis(trainable, seed=SEED, epoch=1)
    torch.testing.assert_close(p.T @ p, torch.eye(rho, dtype=torch.float64), rtol=0, atol=1e-14)
    lifted = lift(space, trainable, vector, epoch=1)
    torch.testing.assert_close(lifted, (p @ psi).view(shape), rtol=0, atol=1e-12)
    torch.testing.assert_close(lifted.norm(), psi.norm(), rtol=1e-12, atol=0)
    assert torch.linalg.matrix_rank(lifted.view(m, n)) == min(rho, n)


def test_each_view_has_a_p_of_its_own() -> None:
    """Blocks of columns, side by side: as the lift of one matrix each."""
    (trainable,) = trainables_of(w=(5, 12))
    trainable = replace(trainable, num_views=3)
    space, vector = OneSidedOrthonormal(rank=2), draw(trainable, noise.mix(SEED, 0))
    assert space.coordinate_shape(trainable) == (3, 2, 4)
    psi = vector.materialize((3, 2, 4), trainable.parameter)
    p = space.basis(trainable, seed=SEED, epoch=0)
    assert p.shape == (3, 5, 2)
    assert not torch.allclose(p[0], p[1])
    expected = torch.cat([p[view] @ psi[view] for view in range(3)], dim=1)
    torch.testing.assert_close(lift(space, trainable, vector), expected, rtol=0, atol=1e-13)
    moved = space.transport(trainable, psi, seed=SEED, old_epoch=0, new_epoch=1)
    new = space.basis(trainable, seed=SEED, epoch=1)
    torch.testing.assert_close(moved, new.mT @ p @ psi, rtol=0, atol=1e-13)


def test_rows_of_an_embedding_are_those_of_the_whole_lift() -> None:
    (trainable,) = trainables_of(w=(6, 3))
    space, vector = OneSidedOrthonormal(rank=2), draw(trainable, noise.mix(SEED, 0))
    out = torch.full(trainable.shape, 9.0, dtype=torch.float64)
    base = torch.ones_like(out)
    rows = torch.tensor([4, 1])
    space.add(trainable, vector, out=out, base=base, seed=SEED, epoch=0, rows=rows)
    whole = torch.empty_like(out)
    space.add(trainable, vector, out=whole, base=base, seed=SEED, epoch=0)
    assert torch.equal(out[rows], whole[rows])
    assert (out[[0, 2, 3, 5]] == 9.0).all()


def test_a_zero_vector_only_scales() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    base = torch.ones(3, 4, dtype=torch.float64)
    zero = draw(trainable, 1).scaled(0.0)
    OneSidedOrthonormal().add(trainable, zero, out=base, base=base, seed=SEED, epoch=0, scale=0.5)
    assert (base == 0.5).all()


@pytest.mark.parametrize("shape", [(), (5,), (1, 5), (5, 1), (1, 1, 5)], ids=str)
def test_vectors_keep_the_full_space(shape: tuple[int, ...]) -> None:
    (trainable,) = trainables_of(b=shape)
    space = OneSidedOrthonormal(rank=2)
    assert space.coordinate_shape(trainable) == shape
    assert not space.lifts(trainable)
    z = noise.fill(
        torch.empty(shape, dtype=torch.float64), Noise(noise.mix(SEED, 0), trainable.stream, Purpose.DIRECTION)
    )
    assert torch.equal(lift(space, trainable, draw(trainable, noise.mix(SEED, 0))), z)
    state = torch.ones(shape)
    assert space.transport(trainable, state, seed=SEED, old_epoch=0, new_epoch=1) is state


def test_a_matrix_always_lifts_even_where_the_shapes_agree() -> None:
    (trainable,) = trainables_of(w=(3, 2))
    space = OneSidedOrthonormal(rank=3)
    assert space.coordinate_shape(trainable) == trainable.shape
    assert space.lifts(trainable)


def test_the_basis_stays_for_an_interval_and_then_changes() -> None:
    (trainable,) = trainables_of(a=(5, 4))
    space = OneSidedOrthonormal(rank=2, interval=3)
    assert [space.epoch(step) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]
    first, again, second = (space.basis(trainable, seed=1, epoch=epoch) for epoch in (0, 0, 1))
    assert again is first
    assert not torch.allclose(first, second)


def test_mean_estimate_given_p_is_the_gradient_projected() -> None:
    """E[lift(estimate) | P] = P P^T G on a quadratic, one-sided: the curvature's term averages to zero."""
    (trainable,) = trainables_of(w=(5, 3))
    space, num, zo_eps = OneSidedOrthonormal(rank=2), 20_000, 0.5
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    root = torch.randn(15, 15, generator=generator, dtype=torch.float64) / 4
    p = space.basis(trainable, seed=SEED, epoch=0)
    psi = noise.fill(torch.empty(num, 2, 3, dtype=torch.float64), Noise(1, 1, Purpose.DIRECTION))
    z = p @ psi
    slopes = torch.einsum("nij,ij->n", z, gradient) + zo_eps / 2 * (z.view(num, 15) @ root).square().sum(dim=1)
    assert space.estimate_scale(trainable) == 1.0
    assert_mean(slopes[:, None, None] * z, p @ p.T @ gradient)


def test_transport_projects_the_lift() -> None:
    """P_new^T P_old Psi is the closest lift of the new basis; a stay in one basis changes nothing."""
    (trainable,) = trainables_of(w=(6, 3))
    space = OneSidedOrthonormal(rank=2)
    state = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    old, new = (space.basis(trainable, seed=SEED, epoch=epoch) for epoch in (4, 7))
    moved = space.transport(trainable, state, seed=SEED, old_epoch=4, new_epoch=7)
    closest = torch.linalg.lstsq(new, old @ state).solution
    torch.testing.assert_close(moved, closest, rtol=0, atol=1e-13)
    assert space.transport(trainable, state, seed=SEED, old_epoch=4, new_epoch=4) is state


def test_transport_between_full_bases_keeps_the_lift() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    space = OneSidedOrthonormal(rank=3)
    state = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = space.basis(trainable, seed=SEED, epoch=0) @ state
    moved = space.transport(trainable, state, seed=SEED, old_epoch=0, new_epoch=1)
    torch.testing.assert_close(space.basis(trainable, seed=SEED, epoch=1) @ moved, before, rtol=0, atol=1e-13)


def test_the_bases_in_memory_are_no_setting() -> None:
    """A space that has made bases equals one that has not, and describes itself alike."""
    (trainable,) = trainables_of(w=(3, 4))
    used, fresh = OneSidedOrthonormal(rank=2), OneSidedOrthonormal(rank=2)
    used.basis(trainable, seed=0, epoch=0)
    assert used == fresh
    assert describe_part(used) == describe_part(fresh) == {"type": "OneSidedOrthonormal", "rank": 2, "interval": 100}


@pytest.mark.parametrize("option", ["rank", "interval"])
def test_settings_out_of_range_are_named(option: str) -> None:
    with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
        OneSidedOrthonormal(**{option: 0})
