"""The engine that writes into the weights: one clean copy, exact restoration, aliases included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine_runs import PLUS, Shift, bits, loss_of_moved_copy, measure
from foretune.engine.in_place import InPlace
from foretune.parameters import collect_trainables
from model_zoo import Stack, data_closure


def make(model: nn.Module) -> InPlace:
    return InPlace(model, collect_trainables(model))


def test_weights_keep_their_memory_and_their_bits() -> None:
    model = Stack(2)
    engine, before = make(model), bits(model)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    for _ in range(50):
        measure(engine, data_closure(model), Shift(PLUS))
    assert bits(model) == before
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers


def test_bits_that_no_arithmetic_would_keep() -> None:
    model = nn.Linear(4, 2)
    with torch.no_grad():
        values = torch.tensor([[-0.0, 1e-45, float("inf"), 1e38], [float("nan"), -1e-40, 1.0, 0.1]])
        model.weight.copy_(values)
        model.weight.view(torch.int32)[1, 0] = 0x7F800123  # a nan with a payload
    before = bits(model)
    measure(make(model), lambda: model(torch.ones(1, 4)).sum(), Shift(PLUS))
    assert bits(model) == before


def test_an_alias_sees_the_perturbed_weight_and_then_the_true_one() -> None:
    model = nn.Linear(4, 2)
    alias, before, seen = model.weight.detach(), model.weight.detach().clone(), []

    def closure() -> float:
        seen.append(alias.clone())
        return 0.0

    measure(make(model), closure, Shift(PLUS))
    assert not torch.equal(seen[0], before)
    assert torch.equal(alias, before)


def test_weights_that_a_step_moved_are_the_new_clean_ones() -> None:
    model = Stack(1)
    engine = make(model)
    measure(engine, data_closure(model), Shift(PLUS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
    moved = bits(model)
    assert measure(engine, data_closure(model), Shift(PLUS)) == loss_of_moved_copy(model, data_closure, Shift(PLUS))
    assert bits(model) == moved


def test_a_step_within_a_session_moves_the_clean_weights_too() -> None:
    model = Stack(1)
    engine = make(model)
    with engine.session():
        engine.loss(data_closure(model), Shift(PLUS))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.5
        moved = bits(model)
        wanted = loss_of_moved_copy(model, data_closure, Shift(PLUS))
        assert engine.loss(data_closure(model), Shift(PLUS)) == wanted
    assert bits(model) == moved


@pytest.mark.parametrize("only", [("layers.0.1.weight",), ("layers.0.0.bias", "layers.1.3.weight")])
def test_only_tensors_that_move_are_written(only) -> None:
    model = Stack(2)
    shift, before = Shift(PLUS, only=only), bits(model)
    changed = []

    def closure() -> float:
        now = bits(model)
        changed.append(sorted(name for name in before if now[name] != before[name]))
        return 0.0

    measure(make(model), closure, shift)
    assert changed == [sorted(only)]
    assert sorted(name for name, _ in shift.written) == sorted(only)


def test_a_weight_that_is_not_contiguous() -> None:
    model = nn.Linear(4, 3)
    model.weight = nn.Parameter(torch.randn(4, 3).t())
    before = model.weight.detach().clone()
    x = torch.ones(2, 4)

    def closure_of(some: nn.Module):
        return lambda: some(x).square().mean()

    found = measure(make(model), closure_of(model), Shift(PLUS))
    assert found == pytest.approx(loss_of_moved_copy(model, closure_of, Shift(PLUS)), rel=1e-6)
    assert torch.equal(model.weight, before)
    assert model.weight.stride() == (1, 3)
