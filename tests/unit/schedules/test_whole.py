"""One block with everything, and the learning-rate factor of matrices."""

import pytest

from foretune.errors import UsageError
from foretune.schedules import Whole
from toys import trainables_of


def test_every_tensor_moves_at_every_step() -> None:
    trainables = trainables_of(a=(3,), b=(3, 4), c=(2, 3, 4), d=(1, 1, 4))
    for step in (0, 1, 99):
        (block,) = Whole().blocks(step, trainables, seed=0)
        assert [member.trainable for member in block.members] == list(trainables)
        assert {(member.std, member.lr) for member in block.members} == {(1.0, 1.0)}


def test_the_factor_is_on_matrices_only() -> None:
    (block,) = Whole(matrix_lr_scale=3.0).blocks(0, trainables_of(a=(3,), b=(3, 4), c=(2, 3, 4), d=(1, 1, 4)), seed=0)
    assert [member.lr for member in block.members] == [1.0, 3.0, 3.0, 1.0]
    assert {member.std for member in block.members} == {1.0}


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_out_of_range_is_named(factor: float) -> None:
    with pytest.raises(UsageError, match=f"matrix_lr_scale must be positive and finite, got {factor}"):
        Whole(matrix_lr_scale=factor)
