"""Slopes along tangents, by both engines, against the backward pass of autograd and differences of losses."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from engine_runs import PLUS, Shift, bits, interrupted_by_a_timer, loss_of_moved_copy, num_hooks
from foretune import noise
from foretune.engine.base import AbstractEngine
from foretune.engine.in_place import InPlace
from foretune.engine.layerwise import Layerwise
from foretune.errors import UsageError
from foretune.noise import Noise, Purpose
from foretune.objectives import ClassificationObjective, EncodedExample, find_tied_head
from foretune.parameters import collect_trainables
from foretune.types import Trainable
from model_zoo import (
    ZOO,
    Attention,
    Embeddings,
    Entry,
    Stack,
    causal_closure,
    data_closure,
    mixtral,
    opt,
    token_closure,
)
from toys import Net

ENGINES = pytest.mark.parametrize("engine_class", [Layerwise, InPlace], ids=lambda cls: cls.name)

NO_RULE = {
    "lstm": "mkldnn_rnn_layer",
    "reads_autograd_function": "jvp",
    "mixtral": "grouped_mm",
    "qwen2_moe": "grouped_mm",
}
"""Models that call an operator without a forward-mode rule, and a word of what torch says about it."""


class Velocity:
    """A standard normal tangent of every tensor, or only of some."""

    def __init__(self, only: frozenset[str] | None = None) -> None:
        self.only = only

    def moves(self, trainable: Trainable) -> bool:
        return self.only is None or trainable.name in self.only

    def write_tangent(self, trainable: Trainable, *, out: Tensor, rows: Tensor | None = None) -> None:
        if rows is None:
            out.copy_(self.of(trainable))
        else:
            out.fill_(torch.nan)  # nobody may read the others
            out[rows] = self.of(trainable)[rows]

    @staticmethod
    def of(trainable: Trainable) -> Tensor:
        return noise.fill(torch.empty_like(trainable.parameter.data), Noise(5, trainable.stream, Purpose.DIRECTION))


def slope_of(engine: AbstractEngine, closure, velocity: Velocity | None = None) -> tuple[float, float]:
    with engine.session():
        return engine.slope(closure, velocity or Velocity())


def gradients_of(model: nn.Module, closure) -> list[Tensor]:
    """The gradient of every trainable tensor by one backward pass, dropout off; zeros for what is not read."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # a backward pass would leave out its row, which does decide the loss
    parameters = [trainable.parameter for trainable in collect_trainables(model)]
    gradients = torch.autograd.grad(closure(), parameters, allow_unused=True, materialize_grads=True)
    for module, mode in training:
        module.training = mode
    return [gradient.double() for gradient in gradients]


def backward_slope(model: nn.Module, closure, velocity: Velocity) -> float:
    """<gradient, tangent> by one backward pass."""
    pairs = zip(collect_trainables(model), gradients_of(model, closure), strict=True)
    return float(sum((gradient * velocity.of(t).double()).sum() for t, gradient in pairs if velocity.moves(t)))


@pytest.mark.parametrize("entry", [e for e in ZOO if e.name not in NO_RULE], ids=lambda entry: entry.name)
def test_slopes_are_those_of_a_backward_pass(entry: Entry) -> None:
    """Every model of the zoo: tied tables, adapters, modules called twice, shared biases; all tensors and some."""
    model = entry.build()
    closure, trainables, before = entry.closure_of(model), collect_trainables(model), bits(model)
    engines = [InPlace(model, trainables)] + ([Layerwise(model, trainables)] if entry.engine == "layerwise" else [])
    for velocity in (Velocity(), Velocity(frozenset(t.name for t in trainables[::2]))):
        wanted = backward_slope(model, closure, velocity)
        clean = loss_of_moved_copy(model, entry.closure_of, None)
        for engine in engines:
            loss, slope = slope_of(engine, closure, velocity)
            assert loss == pytest.approx(clean, rel=1e-6)
            assert slope == pytest.approx(wanted, rel=1e-4, abs=1e-5)
            assert bits(model) == before
    assert num_hooks(model) == num_hooks(entry.build())
    assert all(parameter.requires_grad for parameter in (t.parameter for t in trainables))


