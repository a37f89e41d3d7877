"""Two random groups: the split, and spaces that cannot be split."""

import math

import pytest
import torch
from torch import Tensor

from foretune import Optimizer, noise
from foretune.errors import IncompatibleError, UsageError
from foretune.estimators import TwoSided
from foretune.schedules import RandomGroups
from foretune.spaces import LowRank, Masked
from foretune.types import AbstractSpace, Trainable
from toys import Net, trainables_of


def groups_of(schedule: RandomGroups, trainable: Trainable, *, seed: int = 0, step: int = 0) -> list[Tensor]:
    blocks = schedule.blocks(step, (trainable,), seed=seed)
    return [noise.kept(block.members[0].mask, trainable.parameter) for block in blocks]


def build(space: AbstractSpace, **options: object) -> Optimizer:
    return Optimizer(Net(), space=space, estimator=TwoSided(), schedule=RandomGroups(**options), lr=0.01)


def test_accept_the_groups_are_disjoint_complete_and_halves() -> None:
    """|G1| / N within 5 standard deviations of 1/2."""
    (trainable,) = trainables_of(w=(300, 401))
    first, second = groups_of(RandomGroups(), trainable)
    assert torch.equal(first, ~second)
    assert abs(float(first.double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(first.numel())


def test_accept_the_split_is_that_of_the_run() -> None:
    """The same at every step (so also after a resume), another one for another seed or tensor."""
    one, other = trainables_of(a=(30, 40), b=(30, 40))
    first = groups_of(RandomGroups(), one)[0]
    assert torch.equal(groups_of(RandomGroups(), one, step=99)[0], first)
    assert not torch.equal(groups_of(RandomGroups(), one, seed=1)[0], first)
    assert not torch.equal(groups_of(RandomGroups(), other)[0], first)


def test_each_group_has_its_own_scale() -> None:
    blocks = RandomGroups(stds=(0.7, 0.2)).blocks(0, trainables_of(a=(3,), b=(2,)), seed=0)
    assert [[member.std for member in block.members] for block in blocks] == [[0.7, 0.7], [0.2, 0.2]]


def test_whole_tensors_may_be_split_by_one_coin_each() -> None:
    trainables = trainables_of(**{f"t{index}": (2,) for index in range(200)})
    schedule = RandomGroups(granularity="tensor")
    blocks = schedule.blocks(3, trainables, seed=5)
    names = [[member.trainable.name for member in block.members] for block in blocks]
    assert sorted(names[0] + names[1]) == sorted(trainable.name for trainable in trainables)
    assert abs(len(names[0]) - 100) < 5 * math.sqrt(50)
    assert {member.std for member in blocks[1].members} == {0.5}
    assert all(member.mask is None for block in blocks for member in block.members)
    assert [len(block.members) for block in schedule.blocks(0, trainables[:1], seed=5)] == [1]


def test_spaces_that_cannot_be_split_are_refused_by_name() -> None:
    with pytest.raises(IncompatibleError, match=r"RandomGroups cannot be combined with LowRank.*'first\.weight'"):
        build(LowRank())
    with pytest.raises(IncompatibleError, match="RandomGroups cannot be combined with Masked: both mask"):
        build(Masked())
    for space in (LowRank(), Masked()):
        optimizer = build(space, granularity="tensor")
        optimizer.step(optimizer.model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stds": (1.0, 0.0)}, r"stds must be two positive numbers, got \(1.0, 0.0\)"),
        ({"stds": (1.0,)}, "stds must be two positive numbers"),
        ({"granularity": "row"}, r"Unknown granularity 'row'.*Available: element, tensor"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RandomGroups(**options)
