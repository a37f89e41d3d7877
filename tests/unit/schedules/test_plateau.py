"""When a level rises, in words of the reports, and what is remembered of them."""

import math

import pytest
import torch
from torch import nn

from foretune.parameters import collect_trainables
from foretune.schedules.plateau import Plateau
from foretune.types import TensorState, Trainable


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16], ids=str)
def trainable(request: pytest.FixtureRequest) -> Trainable:
    return collect_trainables(nn.Linear(2, 3, bias=False, dtype=request.param))[0]


def levels(metrics: list[float], trainable: Trainable, **options: int) -> list[int]:
    plateau, state = Plateau(**options), TensorState()
    found = []
    for metric in metrics:
        plateau.report(metric, trainable, state)
        found.append(plateau.level(state))
    return found


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([5, 4, 3, 2], [0, 0, 0, 0]),
        ([5, 5, 5, 5, 5, 5, 5, 5], [0, 0, 1, 1, 2, 2, 2, 2]),  # equal is no better; then at the top
        ([5, 6, 4, 6, 6, 6, 3], [0, 0, 0, 0, 1, 1, 1]),  # a new best begins the count anew, and a rise does
        ([5, 6, 5, 5.5, 5], [0, 0, 1, 1, 2]),  # the best one stays after a rise
        ([math.nan, math.nan, 5, math.nan, 4, math.inf, math.nan], [0, 1, 1, 1, 1, 1, 2]),
        ([-0.5, -0.6, -0.6, -0.5], [0, 0, 0, 1]),  # an accuracy, with its sign turned
    ],
    ids=str,
)
def test_the_level_rises_after_reports_without_a_new_best(
    metrics: list[float], expected: list[int], trainable: Trainable
) -> None:
    assert levels(metrics, trainable, patience=2, top=2) == expected


def test_a_metric_that_no_float32_holds_is_not_better_than_itself() -> None:
    trainable = collect_trainables(nn.Linear(2, 3))[0]
    for metric in (0.1, 0.7, 1 / 3):
        assert levels([metric] * 3, trainable, patience=1, top=5) == [0, 1, 2]


def test_state_is_as_declared_and_a_record_restores_the_level(trainable: Trainable) -> None:
    plateau, state = Plateau(patience=2, top=3), TensorState()
    assert plateau.level(state) == 0
    assert not plateau.has_reports(state)
    plateau.restore(2, trainable, state)
    plateau.restore(1, trainable, state)
    assert plateau.level(state) == 2
    assert not plateau.has_reports(state)
    plateau.report(1.0, trainable, state)
    assert plateau.has_reports(state)
    assert tuple(state.tensors) == Plateau.STATE_NAMES
    assert sum(tensor.numel() for tensor in state.tensors.values()) == Plateau.NUM_ELEMENTS
    assert {tensor.dtype for tensor in state.tensors.values()} == {trainable.compute_dtype}