@pytest.mark.parametrize("entry", [e for e in ZOO if e.name in NO_RULE], ids=lambda entry: entry.name)
def test_an_operator_without_a_rule_is_named(entry: Entry) -> None:
    model = entry.build()
    before = bits(model)
    with pytest.raises(UsageError, match=rf"cannot be differentiated in forward mode: .*{NO_RULE[entry.name]}"):
        slope_of(InPlace(model, collect_trainables(model)), entry.closure_of(model))
    assert bits(model) == before


@ENGINES
def test_mixtures_of_experts_in_their_plain_form(engine_class) -> None:
    model = mixtral()
    model.set_experts_implementation("eager")
    closure = causal_closure(model)
    engine = engine_class(model, collect_trainables(model))
    assert slope_of(engine, closure)[1] == pytest.approx(backward_slope(model, closure, Velocity()), rel=1e-4)


@ENGINES
def test_slopes_are_the_limit_of_differences(engine_class) -> None:
    """(L(theta + e z) - L(theta - e z)) / 2e differs by O(e^2): a tenth of e, a hundredth of the distance."""
    model = Net(torch.float64)
    engine, closure = engine_class(model, collect_trainables(model)), model
    with engine.session():
        loss, slope = engine.slope(closure, AlongZ())
        assert loss == engine.loss(closure, None)
        errors = []
        for zo_eps in (1e-3, 1e-4):
            plus, minus = (engine.loss(closure, Shift(((101, sign * zo_eps),))) for sign in (1, -1))
            errors.append(abs((plus - minus) / (2 * zo_eps) - slope))
    assert 0 < errors[0] < 1e-3 * abs(slope)
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.1)


class AlongZ(Velocity):
    """The direction of `Shift`s by key 101."""

    @staticmethod
    def of(trainable: Trainable) -> Tensor:
        return noise.fill(torch.empty_like(trainable.parameter.data), Noise(101, trainable.stream, Purpose.DIRECTION))


@ENGINES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(engine_class, dtype) -> None:
    """As precise as a backward pass in the same dtype: 3 standard deviations of the projection of its error."""
    model, precise = opt().to(dtype), opt()
    precise.load_state_dict(model.state_dict())
    exact, ours = (torch.cat([g.flatten() for g in gradients_of(m, causal_closure(m))]) for m in (precise, model))
    wanted = backward_slope(precise, causal_closure(precise), Velocity())
    slope = slope_of(engine_class(model, collect_trainables(model)), causal_closure(model))[1]
    assert abs(slope - wanted) <= 3 * float((ours - exact).norm())


@ENGINES
def test_only_rows_that_are_looked_up_are_asked_for(engine_class) -> None:
    model = Embeddings()
    asked = []

    class Watching(Velocity):
        def write_tangent(self, trainable, *, out, rows=None) -> None:
            asked.append((trainable.name, None if rows is None else rows.tolist()))
            super().write_tangent(trainable, out=out, rows=rows)

    slope_of(engine_class(model, collect_trainables(model)), token_closure(model), Watching())
    if engine_class is Layerwise:
        assert asked == [("head.weight", [0, 4, 9, 21, 39]), ("positions.weight", None), ("head.weight", None)]
    else:
        assert asked == [("head.weight", None), ("positions.weight", None)]


@ENGINES
@pytest.mark.parametrize("model_of", [Attention, lambda: Stack(1)], ids=["attention", "stack"])
def test_switches_and_modes_come_back(engine_class, model_of) -> None:
    model = model_of().train()
    slope_of(engine_class(model, collect_trainables(model)), data_closure(model))
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.is_grad_enabled()
    assert all(module.training for module in model.modules())
    data_closure(model)().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ---------------------------------------------------------------- interrupted evaluations


def no_tangent_is_left(model: nn.Module) -> bool:
    with forward_ad.dual_level():
        return all(forward_ad.unpack_dual(parameter).tangent is None for parameter in model.parameters())


