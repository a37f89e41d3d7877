"""Orthonormal bases: what they are, which address they come from, and how long one is kept."""

import pytest
import torch

from foretune import noise
from foretune.noise import Noise, Purpose
from foretune.parameters import collect_trainables
from foretune.spaces.bases import OrthonormalBases, orthonormal_basis
from toys import Net, assert_mean, trainables_of

SEED = 5


@pytest.mark.parametrize("purpose", [Purpose.LEFT, Purpose.RIGHT])
@pytest.mark.parametrize(("size", "rank"), [(6, 2), (4, 4), (1, 1)])
def test_it_is_the_q_of_a_gaussian_matrix(size: int, rank: int, purpose: Purpose) -> None:
    """Q^T Q = I, and Q^T A is upper triangular with a positive diagonal, which makes Q Haar-distributed."""
    (trainable,) = trainables_of(w=(6, 4))
    q = orthonormal_basis(trainable, size, rank, purpose, seed=SEED, epoch=3)
    assert q.shape == (size, rank)
    torch.testing.assert_close(q.T @ q, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-14)
    address = Noise(noise.mix(SEED, 3), trainable.stream, purpose)
    a = noise.fill(torch.empty(rank, size, dtype=torch.float64), address).T
    r = q.T @ a
    torch.testing.assert_close(q @ r, a, rtol=0, atol=1e-14)
    torch.testing.assert_close(r, r.triu(), rtol=0, atol=1e-14)
    assert (r.diagonal() > 0).all()


def test_orthonormal_in_float32() -> None:
    """To 1e-6, for half-precision weights too."""
    trainable = collect_trainables(Net(torch.bfloat16))[0]
    q = orthonormal_basis(trainable, 300, 40, Purpose.LEFT, seed=SEED, epoch=0)
    assert q.dtype == torch.float32
    torch.testing.assert_close(q.T @ q, torch.eye(40), rtol=0, atol=1e-6)


def test_mean_projector() -> None:
    """E[Q Q^T] = rank / size I."""
    (trainable,) = trainables_of(w=(5, 2))
    frames = [orthonormal_basis(trainable, 5, 2, Purpose.LEFT, seed=SEED, epoch=epoch) for epoch in range(2000)]
    assert_mean(torch.stack([q @ q.T for q in frames]), 0.4 * torch.eye(5, dtype=torch.float64))


def test_bases_differ_where_any_part_of_the_address_does() -> None:
    first, second = trainables_of(a=(6, 2), b=(6, 2))
    arguments = [
        (first, Purpose.LEFT, 1, 0),
        (first, Purpose.RIGHT, 1, 0),
        (first, Purpose.LEFT, 2, 0),
        (first, Purpose.LEFT, 1, 1),
        (second, Purpose.LEFT, 1, 0),
    ]
    bases = [orthonormal_basis(t, 6, 2, purpose, seed=seed, epoch=epoch) for t, purpose, seed, epoch in arguments]
    for i, basis in enumerate(bases):
        assert not any(torch.allclose(basis, other) for other in bases[:i])


def test_a_basis_is_made_once_an_epoch_and_one_is_kept() -> None:
    first, second = trainables_of(a=(6, 2), b=(6, 2))
    bases = OrthonormalBases()

    def get(trainable=first, seed=1, epoch=0):
        return bases.get(trainable, 6, 2, Purpose.LEFT, seed=seed, epoch=epoch)

    kept = get()
    other = get(second)
    assert get() is kept
    assert get(epoch=1) is not kept
    assert get(second) is other
    again = get()
    assert again is not kept
    assert torch.equal(again, kept)
    assert not torch.equal(get(seed=2), kept)
    assert len(bases._kept) == 2


def test_a_basis_made_within_a_forward_serves_outside() -> None:
    """Inference mode and autocast leave no trace."""
    (trainable,) = trainables_of(w=(6, 2))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        basis = OrthonormalBases().get(trainable, 6, 2, Purpose.LEFT, seed=1, epoch=0)
    assert not basis.is_inference()
    assert torch.equal(basis, orthonormal_basis(trainable, 6, 2, Purpose.LEFT, seed=1, epoch=0))
