"""Gaussian and Rademacher directions: addresses, independence and the moments of the estimates they give."""

import pytest
import torch
from torch import Tensor

from foretune import noise
from foretune.directions import Gaussian, Rademacher
from foretune.noise import Noise, Purpose
from foretune.types import AbstractDirection, TensorState, Trainable
from toys import Quadratic, assert_mean, trainables_of

LAWS = [Gaussian(), Rademacher()]


def values(direction: AbstractDirection, trainable: Trainable, key: int, num: int = 12) -> Tensor:
    """`num` elements of the direction drawn for a tensor."""
    combination = direction.draw(trainable, TensorState(), key=key, step=0, coordinate_shape=(num,)).vector
    assert combination.dense is None
    ((coefficient, address),) = combination.noise
    assert coefficient == 1.0
    return noise.fill(torch.empty(num, dtype=torch.float64), address)


@pytest.mark.parametrize("direction", LAWS)
def test_a_direction_is_a_value(direction: AbstractDirection) -> None:
    """The same arguments give the same z; another key or tensor another one, equal shapes included."""
    a, b = trainables_of(a=(3, 4), b=(3, 4))
    key, other = noise.mix(0, 1), noise.mix(0, 2)
    z = values(direction, a, key)
    assert torch.equal(z, values(direction, a, key))
    assert not torch.equal(z, values(direction, a, other))
    assert not torch.equal(z, values(direction, b, key))


def test_the_laws_are_what_they_are_called() -> None:
    (trainable,) = trainables_of(a=(1,))
    signs = values(Rademacher(), trainable, 1, 4000)
    assert set(signs.tolist()) == {-1.0, 1.0}
    normal = values(Gaussian(), trainable, 1, 40_000)
    assert_mean(torch.stack([normal, normal**2, normal**4], dim=1), torch.tensor([0.0, 1.0, 3.0]))


@pytest.mark.parametrize("direction", LAWS)
@pytest.mark.parametrize("num_directions", [1, 4])
def test_moments_of_the_estimate(direction: AbstractDirection, num_directions: int) -> None:
    """E estimate = gradient; E||estimate||^2 is (1 + (d+1)/q) (Gaussian) or (1 + (d-1)/q) (Rademacher) times
    the squared gradient: with q = 1, d + 2 and d."""
    model = Quadratic({"w": (2, 3), "b": (2,)})
    gradient, d, num = model.gradient(), 8, 20_000
    (trainable,) = trainables_of(a=(d,))
    z = values(direction, trainable, 3, num * num_directions * d).view(num, num_directions, d)
    estimates = ((z @ gradient).unsqueeze(-1) * z).mean(dim=1)
    assert_mean(estimates, gradient)
    excess = d + 1 if isinstance(direction, Gaussian) else d - 1
    second_moment = (1 + excess / num_directions) * float(gradient.square().sum())
    assert_mean(estimates.square().sum(dim=1), second_moment)


@pytest.mark.parametrize("direction", LAWS)
def test_nothing_is_remembered(direction: AbstractDirection) -> None:
    (trainable,) = trainables_of(a=(3,))
    state = TensorState()
    direction.advance(trainable, state, keys=[1], step=0, coordinate_shape=(3,), scalars=(2.0,))
    assert state == TensorState()
    assert direction.num_state_elements(trainable, (3,)) == 0


def test_directions_never_share_bits_with_other_purposes() -> None:
    (trainable,) = trainables_of(a=(3,))
    draw = Gaussian().draw(trainable, TensorState(), key=7, step=0, coordinate_shape=(3,))
    ((_, address),) = draw.vector.noise
    assert address == Noise(7, trainable.stream, Purpose.DIRECTION)
