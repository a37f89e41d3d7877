"""Combinations, and how parts describe themselves."""

import json

import pytest
import torch
from torch import Tensor

from foretune import noise
from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.noise import Noise, Purpose
from foretune.schedules import Whole
from foretune.spaces import LowRank
from foretune.types import Combination, Parts, describe_part
from foretune.updates import SGD
from toys import trainables_of

Z1, Z2 = (Noise(key, 0, Purpose.DIRECTION) for key in (1, 2))


def value(combination: Combination) -> Tensor:
    out = torch.zeros(2, 3, dtype=torch.float64)
    noise.add(out, out, noise=combination.noise, dense=combination.dense)
    return out


def dense(seed: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_combinations_form_a_vector_space() -> None:
    x, y = dense(0), dense(1)
    a = Combination(((2.0, Z1), (-1.0, Z2)), (0.5, x))
    for b in (
        Combination(((3.0, Z1),)),
        Combination(dense=(2.0, x)),
        Combination(dense=(2.0, y)),
        Combination(),
    ):
        torch.testing.assert_close(value(a + b), value(a) + value(b), rtol=0, atol=1e-14)
        torch.testing.assert_close(value(b + a), value(a) + value(b), rtol=0, atol=1e-14)
    torch.testing.assert_close(value(a.scaled(-0.3)), -0.3 * value(a), rtol=0, atol=1e-14)


def test_adding_leaves_the_stored_tensors_alone() -> None:
    x, y = dense(0), dense(1)
    _ = Combination(dense=(2.0, x)) + Combination(dense=(3.0, y))
    assert torch.equal(x, dense(0))
    assert torch.equal(y, dense(1))


def test_multiples_of_one_tensor_stay_one_tensor() -> None:
    x = dense(0)
    total = Combination(dense=(2.0, x)) + Combination(dense=(3.0, x))
    assert total.dense is not None
    assert total.dense[0] == 5.0
    assert total.dense[1] is x


@pytest.mark.parametrize(
    ("combination", "is_zero"),
    [
        (Combination(), True),
        (Combination(((0.0, Z1), (-0.0, Z2)), (0.0, torch.ones(2, 3))), True),
        (Combination(((0.0, Z1), (1e-300, Z2))), False),
        (Combination(((float("nan"), Z1),)), False),
        (Combination(dense=(1.0, torch.zeros(2, 3))), False),
    ],
)
def test_is_zero_means_that_nothing_may_be_written(combination: Combination, is_zero: bool) -> None:
    assert combination.is_zero is is_zero


def test_parts_describe_themselves_for_a_journal() -> None:
    parts = Parts(
        space=LowRank(rank=4),
        direction=Gaussian(),
        estimator=TwoSided(zo_eps=0.01),
        update=SGD(),
        schedule=Whole(matrix_lr_scale=2.0),
    )
    assert parts.describe() == {
        "space": {"type": "LowRank", "rank": 4, "interval": 50},
        "direction": {"type": "Gaussian"},
        "estimator": {"type": "TwoSided", "zo_eps": 0.01, "num_directions": 1},
        "update": {"type": "SGD", "weight_decay": 0.0},
        "schedule": {"type": "Whole", "matrix_lr_scale": 2.0},
    }
    assert json.loads(json.dumps(parts.describe())) == parts.describe()
    assert describe_part(object()) == {"type": "object"}


def test_trainables_are_compared_by_identity_and_know_their_compute_dtype() -> None:
    (a,), (b,) = trainables_of(w=(2, 3)), trainables_of(w=(2, 3))
    assert a != b
    assert len({a, b}) == 2
    assert a.compute_dtype == torch.float64
    assert a.shape == (2, 3)
