"""Every space with every update, also pairs that nobody has published: they work, or are refused by name."""

import pytest
import torch

from foretune.composition import part_class, part_classes
from foretune.directions import MomentumGuided
from foretune.errors import IncompatibleError
from foretune.estimators import TwoSided
from foretune.optimizer import Optimizer
from promised import run, state_of
from toys import Net, differing_bits, weights_of

NUM_STEPS = 5
DIRECTIONS = {"adamu": MomentumGuided(t1=1, t2=3, t3=5)}
"""For updates that need more of a direction than Gaussian noise."""
REFUSED: dict[tuple[str, str], str] = {}
"""Pairs of a space and an update that make no sense, and what the refusal says."""


def build(space: str, update: str, *, lr: float = 1e-3) -> Optimizer:
    return Optimizer(
        Net(),
        space=part_class("space", space)(),
        direction=DIRECTIONS.get(update),
        update=part_class("update", update)(),
        estimator=TwoSided(zo_eps=1e-3),
        lr=lr,
    )


@pytest.mark.parametrize("update", part_classes("update"))
@pytest.mark.parametrize("space", part_classes("space"))
def test_a_pair_moves_replays_and_resumes(space: str, update: str) -> None:
    """Weights move, state is as declared, records alone rebuild the bits, and a cut run goes on where it stood."""
    if (space, update) in REFUSED:
        with pytest.raises(IncompatibleError, match=REFUSED[space, update]):
            build(space, update)
        return
    optimizer = build(space, update)
    before = weights_of(optimizer.model)
    records = run(optimizer, optimizer.model, 2)
    weights, state = weights_of(optimizer.model), optimizer.state_dict()
    resumed = build(space, update, lr=123.0)
    resumed.model.load_state_dict(weights, strict=False)
    resumed.load_state_dict(state)
    records += run(optimizer, optimizer.model, NUM_STEPS - 2)

    tensors = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    assert sum(tensor.nbytes for tensor in tensors) == optimizer.state_bytes
    assert all(tensor.isfinite().all() for tensor in tensors)
    assert set(differing_bits(before, weights_of(optimizer.model))) >= {"first.weight", "head.weight"}

    run(resumed, resumed.model, NUM_STEPS - 2)
    assert differing_bits(state_of(optimizer), state_of(resumed)) == []
    replayed = build(space, update)
    for record in records:
        replayed.replay(record)
    assert differing_bits(state_of(optimizer), state_of(replayed)) == []


@pytest.mark.parametrize("update", part_classes("update"))
@pytest.mark.parametrize("space", part_classes("space"))
def test_a_learning_rate_of_zero_changes_no_bit(space: str, update: str) -> None:
    if (space, update) in REFUSED:
        pytest.skip(REFUSED[space, update])
    optimizer = build(space, update, lr=0.0)
    with torch.no_grad():
        optimizer.model.first.weight[0, 0] = -0.0
    before = weights_of(optimizer.model)
    run(optimizer, optimizer.model, NUM_STEPS)
    assert differing_bits(before, weights_of(optimizer.model)) == []
