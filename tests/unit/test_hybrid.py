"""Hybrid training against its two halves, each of which is known by itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import foretune
import model_zoo
from foretune import Hybrid
from foretune.errors import IncompatibleError, NonFiniteLossError, UsageError
from foretune.estimators import TwoSided
from foretune.parameters import collect_trainables
from foretune.schedules import ModuleBlocks
from model_zoo import causal_closure
from toys import differing_bits, weights_of

LAYERS = 6
MODELS = {
    "opt": lambda: model_zoo.opt(LAYERS),
    "untied": lambda: model_zoo.opt(LAYERS, tie_word_embeddings=False),
    "lora": lambda: model_zoo.with_adapter(lambda: model_zoo.opt(LAYERS), "lora"),
}


def zo(model: nn.Module) -> foretune.Optimizer:
    return foretune.MeZO(model, lr=1e-3, seed=5)


def sgd(tensors) -> torch.optim.Optimizer:
    return torch.optim.SGD([tensor.parameter for tensor in tensors], lr=1e-2)


def adam(tensors) -> torch.optim.Optimizer:
    return torch.optim.Adam([tensor.parameter for tensor in tensors], lr=1e-3)


def hybrid(model: nn.Module, layers: int, **parts) -> Hybrid:
    return Hybrid(model, hybrid_zo_layers=layers, **{"zo": zo, "fo": sgd, **parts})


def freeze(trainables) -> None:
    for trainable in trainables:
        trainable.parameter.requires_grad_(False)


def gradients(model: nn.Module, closure) -> dict[str, Tensor]:
    """Full autograd, without dropout."""
    model.eval()
    trainables = collect_trainables(model)
    found = torch.autograd.grad(closure(), [t.parameter for t in trainables], materialize_grads=True)
    model.train()
    return {trainable.name: gradient for trainable, gradient in zip(trainables, found, strict=True)}


# ---------------------------------------------------------------- methods.md 3.2, Accept


@pytest.mark.parametrize(("name", "deep"), [("lora", set()), ("opt", {"model.decoder.final_layer_norm"})])
def test_all_layers_shallow_is_zo_sgd_on_almost_everything(name, deep):
    """methods.md 3.2: K = L. With LoRA on everything; with full tuning on all but the last norm."""
    ours, theirs = MODELS[name](), MODELS[name]()
    optimizer = hybrid(ours, LAYERS, fo=lambda tensors: torch.optim.SGD([t.parameter for t in tensors], lr=0.0))
    left = {tensor.name for tensor in optimizer.deep}
    assert {tensor.rpartition(".")[0] for tensor in left} == deep
    freeze([tensor for tensor in collect_trainables(theirs) if tensor.name in left])
    alone = zo(theirs)
    for _ in range(3):
        losses = [opt.step(causal_closure(opt.model)).item() for opt in (optimizer, alone)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)  # at theta, or the mean of both sides
    assert not differing_bits(weights_of(ours), weights_of(theirs))


@pytest.mark.parametrize("fo", [sgd, adam])
@pytest.mark.parametrize("name", ["lora", "opt"])
def test_no_layer_shallow_is_first_order(name, fo):
    """methods.md 3.2: K = 0, no trainable embeddings."""
    ours, theirs = MODELS[name](), MODELS[name]()
    for model in (ours, theirs):
        freeze([tensor for tensor in collect_trainables(model) if "embed" in tensor.name or "lm_head" in tensor.name])
    optimizer, alone = hybrid(ours, 0, fo=fo), fo(collect_trainables(theirs))
    assert optimizer.zo is None
    assert optimizer.engine_name == "backpropagation"
    theirs.eval()
    for _ in range(3):
        alone.zero_grad()
        loss = causal_closure(theirs)()
        loss.backward()
        alone.step()
        assert float(optimizer.step(causal_closure(ours))) == loss.item()
    assert not differing_bits(weights_of(ours), weights_of(theirs))


@pytest.mark.parametrize("layers", [0, 1, 4, LAYERS])
@pytest.mark.parametrize("name", MODELS)
def test_the_deep_gradient_is_that_of_full_autograd(name, layers):
    """methods.md 3.2: to round-off."""
    model = MODELS[name]()
    truth = gradients(model, causal_closure(model))
    optimizer = hybrid(model, layers)
    optimizer.measure(causal_closure(model))
    for tensor in optimizer.deep:
        torch.testing.assert_close(tensor.parameter.grad, truth[tensor.name], rtol=1e-5, atol=1e-8)
    assert all(tensor.parameter.grad is None for tensor in optimizer.shallow)
    assert {tensor.name for tensor in (*optimizer.shallow, *optimizer.deep)} == set(truth)


def saved_bytes(optimizer: Hybrid, closure) -> int:
    """Memory that autograd holds when the backward pass begins, its peak; weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in optimizer.model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        optimizer.measure(closure)
    return sum(held.values())


