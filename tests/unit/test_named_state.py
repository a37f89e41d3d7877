"""State by name: it finds its tensors in any order, and comes back with every bit."""

from __future__ import annotations

import torch

from foretune.named_state import load_named_state, named_state, state_bytes
from foretune.parameters import collect_trainables
from toys import Net, differing_bits, weights_of


def make(model: Net, *, is_reversed: bool = False) -> tuple[torch.optim.Optimizer, dict]:
    trainables = collect_trainables(model)
    parameters = [trainable.parameter for trainable in (reversed(trainables) if is_reversed else trainables)]
    names = {trainable.parameter: trainable.name for trainable in trainables}
    return torch.optim.Adam([{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.1}]), names


def step(model: Net, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model().backward()
    optimizer.step()


def test_what_was_saved_goes_on_with_the_same_bits():
    whole, first, second = Net(), Net(), Net()
    for model in (whole, first):
        optimizer, names = make(model)
        for _ in range(2):
            step(model, optimizer)
        if model is whole:
            step(model, optimizer)
    state = named_state(optimizer, names)
    second.load_state_dict(first.state_dict())
    again, names = make(second)
    load_named_state(again, names, state)
    step(second, again)
    assert not differing_bits(weights_of(second), weights_of(whole))


def test_tensors_are_found_by_name_in_any_order():
    optimizer, names = make(model := Net())
    step(model, optimizer)
    saved = named_state(optimizer, names)["state"]
    assert set(saved) == set(names.values())
    other, names = make(Net(), is_reversed=True)
    load_named_state(other, names, named_state(optimizer, {**names, **_names(model)}))
    for parameter, kept in other.state.items():
        assert torch.equal(kept["exp_avg"], saved[names[parameter]]["tensors"]["exp_avg"])


def test_state_bytes_counts_tensors_and_counters():
    optimizer, names = make(model := Net())
    assert state_bytes(optimizer) == 0
    assert all(not saved["tensors"] for saved in named_state(optimizer, names)["state"].values())
    step(model, optimizer)
    tensors = sum(parameter.nbytes for parameter in names)
    assert state_bytes(optimizer) == 2 * tensors + 4 * len(names)


def _names(model: Net) -> dict:
    return {trainable.parameter: trainable.name for trainable in collect_trainables(model)}
