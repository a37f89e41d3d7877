"""The engine that never modifies a weight: rows, nesting, errors that a closure swallows, and memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from engine_runs import MINUS, PLUS, SEVERAL, Shift, bits, loss_of_moved_copy, measure, num_hooks
from foretune.engine.layerwise import Layerwise
from foretune.parameters import collect_trainables
from foretune.types import Trainable
from model_zoo import (
    HIDDEN,
    VOCABULARY,
    Embeddings,
    Nested,
    Shared,
    Stack,
    causal_closure,
    data_closure,
    mixtral,
    opt,
    token_closure,
)


def make(model: nn.Module) -> Layerwise:
    return Layerwise(model, collect_trainables(model))


def bytes_of(trainables: Sequence[Trainable]) -> int:
    return sum(trainable.parameter.nbytes for trainable in trainables)


@pytest.mark.parametrize("terms", [PLUS, MINUS, SEVERAL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32], ids=str)
def test_an_embedding_perturbs_just_the_rows_it_looks_up(terms, dtype, index_dtype) -> None:
    model = Embeddings(dtype, index_dtype)
    engine, shift = make(model), Shift(terms)
    found = measure(engine, token_closure(model), shift)
    assert shift.written == [
        ("head.weight", [0, 4, 9, 21, 39]),  # looked up, each row once
        ("positions.weight", None),  # by keyword: the whole table
        ("head.weight", None),  # the tied head
    ]
    assert found == loss_of_moved_copy(model, token_closure, Shift(terms))
    # and the same with whole tables throughout
    for table in (model.words, model.positions):
        table.forward = functools.partial(nn.Embedding.forward, table)
    whole = Shift(terms)
    assert measure(make(model), token_closure(model), whole) == found
    assert all(rows is None for _, rows in whole.written)


def test_true_weights_are_never_written() -> None:
    model = opt()
    engine, before = make(model), bits(model)
    aliases = {name: parameter.data for name, parameter in model.named_parameters()}
    seen = []

    def look(module: nn.Module, args: object) -> None:
        for name, alias in aliases.items():
            assert alias.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == before[name]
        seen.append(module)

    handles = [module.register_forward_pre_hook(look) for module in model.modules()]
    pointers = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    measure(engine, causal_closure(model), Shift(PLUS))
    assert len(seen) > 20
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == pointers
    for handle in handles:
        handle.remove()


def test_a_tensor_that_is_open_is_not_perturbed_again() -> None:
    model, shift = Nested(), Shift(PLUS)
    assert measure(make(model), data_closure(model), shift) == loss_of_moved_copy(model, data_closure, Shift(PLUS))
    assert sorted(name for name, _ in shift.written) == ["bias", "child.weight", "norm.weight", "scale"]


def test_a_module_called_twice_is_perturbed_alike() -> None:
    model, shift = Shared(2), Shift(PLUS)
    assert measure(make(model), data_closure(model), shift) == loss_of_moved_copy(model, data_closure, Shift(PLUS))
    assert len(shift.written) == 4


class Recursive(nn.Module):
    """Calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(HIDDEN, HIDDEN))

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = (x @ self.weight).tanh()
        x = self(x, depth - 1) if depth else x
        return (x @ self.weight).mean(dim=-1, keepdim=True) + x


def test_a_module_that_calls_itself() -> None:
    model, shift = Recursive(), Shift(PLUS)

    def closure_of(some: nn.Module):
        inner = data_closure(some)
        return lambda: inner().square().mean()

    assert measure(make(model), closure_of(model), shift) == loss_of_moved_copy(model, closure_of, Shift(PLUS))
    assert len(shift.written) == 1


def test_experts_that_are_not_reached_cost_nothing_and_those_that_are_agree() -> None:
    model, shift = mixtral(), Shift(PLUS)
    measure(make(model), causal_closure(model), shift)
    assert sum("experts" in name for name, _ in shift.written) == 4  # two tensors of each of two layers, once


# ---------------------------------------------------------------- errors that a closure catches