@pytest.mark.parametrize("name", MODELS)
def test_the_peak_of_saved_tensors_falls_with_every_shallow_layer(name):
    """methods.md 3.2: monotonically with K; by a layer's share each."""
    peaks = []
    for layers in range(LAYERS + 1):
        model = MODELS[name]()
        peaks.append(saved_bytes(hybrid(model, layers), causal_closure(model)))
    assert all(deeper < shallower for shallower, deeper in pairwise(peaks)), peaks
    assert peaks[LAYERS] < peaks[0] / LAYERS


# ---------------------------------------------------------------- one step


def test_both_groups_move_from_the_same_weights():
    ours, theirs = MODELS["opt"](), MODELS["opt"]()
    optimizer = hybrid(ours, 3)
    start, gradient = weights_of(ours), gradients(ours, causal_closure(ours))
    optimizer.step(causal_closure(ours))
    shallow = {tensor.name for tensor in optimizer.shallow}
    freeze([tensor for tensor in collect_trainables(theirs) if tensor.name not in shallow])
    zo(theirs).step(causal_closure(theirs))
    moved, alone = weights_of(ours), weights_of(theirs)
    for name in moved:
        if name in shallow:
            assert torch.equal(moved[name], alone[name])
            assert not torch.equal(moved[name], start[name])
        elif name in gradient:  # what is not is the tied head's other name
            torch.testing.assert_close(moved[name], start[name] - 1e-2 * gradient[name], rtol=1e-5, atol=1e-7)


def test_a_step_is_three_forwards_without_dropout_and_one_backward():
    model = MODELS["opt"]()
    seen = []
    optimizer = hybrid(model, 3)
    closure = causal_closure(model)
    optimizer.step(closure)  # chooses the engine

    def watched() -> Tensor:
        loss = closure()
        seen.append((loss.requires_grad, any(module.training for module in model.modules())))
        return loss

    optimizer.step(watched)
    assert seen == [(False, False), (False, False), (True, False)]
    assert optimizer.engine_name == "layerwise and backpropagation"
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_terms_add_up_to_the_loss():
    whole, parts = MODELS["opt"](), MODELS["opt"]()
    first, second = hybrid(whole, 3), hybrid(parts, 3)
    loss = first.measure(causal_closure(whole))
    closure = causal_closure(parts)
    again = second.measure(closure, (closure() * share for share in (0.25, 0.75)))
    assert again == pytest.approx(loss, rel=1e-6)
    for a, b in zip(first.deep, second.deep, strict=True):
        torch.testing.assert_close(a.parameter.grad, b.parameter.grad, rtol=1e-4, atol=1e-7)


