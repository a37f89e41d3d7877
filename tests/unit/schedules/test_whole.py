"""One block with everything, and the learning-rate factors of matrices and vectors."""

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


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({"matrix_lr_scale": 3.0}, [1.0, 3.0, 3.0, 1.0]),
        ({"vector_lr_scale": 0.5}, [0.5, 1.0, 1.0, 0.5]),
        ({"matrix_lr_scale": 3.0, "vector_lr_scale": 0.5}, [0.5, 3.0, 3.0, 0.5]),
    ],
    ids=str,
)
def test_a_factor_is_on_its_class_only(factors: dict[str, float], expected: list[float]) -> None:
    (block,) = Whole(**factors).blocks(0, trainables_of(a=(3,), b=(3, 4), c=(2, 3, 4), d=(1, 1, 4)), seed=0)
    assert [member.lr for member in block.members] == expected
    assert {member.std for member in block.members} == {1.0}


@pytest.mark.parametrize("option", ["matrix_lr_scale", "vector_lr_scale"])
@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_out_of_range_is_named(option: str, factor: float) -> None:
    with pytest.raises(UsageError, match=f"{option} must be positive and finite, got {factor}"):
        Whole(**{option: factor})