def first_time(action):
    """A hook that acts at its first call only."""
    calls = []

    def hook(*args: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            action()

    return hook


def fail() -> None:
    raise RuntimeError("once")


@pytest.mark.parametrize("place", ["layers.0", "layers.0.1", "layers.1.3", "layers.1"])
@pytest.mark.parametrize("moment", ["before", "before ours", "after"])
def test_a_closure_that_swallows_an_error_and_tries_again(place, moment) -> None:
    model = Stack(2)
    inner, before, module = data_closure(model), bits(model), model.get_submodule(place)

    def closure() -> Tensor:
        try:
            return inner()
        except RuntimeError:
            return inner()

    engine = make(model)
    with engine.session():
        if moment == "after":
            handle = module.register_forward_hook(first_time(fail))
        else:
            # prepended, it raises before the engine's own pre-hook has opened anything for this module
            handle = module.register_forward_pre_hook(first_time(fail), prepend=moment == "before ours")
        found = engine.loss(closure, Shift(PLUS))
        handle.remove()
        assert found == loss_of_moved_copy_without_hooks(model)
        assert engine.open_parameters() == []
    assert bits(model) == before


def loss_of_moved_copy_without_hooks(model: nn.Module) -> float:
    fresh = Stack(2)
    fresh.load_state_dict(model.state_dict())
    return loss_of_moved_copy(fresh, data_closure, Shift(PLUS))


class Careful(nn.Module):
    """Owns a tensor, and goes on when its child fails."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(HIDDEN, HIDDEN)
        self.scale = nn.Parameter(torch.randn(HIDDEN))

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.child(x)
        except RuntimeError:
            x = x + 1
        return (x * self.scale).square().mean()


def test_a_child_that_fails_before_it_opened_leaves_its_caller_open() -> None:
    model = Careful()
    engine, before = make(model), bits(model)
    failing = Careful()
    failing.load_state_dict(model.state_dict())
    failing.child.register_forward_pre_hook(lambda *args: fail())
    with engine.session(), model.child.register_forward_pre_hook(lambda *args: fail(), prepend=True):
        found = engine.loss(data_closure(model), Shift(PLUS))
    assert found == loss_of_moved_copy(failing, data_closure, Shift(PLUS))
    assert bits(model) == before


class FailingShift(Shift):
    """Fails while it writes one tensor."""

    def write(self, trainable, **kwargs) -> None:
        super().write(trainable, **kwargs)
        if trainable.name == "layers.1.1.bias":
            fail()


def test_a_perturbation_that_fails_while_it_writes() -> None:
    model = Stack(2)
    engine, before = make(model), bits(model)
    with engine.session():
        with pytest.raises(RuntimeError, match="once"):
            engine.loss(data_closure(model), FailingShift(PLUS))
        assert bits(model) == before
        kept = engine.scratch_bytes
        wanted = loss_of_moved_copy_without_hooks(model)
        for _ in range(3):
            assert engine.loss(data_closure(model), Shift(PLUS)) == wanted
        assert engine.scratch_bytes <= max(kept, 4 * (64 * HIDDEN + 64))


# ---------------------------------------------------------------- hooks and memory


def test_hooks_are_there_during_a_session_only() -> None:
    model = opt()
    engine = make(model)
    with engine.session():
        assert num_hooks(model) == 2 * len(engine.owners)
    assert num_hooks(model) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_layers", [1, 8])
def test_scratch_is_that_of_the_largest_module(dtype, num_layers) -> None:
    model = Stack(num_layers, dtype)
    engine = make(model)
    with engine.session():
        for shift in (Shift(PLUS), Shift(MINUS)):
            engine.loss(data_closure(model), shift)
    # the linear layers: a weight of 64 x HIDDEN and a bias, however many layers there are
    assert engine.scratch_bytes - bytes_of(engine.held) == dtype.itemsize * (64 * HIDDEN + 64)


def test_scratch_does_not_grow_when_evaluations_are_interrupted() -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    model = Stack(1)
    engine = make(model)
    for _ in range(4):
        with model.layers[0][1].register_forward_hook(stop), pytest.raises(KeyboardInterrupt):
            measure(engine, data_closure(model), Shift(PLUS))
    for _ in range(3):
        measure(engine, data_closure(model), Shift(PLUS))
    assert engine.scratch_bytes == 4 * (64 * HIDDEN + 64)


def test_scratch_of_nested_owners_is_their_sum() -> None:
    model = opt()
    engine = make(model)
    for _ in range(2):
        measure(engine, causal_closure(model), Shift(PLUS))
    # the tied table, in the head
    assert engine.scratch_bytes - bytes_of(engine.held) == 4 * VOCABULARY * HIDDEN

    nested = Nested()
    engine = make(nested)
    for _ in range(2):
        measure(engine, data_closure(nested), Shift(PLUS))
    assert engine.scratch_bytes == 4 * (HIDDEN + HIDDEN + HIDDEN * HIDDEN)