def test_the_loss_goes_down():
    model = MODELS["opt"]()
    optimizer = hybrid(model, 3, fo=adam)
    losses = [float(optimizer.step(causal_closure(model))) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.5


def test_schedulers_reach_both_rates_before_and_after_a_restore():
    optimizer = hybrid(MODELS["opt"](), 3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for rounds in range(1, 4):
        optimizer.step(causal_closure(optimizer.model))
        scheduler.step()
        assert optimizer.zo.lr == pytest.approx(1e-3 * 0.5**rounds)
        assert optimizer.fo.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**rounds)
        optimizer.load_state_dict(optimizer.state_dict())


def test_any_method_goes_with_any_optimizer():
    model = MODELS["opt"]()
    optimizer = hybrid(model, 3, zo=lambda model: foretune.LOZOM(model, lr=1e-4), fo=adam)
    optimizer.step(causal_closure(model))
    shapes = [tensor.parameter.numel() for tensor in optimizer.deep]
    assert optimizer.zo.state_bytes > 0
    assert optimizer.state_bytes == optimizer.zo.state_bytes + 4 * (2 * sum(shapes) + len(shapes))  # and a counter each
    assert {tensor.name for tensor in optimizer.zo.trainables} == {tensor.name for tensor in optimizer.shallow}


def test_any_module_with_layers_will_do():
    model = model_zoo.Stack(4)
    closure = model_zoo.data_closure(model)
    optimizer = hybrid(model, None, run=closure)
    assert {tensor.name.split(".")[1] for tensor in optimizer.shallow} == {"0", "1"}
    assert float(optimizer.step(closure)) > float(optimizer.step(closure))


# ---------------------------------------------------------------- state


def test_a_restored_optimizer_goes_on_bit_for_bit():
    def make() -> Hybrid:
        return hybrid(MODELS["opt"](), 3, zo=lambda model: foretune.LOZOM(model, lr=1e-4), fo=adam)

    whole, first, second = make(), make(), make()
    for _ in range(4):
        whole.step(causal_closure(whole.model))
    for _ in range(2):
        first.step(causal_closure(first.model))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step(causal_closure(second.model))
    assert second.num_steps == 4
    assert not differing_bits(weights_of(second.model), weights_of(whole.model))


def test_the_state_of_another_split_is_refused():
    state = hybrid(MODELS["opt"](), 3).state_dict()
    with pytest.raises(IncompatibleError, match="of another model, or of another hybrid_zo_layers"):
        hybrid(MODELS["opt"](), 2).load_state_dict(state)
    with pytest.raises(IncompatibleError, match="of another model"):
        hybrid(MODELS["lora"](), 3).load_state_dict(state)


# ---------------------------------------------------------------- what cannot work


@pytest.mark.parametrize("layers", [-1, LAYERS + 1])
def test_layers_out_of_range_name_how_many_there_are(layers):
    with pytest.raises(UsageError, match=f"hybrid_zo_layers must be from 0 to 6, .* got {layers}"):
        hybrid(MODELS["opt"](), layers)


def test_a_model_without_layers_is_refused():
    model = model_zoo.Embeddings()
    with pytest.raises(IncompatibleError, match="Embeddings has no layers to be parted at"):
        hybrid(model, 0, run=model_zoo.token_closure(model))


def test_a_schedule_that_moves_between_measurements_is_refused():
    def blocks(sequential: bool):
        return lambda model: foretune.Optimizer(
            model, estimator=TwoSided(), schedule=ModuleBlocks(sequential=sequential), lr=1e-3
        )

    with pytest.raises(IncompatibleError, match="ModuleBlocks moves blocks between their measurements"):
        hybrid(MODELS["opt"](), 3, zo=blocks(True))
    optimizer = hybrid(MODELS["opt"](), 3, zo=blocks(False))
    optimizer.step(causal_closure(optimizer.model))


def test_a_failed_measurement_leaves_the_model_as_it_was():
    model = MODELS["opt"]()
    optimizer, closure, before = hybrid(model, 3), causal_closure(model), weights_of(model)
    optimizer.measure(closure)

    def fails() -> Tensor:
        if torch.is_grad_enabled():
            raise KeyError("a bad batch")
        return closure()

    with pytest.raises(KeyError):
        optimizer.step(fails)
    with pytest.raises(UsageError, match=r"or a measure\(\) before it"):
        optimizer.step()
    with pytest.raises(UsageError, match="The loss has no gradient"):
        optimizer.step(lambda: closure().item())
    with pytest.raises(NonFiniteLossError, match=r"Loss is nan at step 0, .* rates \(0.001 and 0.01\)"):
        optimizer.step(lambda: closure() * float("nan"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert not differing_bits(weights_of(model), before)


def test_tensors_cannot_be_added():
    with pytest.raises(UsageError, match="cannot add tensors"):
        hybrid(MODELS["opt"](), 3).add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
