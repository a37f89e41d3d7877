"""The full space: a lift that is the identity."""

import torch

from foretune import noise
from foretune.noise import Noise, Purpose
from foretune.spaces import Identity
from foretune.types import Combination
from toys import trainables_of


def test_lift_is_the_vector_itself() -> None:
    (trainable,) = trainables_of(w=(3, 4))
    address = Noise(noise.mix(5, 0), trainable.stream, Purpose.DIRECTION)
    z = noise.fill(torch.empty(3, 4, dtype=torch.float64), address)
    base, dense = torch.full_like(z, 2.0), torch.arange(12.0, dtype=torch.float64).view(3, 4)
    out = torch.empty_like(z)
    vector = Combination(((0.5, address),), (3.0, dense))
    Identity().add(trainable, vector, out=out, base=base, seed=0, epoch=0, scale=0.25)
    torch.testing.assert_close(out, 0.25 * base + 3.0 * dense + 0.5 * z, rtol=0, atol=1e-14)


def test_there_is_no_basis() -> None:
    space = Identity()
    trainables = trainables_of(scalar=(), vector=(5,), matrix=(3, 4), tensor=(2, 3, 4))
    for trainable in trainables:
        assert space.coordinate_shape(trainable) == trainable.shape
        assert not space.lifts(trainable)
        assert space.estimate_scale(trainable) == 1.0
    assert {space.epoch(step) for step in (0, 1, 1000)} == {0}
    state = torch.ones(3, 4)
    assert space.transport(trainables[0], state, seed=0, old_epoch=0, new_epoch=1) is state
