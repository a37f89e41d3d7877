"""One watched forward: what it finds beyond the zoo's verdicts, and that it leaves no trace."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine_runs import MINUS, PLUS, Shift, bits, loss_of_moved_copy, measure, num_hooks
from foretune.engine import choose_engine
from foretune.engine.audit import find_obstacle
from foretune.engine.layerwise import Layerwise
from foretune.engine.scratch import ScratchStack
from foretune.errors import IncompatibleError
from foretune.parameters import collect_trainables
from model_zoo import (
    HIDDEN,
    LooksAtMetadata,
    ReadsElsewhere,
    Shared,
    Stack,
    TakesFromChild,
    alias_closure,
    data_closure,
    opt,
)


def obstacle_of(model: nn.Module, closure, **kwargs) -> str | None:
    engine = Layerwise(model, collect_trainables(model))
    with engine.session():
        return find_obstacle(engine, closure, **kwargs)


class Counted:
    """A closure that counts its calls."""

    def __init__(self, closure) -> None:
        self.closure, self.calls = closure, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.closure()


@pytest.mark.parametrize(("name", "calls"), [("auto", 1), ("layerwise", 1), ("in_place", 0)])
def test_the_closure_is_called_once_or_not_at_all(name, calls) -> None:
    model = Stack(1)
    closure = Counted(data_closure(model))
    assert choose_engine(name, model, collect_trainables(model), closure).name == name.replace("auto", "layerwise")
    assert closure.calls == calls


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: ReadsElsewhere("function"), "'child.weight' is read outside the module that owns it"),
        (lambda: Shared(3), "module 'layer' is called 3 times per evaluation"),
        (lambda: TakesFromChild(True), "module 'table' returns its own weight"),
        (
            lambda: torch.jit.script(nn.Linear(HIDDEN, 1)),
            "the model (RecursiveScriptModule) is compiled or scripted",
        ),
        (lambda: torch.compile(Stack(1)), "the model (OptimizedModule) is compiled or scripted"),
        (
            lambda: nn.Sequential(torch.jit.script(nn.Linear(HIDDEN, 1))),
            "'0' (RecursiveScriptModule) is compiled or scripted",
        ),
    ],
)
def test_layerwise_by_force_is_refused_with_the_reason(build, reason, caplog) -> None:
    model = build()

    def closure() -> Tensor:
        assert not isinstance(model, torch._dynamo.OptimizedModule), "a compiled model is not run by the rule"
        return data_closure(model)().mean()

    trainables = collect_trainables(model)
    with pytest.raises(IncompatibleError) as raised:
        choose_engine("layerwise", model, trainables, closure)
    assert reason in str(raised.value)
    with caplog.at_level(logging.WARNING):
        assert choose_engine("auto", model, trainables, closure).name == "in_place"
    assert reason in caplog.text
    assert num_hooks(model) == 0


def test_micro_batches_allow_as_many_calls_each() -> None:
    model = Shared(2)
    one = data_closure(model)

    def three() -> Tensor:
        return one() + one() + one()

    assert obstacle_of(model, three) == "module 'layer' is called 6 times per evaluation"
    assert obstacle_of(model, three, num_micro_batches=3) is None
    assert choose_engine("auto", model, collect_trainables(model), three).name == "in_place"
    three.num_micro_batches = 3
    assert choose_engine("auto", model, collect_trainables(model), three).name == "layerwise"


def test_a_compiled_function_that_runs_modules() -> None:
    """What is compiled keeps the hooks it was traced with: layerwise would measure a stale perturbation."""
    model = Stack(1)
    inner = data_closure(model)
    compiled = torch.compile(inner, backend="eager")
    assert obstacle_of(model, compiled).startswith("module 'layers.0.0' (and 2 more) is run by a compiled function")
    engine = choose_engine("auto", model, collect_trainables(model), compiled)
    for shift in (Shift(PLUS), Shift(MINUS), Shift(PLUS)):
        assert measure(engine, compiled, shift) == pytest.approx(
            loss_of_moved_copy(model, data_closure, shift), rel=1e-6
        )
    elementwise = torch.compile(torch.square, backend="eager")
    assert obstacle_of(model, lambda: elementwise(inner())) is None


@pytest.mark.parametrize(
    "context",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_verdict_does_not_depend_on_the_callers_mode(context) -> None:
    for model, verdict in (
        (Stack(1), None),
        (ReadsElsewhere("alias"), "'child.weight' is read outside the module that owns it"),
    ):
        closure = alias_closure(model) if verdict else data_closure(model)
        with context():
            assert obstacle_of(model, closure) == verdict


def test_asking_for_shape_dtype_and_device_is_no_read() -> None:
    model = LooksAtMetadata()
    assert obstacle_of(model, data_closure(model)) is None


def test_frozen_tensors_may_be_read_anywhere() -> None:
    model = ReadsElsewhere("function")
    model.child.weight.requires_grad_(False)
    assert obstacle_of(model, data_closure(model)) is None


def test_a_closure_that_reads_a_weight_itself() -> None:
    model = Stack(1)
    inner = data_closure(model)
    assert obstacle_of(model, lambda: inner() + 0.1 * model.layers[0][1].weight.square().sum()) is not None
    assert obstacle_of(model, lambda: functional.mse_loss(inner(), torch.zeros(()))) is None


def test_neighbours_in_one_storage_are_told_apart() -> None:
    """A flat buffer holds a trainable and a frozen tensor: reading the frozen one is no read of the other."""
    flat = torch.randn(2 * HIDDEN)
    model = nn.Module()
    model.layer = nn.Linear(HIDDEN, 1, bias=False)
    model.layer.weight = nn.Parameter(flat[:HIDDEN].view(1, HIDDEN))
    model.frozen = nn.Parameter(flat[HIDDEN:], requires_grad=False)
    model.forward = lambda x: (model.layer(x) * model.frozen).mean()
    assert obstacle_of(model, data_closure(model)) is None
    model.forward = lambda x: (model.layer(x) * flat[HIDDEN - 1]).mean()
    assert obstacle_of(model, data_closure(model)) == "'layer.weight' is read outside the module that owns it"


def test_a_hook_that_makes_the_weight_from_others() -> None:
    """As torch's weight_norm does: before the engine's own hook, from the true tensors."""
    model = nn.Sequential(nn.Linear(HIDDEN, 4))
    length, shape = nn.Parameter(torch.ones(4, 1)), nn.Parameter(model[0].weight.detach().clone())
    del model[0].weight
    model[0].length, model[0].shape = length, shape

    def compute(module: nn.Module, args: object) -> None:
        module.weight = module.shape * (module.length / module.shape.norm(dim=1, keepdim=True))

    model[0].register_forward_pre_hook(compute)
    model.eval()

    def closure_of(some: nn.Module):
        x = torch.ones(2, HIDDEN)
        return lambda: some(x).square().mean()

    closure = closure_of(model)
    with torch.no_grad():
        closure()
    assert obstacle_of(model, closure) == "'0.length' (and 1 more) is read outside the module that owns it"
    engine = choose_engine("auto", model, collect_trainables(model), closure)
    with torch.no_grad():
        closure()  # the derived weight is no leaf of its own any more: deepcopy wants it made without a graph
    wanted = [loss_of_moved_copy(model, closure_of, shift) for shift in (Shift(PLUS), Shift(MINUS))]
    assert [measure(engine, closure, shift) for shift in (Shift(PLUS), Shift(MINUS))] == wanted


def test_a_parametrized_weight_is_perturbed_where_it_is_made() -> None:
    model = nn.Sequential(nn.Linear(HIDDEN, 4))
    nn.utils.parametrizations.weight_norm(model[0])

    def closure_of(some: nn.Module):
        x = torch.ones(2, HIDDEN)
        return lambda: some(x).square().mean()

    trainables = collect_trainables(model)
    assert len(trainables) == 3
    engine = choose_engine("auto", model, trainables, closure_of(model))
    assert engine.name == "layerwise"
    found = measure(engine, closure_of(model), Shift(PLUS))
    assert found == pytest.approx(loss_of_moved_copy(model, closure_of, Shift(PLUS)), rel=1e-6)


def test_a_model_that_holds_tensors_but_never_runs() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(HIDDEN, 1)})
    assert obstacle_of(model, lambda: model["layer"](torch.ones(1, HIDDEN)).sum()) is None
    table = nn.ParameterDict({"weight": nn.Parameter(torch.ones(HIDDEN))})
    closure = lambda: (table["weight"] * torch.arange(HIDDEN)).sum()  # noqa: E731
    assert obstacle_of(table, closure) == "'weight' is read outside the module that owns it"


def test_an_error_in_the_audit_leaves_no_trace() -> None:
    model = opt()
    before = bits(model)

    def closure() -> Tensor:
        with model.lm_head.register_forward_pre_hook(lambda *args: 1 / 0):
            return model(input_ids=torch.tensor([[4, 5]])).logits.sum()

    with pytest.raises(ZeroDivisionError):
        choose_engine("auto", model, collect_trainables(model), closure)
    assert bits(model) == before
    assert num_hooks(model) == 0
    assert "data_ptr" not in vars(nn.Parameter)
    assert all(module.training for module in model.modules())


def test_of_an_embedding_only_the_rows_that_are_looked_up_are_written(monkeypatch) -> None:
    written = []
    push = ScratchStack.push

    def pushed(self: ScratchStack, like: Tensor) -> Tensor:
        written.append(push(self, like).fill_(torch.nan))
        return written[-1]

    monkeypatch.setattr(ScratchStack, "push", pushed)
    model = nn.Embedding(6, 3)
    assert obstacle_of(model, lambda: model(torch.tensor([4, 1, 4])).sum()) is None
    rows = torch.tensor([1, 4])
    assert torch.equal(written[0][rows], model.weight[rows])
    assert torch.isnan(written[0][torch.tensor([0, 2, 3, 5])]).all()