@ENGINES
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, NotImplementedError])
@pytest.mark.parametrize("place", ["layers.0", "layers.1.1", "layers.1"])
@pytest.mark.parametrize("after", [False, True], ids=["entering", "leaving"])
def test_an_error_anywhere_leaves_weights_and_engine_intact(engine_class, error, place, after) -> None:
    model = Stack(2)
    closure, before = data_closure(model), bits(model)
    engine = engine_class(model, collect_trainables(model))

    def fail(*args: object) -> None:
        raise error("in the middle")

    module = model.get_submodule(place)
    register = module.register_forward_hook if after else module.register_forward_pre_hook
    with register(fail), pytest.raises(error, match="in the middle"):
        slope_of(engine, closure)
    assert bits(model) == before
    assert num_hooks(model) == 0
    assert no_tangent_is_left(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert slope_of(engine, closure)[1] == pytest.approx(
        backward_slope(model, closure, Velocity()),
        rel=1e-4,
        abs=1e-6,  # the slope of a random model may be near 0
    )
    with engine.session():
        assert engine.loss(closure, Shift(PLUS)) == loss_of_moved_copy(model, data_closure, Shift(PLUS))


@ENGINES
def test_ctrl_c_by_a_timer_at_random_moments(engine_class) -> None:
    model = Stack(3)
    closure, before = data_closure(model), bits(model)
    engine = engine_class(model, collect_trainables(model))
    wanted = slope_of(engine, closure)

    def check() -> None:
        assert engine.slope(closure, Velocity()) == wanted

    for _ in interrupted_by_a_timer(engine, check, count=40, longest=5e-3):
        assert bits(model) == before
        assert num_hooks(model) == 0
        assert no_tangent_is_left(model)
        assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------- the loss


def in_inference_mode(loss_of):
    with torch.inference_mode():
        return loss_of()


UNUSABLE = {
    "a float": lambda loss_of: loss_of().item(),
    "a float64": lambda loss_of: numpy.float64(1.5),
    "does not depend": lambda loss_of: loss_of().detach(),
    "differentiable operations": lambda loss_of: (loss_of() > 0).float(),
    "inference mode": in_inference_mode,
    "Return the loss itself": lambda loss_of: torch.tensor(loss_of().item()),
    "bfloat16 loss": lambda loss_of: loss_of().bfloat16(),
    "scalar loss": lambda loss_of: loss_of().expand(2),
}


@ENGINES
@pytest.mark.parametrize("message", UNUSABLE)
def test_a_loss_without_a_derivative_is_refused(engine_class, message) -> None:
    model = Stack(1)
    closure, before = data_closure(model), bits(model)
    engine = engine_class(model, collect_trainables(model))
    with pytest.raises(UsageError, match=message):
        slope_of(engine, lambda: UNUSABLE[message](closure))
    assert bits(model) == before
    assert no_tangent_is_left(model)


@ENGINES
def test_a_caller_in_inference_mode(engine_class) -> None:
    model = Stack(1)
    closure = data_closure(model)
    engine = engine_class(model, collect_trainables(model))
    wanted = slope_of(engine, closure)
    with torch.inference_mode():
        assert slope_of(engine, closure) == wanted
    assert not any(parameter.is_inference() for parameter in model.parameters())


@ENGINES
def test_casts_that_autocast_keeps_are_not_reused(engine_class) -> None:
    model = Stack(2)
    inner = data_closure(model)
    engine = engine_class(model, collect_trainables(model))
    with torch.autocast("cpu", torch.bfloat16):
        before = data_closure(model.eval())().item()
        slope = slope_of(engine, inner)[1]
        size = torch.cat([gradient.flatten() for gradient in gradients_of(model, inner)]).norm()
        assert slope == pytest.approx(backward_slope(model, inner, Velocity()), abs=0.02 * float(size))
        assert data_closure(model)().item() == before


def test_a_compiled_model_runs_uncompiled() -> None:
    model = Stack(1)
    compiled = torch.compile(model, backend="eager")
    engine = InPlace(compiled, collect_trainables(compiled))
    wanted = backward_slope(model, data_closure(model), Velocity())
    data_closure(compiled)()
    assert slope_of(engine, data_closure(compiled))[1] == pytest.approx(wanted, rel=1e-4)


@ENGINES
def test_the_tied_head_shortcut(engine_class) -> None:
    """The classification loss that looks candidates up as rows of the embedding table."""
    model = opt()
    tied = find_tied_head(model)
    assert tied is not None
    objective = ClassificationObjective(tied)
    rows = [EncodedExample(tuple((*c, w) for w in (5, 30)), (1, 1), (0,), "row") for c in ((4, 9, 17), (8, 4))]
    batch = objective.collate(rows)
    engine = engine_class(model, collect_trainables(model))
    wanted = backward_slope(model, lambda: ClassificationObjective().loss(model, batch), Velocity())
    for kind in (objective, ClassificationObjective()):
        assert slope_of(engine, lambda kind=kind: kind.loss(model, batch))[1] == pytest.approx(wanted, rel=1e-4)
