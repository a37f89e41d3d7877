"""Small tensors are swapped once for a whole evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine_runs import MINUS, PLUS, Shift, bits, loss_of_moved_copy, measure, num_hooks
from foretune.engine.held import HELD_NUMEL, HELD_SHARE, choose_held
from foretune.engine.layerwise import Layerwise
from foretune.engine.paired import Paired
from foretune.parameters import collect_trainables

WIDTH = 96


class Normed(nn.Module):
    """Matrices and vectors, one of which the loss also reads outside of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
            for _ in range(12)
        )
        self.last = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return self.last(x) * self.last.bias.exp()


def closure_of(model: Normed):
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    return lambda: model(x).square().mean()


def make() -> Normed:
    torch.manual_seed(0)
    return Normed()


def vector_names(model: nn.Module) -> list[str]:
    return sorted(name for name, parameter in model.named_parameters() if parameter.dim() == 1)


def test_the_smallest_are_held_as_long_as_there_is_room() -> None:
    model = make()
    held = choose_held(model, collect_trainables(model))
    total = sum(parameter.nbytes for parameter in model.parameters())
    vectors = vector_names(model)
    assert len(held) == int(HELD_SHARE * total // (4 * WIDTH))
    assert [trainable.name for trainable in held] == vectors[: len(held)]
    assert 0 < len(held) < len(vectors)


def test_what_is_large_by_itself_is_not_held() -> None:
    small, large = (nn.Parameter(torch.empty(numel, dtype=torch.float16)) for numel in (HELD_NUMEL, HELD_NUMEL + 1))
    frozen = nn.Parameter(torch.empty(2000 * HELD_NUMEL, dtype=torch.uint8, device="meta"), requires_grad=False)
    model = nn.ParameterDict({"small": small, "large": large, "frozen": frozen})
    assert [held.name for held in choose_held(model, collect_trainables(model, shapes_only=True))] == ["small"]


@pytest.mark.parametrize("terms", [PLUS, MINUS])
def test_losses_are_those_of_a_copy_that_was_moved(terms, monkeypatch) -> None:
    monkeypatch.setattr("foretune.engine.held.HELD_SHARE", 1.0)
    monkeypatch.setattr("foretune.engine.held.HELD_NUMEL", WIDTH)
    model = make()
    engine, before, shift = Layerwise(model, collect_trainables(model)), bits(model), Shift(terms)
    assert [held.name for held in engine.held] == vector_names(model)
    for _ in range(2):
        assert measure(engine, closure_of(model), shift) == loss_of_moved_copy(model, closure_of, Shift(terms))
        assert bits(model) == before
    # first the held, once each, and then the layers as they run
    names = [name for name, _ in shift.written[: len(shift.written) // 2]]
    assert names[: len(engine.held)] == vector_names(model)
    assert len(names) == len(set(names)) == len(engine.trainables)


def test_some_that_do_not_move(monkeypatch) -> None:
    monkeypatch.setattr("foretune.engine.held.HELD_SHARE", 1.0)
    model = make()
    only = ["last.bias", "layers.3.1.bias", "layers.5.1.weight"]
    shift, oracle = Shift(PLUS, only), Shift(PLUS, only)
    engine = Layerwise(model, collect_trainables(model))
    assert measure(engine, closure_of(model), shift) == loss_of_moved_copy(model, closure_of, oracle)
    assert sorted(name for name, _ in shift.written) == only


def test_modules_that_own_nothing_else_get_no_hooks(monkeypatch) -> None:
    monkeypatch.setattr("foretune.engine.held.HELD_SHARE", 1.0)
    model = make()
    engine = Layerwise(model, collect_trainables(model))
    with engine.session():
        assert num_hooks(model) == 0
    monkeypatch.setattr("foretune.engine.held.HELD_NUMEL", WIDTH)
    engine = Layerwise(model, collect_trainables(model))
    with engine.session():
        assert num_hooks(model) == 2 * sum(isinstance(module, nn.Linear) for module in model.modules())
    assert num_hooks(model) == 0
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_true_weights_are_back_after_an_error(error, monkeypatch) -> None:
    monkeypatch.setattr("foretune.engine.held.HELD_SHARE", 1.0)
    model = make()
    engine, before = Layerwise(model, collect_trainables(model)), bits(model)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]

    def fail() -> Tensor:
        closure_of(model)()
        raise error

    with pytest.raises(error):
        measure(engine, fail, Shift(PLUS))
    assert bits(model) == before
    assert [parameter.data_ptr() for parameter in model.parameters()] == pointers


def test_a_perturbation_that_fails_while_it_writes_what_is_held(monkeypatch) -> None:
    monkeypatch.setattr("foretune.engine.held.HELD_SHARE", 1.0)
    model = make()
    engine, before = Layerwise(model, collect_trainables(model)), bits(model)

    class Failing(Shift):
        def write(self, trainable, **kwargs) -> None:
            super().write(trainable, **kwargs)
            if trainable.name == "layers.7.1.bias":
                raise ArithmeticError

    with pytest.raises(ArithmeticError):
        measure(engine, closure_of(model), Failing(PLUS))
    assert bits(model) == before


def test_a_model_may_change_its_dtype_between_evaluations(monkeypatch) -> None:
    monkeypatch.setattr("foretune.engine.held.HELD_SHARE", 1.0)
    model = make()
    engine = Layerwise(model, collect_trainables(model))
    measure(engine, closure_of(model), Shift(PLUS))
    model.double()
    x = torch.ones(2, WIDTH, dtype=torch.float64)
    assert measure(engine, lambda: model(x).square().mean(), Shift(PLUS)) == loss_of_moved_copy(
        model, lambda moved: lambda: moved(x).square().mean(), Shift(PLUS)
    )
    assert engine.scratch_bytes == 8 * sum(parameter.numel() for parameter in model.parameters())


def test_a_shared_forward_holds_nothing() -> None:
    model = make()
    assert Paired(model, collect_trainables(model)).held == ()
