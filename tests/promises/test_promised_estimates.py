"""What is measured: along which direction, of which mean, and with the weights as they were afterwards."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from foretune import noise
from foretune.methods import AbstractMethod
from foretune.types import Member
from model_zoo import causal_closure, llama, with_adapter
from promised import build, build_descent, run
from toys import Quadratic, Toys, assert_mean, differing_bits, restore, weights_of

SHAPES = {"a": (3, 4), "b": (3,), "c": (2, 2, 2)}


def _kept(member: Member) -> Tensor:
    """Which entries of the tensor the member's mask lets move."""
    parameter = member.trainable.parameter
    return torch.ones(parameter.shape, dtype=torch.bool) if member.mask is None else noise.kept(member.mask, parameter)


def test_it_steps_along_what_it_measured(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Each step lies in the span of the shifts at which the closure saw the weights, also on refreshes.

    The shifts are those of all tensors jointly; a tensor's own learning-rate factor and its space's factor on
    the estimate are divided out first. Where the closure finds tangents on the weights, these are the shifts.
    """
    shapes = toys.named(SHAPES)
    model = Quadratic(shapes)
    optimizer = build_descent(recipe, model, lr=1e-3)
    for step in range(8):
        factors = {
            member.trainable.name: member.lr * optimizer.parts.space.estimate_scale(member.trainable)
            for block in optimizer.parts.schedule.blocks(step, optimizer.trainables, seed=optimizer.seed)
            for member in block.members
        }
        before = weights_of(model)
        seen: list[Tensor] = []

        def closure(seen: list[Tensor] = seen, before: dict[str, Tensor] = before) -> Tensor:
            seen.append(torch.cat([_shift_of(model.get_parameter(name), before[name]) for name in shapes]))
            return model()

        optimizer.step(closure)
        after = weights_of(model)
        change = torch.cat([((after[name] - before[name]) / factors.get(name, 1.0)).flatten() for name in shapes])
        shifts = torch.stack(seen)
        shifts = shifts[shifts.abs().sum(dim=1) > 0]
        outside = change - shifts.T @ torch.linalg.lstsq(shifts.T, change, rcond=1e-9, driver="gelsd").solution
        assert float(change.norm()) > 0
        assert float(outside.norm()) < 1e-8 * float(change.norm())


def _shift_of(parameter: nn.Parameter, before: Tensor) -> Tensor:
    tangent = forward_ad.unpack_dual(parameter).tangent
    return (parameter.detach() - before if tangent is None else tangent.clone()).flatten()


def test_its_mean_estimate_is_the_gradient(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Over fixed seeds, on a quadratic, within 5 standard errors, for what the first step moves.

    A tensor's own factors, ``lr * std^2`` on the entries that move, are divided out first.
    """
    shapes = toys.named({"a": (2, 3), "b": (2,)})
    model = Quadratic(shapes)
    start, lr = weights_of(model), 1e-6
    gradient = dict(zip(shapes, model.gradient().split([6, 2]), strict=True))
    estimates: dict[str, list[Tensor]] = {}
    for seed in range(250):
        restore(model, start)
        optimizer = build_descent(recipe, model, lr=lr, seed=seed)
        factors: dict[str, Tensor] = {}
        for block in optimizer.parts.schedule.blocks(0, optimizer.trainables, seed=seed):
            for member in block.members:
                factor = lr * member.lr * member.std**2 * _kept(member)
                factors[member.trainable.name] = factors.get(member.trainable.name, 0.0) + factor
        optimizer.step(model)
        for name, factor in factors.items():
            change = start[name] - dict(model.named_parameters())[name].detach()
            estimates.setdefault(name, []).append((change / factor).flatten())
    for name, samples in estimates.items():
        assert_mean(torch.stack(samples), gradient[name])


def test_weights_are_restored_after_an_estimate(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Bit for bit, by both plain engines, in every dtype (with a sequential schedule: those of the last block)."""
    for engine in ("layerwise", "in_place"):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            model = toys.net(dtype)
            optimizer = build(recipe, model, engine=engine)
            before = weights_of(model)
            optimizer.estimate(model)
            after = weights_of(model)
            if optimizer.parts.schedule.sequential:
                last = optimizer.parts.schedule.blocks(0, optimizer.trainables, seed=optimizer.seed)[-1]
                kept = {member.trainable.name: _kept(member) for member in last.members}
                before, after = ({name: saved[name][mask] for name, mask in kept.items()} for saved in (before, after))
            assert differing_bits(before, after) == []


def test_both_engines_give_the_same_records(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Float64: losses and scalars to 1e-9, over steps that use the weights so far."""
    records = []
    for engine in ("layerwise", "in_place"):
        model = toys.net(torch.float64)
        records.append(run(build(recipe, model, engine=engine), model, 8))
    for ours, theirs in zip(*records, strict=True):
        assert (ours.step, ours.lr, ours.zo_eps, ours.accepted) == (
            theirs.step,
            theirs.lr,
            theirs.zo_eps,
            theirs.accepted,
        )
        assert abs(ours.loss - theirs.loss) < 1e-9
        assert max(abs(a - b) for a, b in zip(ours.scalars, theirs.scalars, strict=True)) < 1e-9


def test_evaluating_together_gives_the_same_records(recipe: type[AbstractMethod]) -> None:
    """Float64: losses to 1e-9 and scalars to 1e-6, by the paired engine and by the default one."""
    if not recipe(**recipe.toy.options).parts().estimator.zo_eps:
        pytest.skip("there are no losses to evaluate together: the slope is exact")
    records = []
    for engine in ("layerwise", "paired"):
        model = (with_adapter(llama, "lora") if recipe.schemes[0] == "lora" else llama()).double()
        records.append(run(build(recipe, model, engine=engine), causal_closure(model), 4))
    for ours, theirs in zip(*records, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-9)
        assert ours.scalars == pytest.approx(theirs.scalars, rel=1e-6, abs=1e-9)
