"""What a method leaves alone, what it says, and what it refuses."""

import logging
import random
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, LinearLR

from foretune.errors import NonFiniteLossError, UsageError
from foretune.methods import METHODS, AbstractMethod, optimizer_class
from foretune.optimizer import MAX_BAD_STEPS
from promised import build, run
from toys import Toys, differing_bits, weights_of


def test_the_global_random_state_is_untouched(recipe: type[AbstractMethod], toys: Toys) -> None:
    model = toys.net()
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    run(build(recipe, model), model, 4)
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(x, y) for x, y in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


def test_results_do_not_depend_on_the_global_random_state(recipe: type[AbstractMethod], toys: Toys) -> None:
    results = []
    for seed in (0, 1):
        model = toys.net()
        torch.manual_seed(seed)
        run(build(recipe, model), model, 4)
        results.append(weights_of(model))
    assert differing_bits(*results) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_model_keeps_its_form(recipe: type[AbstractMethod], toys: Toys, dtype: torch.dtype) -> None:
    """Frozen tensors keep their bits; dtypes, flags, modes and hooks are as before; there is no `.grad`."""
    model = toys.net(dtype).train()
    model.norm.eval()
    before = weights_of(model)
    identities = {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()}
    run(build(recipe, model), model, 4)
    after = weights_of(model)
    changed = differing_bits(before, after)
    assert changed
    assert set(changed) <= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    assert identities == {name: (id(p), p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in (model, model.first, model.norm)] == [True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_learning_rate_of_zero_changes_no_bit(recipe: type[AbstractMethod], toys: Toys, dtype: torch.dtype) -> None:
    """Over two dozen steps, weights of -0.0 and the smallest numbers included."""
    model = toys.net(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.view(-1)[0] = -0.0
            parameter.view(-1)[1] = torch.finfo(dtype).smallest_normal / 4
    before = weights_of(model)
    run(build(recipe, model, lr=0.0), model, 24)
    assert differing_bits(before, weights_of(model)) == []


def test_the_schedule_reaches_the_update(recipe: type[AbstractMethod], toys: Toys) -> None:
    """A torch scheduler gives the bits of setting the rates by hand, and a rate of 0 keeps the weights."""
    model = toys.net()
    optimizer = build(recipe, model)
    base = optimizer.lr
    factors = [1.0, 0.0, 0.5, 0.25]
    scheduler = LambdaLR(optimizer, lambda step: factors[min(step, 3)])
    for factor in factors:
        before = weights_of(model)
        (record,) = run(optimizer, model, 1)
        scheduler.step()
        assert record.lr == base * factor
        assert bool(differing_bits(before, weights_of(model))) is (factor != 0)

    by_hand_model = toys.net()
    by_hand = build(recipe, by_hand_model)
    for factor in factors:
        by_hand.param_groups[0]["lr"] = base * factor
        run(by_hand, by_hand_model, 1)
    assert differing_bits(weights_of(model), weights_of(by_hand_model)) == []


def test_warmup_reaches_the_update(recipe: type[AbstractMethod], toys: Toys) -> None:
    model = toys.net()
    optimizer = build(recipe, model)
    base = optimizer.lr
    scheduler = LinearLR(optimizer, start_factor=0.5, total_iters=2)
    rates = []
    for _ in range(4):
        rates.append(run(optimizer, model, 1)[0].lr)
        scheduler.step()
    assert rates == pytest.approx([0.5 * base, 0.75 * base, base, base])


def test_state_is_as_declared(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Bytes of state once every tensor has moved, before and after a checkpoint."""
    model = toys.net()
    optimizer = build(recipe, model)
    run(optimizer, model, 8)
    tensors = [tensor for state in optimizer.tensor_states.values() for tensor in state.tensors.values()]
    assert sum(tensor.nbytes for tensor in tensors) == optimizer.state_bytes
    saved = [t for state in optimizer.state_dict()["state"].values() for t in state["tensors"].values()]
    assert sum(tensor.nbytes for tensor in saved) == optimizer.state_bytes


def test_unknown_options_are_refused(recipe: type[AbstractMethod], toys: Toys) -> None:
    for field in fields(recipe):
        with pytest.raises(UsageError, match=rf"has no option '{field.name}x'\. Did you mean: .*{field.name}"):
            optimizer_class(recipe)(toys.net(), **{f"{field.name}x": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_losses_move_nothing_and_end_the_run(
    recipe: type[AbstractMethod], toys: Toys, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    model = toys.net()
    optimizer = build(recipe, model)
    before = weights_of(model)
    with caplog.at_level(logging.WARNING):
        records = run(optimizer, lambda: model() * value, MAX_BAD_STEPS - 1)
        assert "Non-finite loss at step 0" in caplog.text
        with pytest.raises(NonFiniteLossError, match=f"{value} at step 9, the 10th step in a row"):
            optimizer.step(lambda: model() * value)
    assert all(not record.accepted and set(record.scalars) == {0.0} for record in records)
    assert differing_bits(before, weights_of(model)) == []
    assert all(t.isfinite().all() for s in optimizer.tensor_states.values() for t in s.tensors.values())


def test_any_closure_will_do(recipe: type[AbstractMethod], toys: Toys) -> None:
    """A number instead of a tensor gives the same bits, and the loss that was measured comes back."""
    results = []
    for closure_of in (lambda model: model, lambda model: lambda: model().item()):
        model = toys.regression()
        optimizer = build(recipe, model)
        loss = optimizer.step(closure_of(model))
        assert loss.dtype == torch.float64
        assert loss.item() == optimizer.last_record.loss
        results.append(weights_of(model))
    assert differing_bits(*results) == []


def test_exceptions_name_promises_there_are() -> None:
    """An exception that no test reads would excuse nothing, and hide that."""
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    promises = {name for source in sources for name in re.findall(r"^def test_(\w+)\(\s*recipe", source, re.M)}
    assert len(promises) > 15
    for name in METHODS:
        assert METHODS.get(name).exceptions.keys() <= promises
