"""Every method with every schedule: they move, replay and resume, or are refused by name."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from foretune.composition import part_classes
from foretune.errors import IncompatibleError
from foretune.methods import AbstractMethod
from foretune.methods.base import ComposedMethod
from foretune.optimizer import Optimizer
from promised import run, state_of
from toys import TOYS, differing_bits, restore, weights_of

NUM_STEPS = 6
SETTINGS: dict[str, dict[str, Any]] = {
    "lora_blocks": {"steps_a": 1, "steps_b": 2},
    "magnitude_groups": {"bcd": True, "count_steps": 1, "half_steps": 1},
    "module_blocks": {"level": "linear"},
    "norm_scaled": {"interval": 2},
}
"""Settings with which everything a schedule does happens within a few steps."""
REFUSALS = {
    "magnitude_groups": r"MagnitudeGroups cannot be combined with \w+(: it moves rows|, which tries steps)",
    "random_groups": r"RandomGroups cannot be combined with \w+: (it splits|both mask)|HessianScaled .* RandomGroups",
}
"""Schedules that refuse some methods, and what they say."""


def build(recipe: type[AbstractMethod], schedule: str, **options: Any) -> Optimizer:
    """Make it of the toy settings, also of those that the method's own schedule alone would use."""
    change: Mapping[str, Any] = {"name": schedule, **SETTINGS.get(schedule, {})}
    own = recipe(**{**recipe.toy.options, **options})
    method = ComposedMethod(lr=own.lr, method=own, changes={"schedule": change})
    return Optimizer(TOYS["lora"].net(), **method.optimizer_arguments())


@pytest.mark.parametrize("schedule", part_classes("schedule"))
def test_a_pair_moves_replays_and_resumes(recipe: type[AbstractMethod], schedule: str) -> None:
    """All tensors move, records alone rebuild the bits, and a run that was cut goes on where it stood."""
    try:
        optimizer = build(recipe, schedule)
    except IncompatibleError as error:
        assert schedule in REFUSALS
        with pytest.raises(IncompatibleError, match=REFUSALS[schedule]):
            raise error
        return
    records, moved, checkpoints = [], set(), []
    for _ in range(NUM_STEPS):
        checkpoints.append((weights_of(optimizer.model), copy.deepcopy(optimizer.state_dict())))
        records += run(optimizer, optimizer.model, 1)
        moved |= set(differing_bits(checkpoints[-1][0], weights_of(optimizer.model)))
    assert moved == {name for name, parameter in optimizer.model.named_parameters() if parameter.requires_grad}
    tensors = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    assert sum(tensor.nbytes for tensor in tensors) == optimizer.state_bytes

    resumed = build(recipe, schedule, lr=123.0)
    weights, state = checkpoints[2]
    restore(resumed.model, weights)
    resumed.load_state_dict(state)
    run(resumed, resumed.model, NUM_STEPS - 2)
    replayed = build(recipe, schedule)
    for record in records:
        replayed.replay(record)
    for other in (resumed, replayed):
        assert differing_bits(state_of(optimizer), state_of(other)) == []
