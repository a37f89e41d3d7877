"""Directions divided by the norms of layers: which norms, what is estimated, and what a run remembers of them."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from foretune import MeZO, Optimizer
from foretune.errors import UsageError
from foretune.estimators import TwoSided
from foretune.methods import make_method
from foretune.schedules import NormScaled
from foretune.updates import SGD
from promised import run, state_of
from toys import Net, Quadratic, assert_mean, differing_bits, restore, weights_of

SHAPES = {"embed.weight": (3, 2), "layers.0.b": (2,), "layers.0.w": (2, 3), "layers.1.w": (2, 2), "head.weight": (1, 3)}
GROUPS = [["embed.weight"], ["head.weight"], ["layers.0.b", "layers.0.w"], ["layers.1.w"]]
FORMS = ("variance", "expectation")


def build(
    model: nn.Module, *, lr: float = 1e-3, seed: int = 0, weight_decay: float = 0.0, **options: object
) -> Optimizer:
    schedule, update = NormScaled(**options), SGD(weight_decay=weight_decay)
    return Optimizer(model, estimator=TwoSided(zo_eps=1e-3), update=update, schedule=schedule, lr=lr, seed=seed)


def group_norms(model: nn.Module, *, root_mean_square: bool = False) -> dict[str, float]:
    """c of each tensor."""
    found = {}
    for names in GROUPS:
        flat = torch.cat([model.get_parameter(name).detach().flatten() for name in names])
        size = float(flat.square().mean().sqrt() if root_mean_square else flat.square().sum().sqrt())
        found |= dict.fromkeys(names, size)
    return found


def norms_of(optimizer: Optimizer) -> dict[str, float]:
    return {t.name: float(state.tensors["group_norm"]) for t, state in optimizer.tensor_states.items()}


def change_of(model: nn.Module, before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("scales", [False, True])
def test_accept_c_is_the_norm_of_the_group(scales: bool) -> None:
    """Over the square root of its number of parameters, not of c, where that is asked for."""
    model = Quadratic(SHAPES)
    optimizer = build(model, scale_by_num_params=scales)
    expected = group_norms(model, root_mean_square=scales)
    optimizer.step(model)
    assert norms_of(optimizer) == pytest.approx(expected, rel=1e-12)


def test_a_group_of_zeros_is_perturbed_as_it_is() -> None:
    for scales in (False, True):
        model = Quadratic(SHAPES)
        with torch.no_grad():
            model.get_parameter("layers.1.w").zero_()
        optimizer = build(model, scale_by_num_params=scales)
        optimizer.step(model)
        assert norms_of(optimizer)["layers.1.w"] == 1.0


@pytest.mark.parametrize(("interval", "taken"), [(None, [0]), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4])])
def test_when_c_is_taken(interval: int | None, taken: list[int]) -> None:
    model = Quadratic(SHAPES)
    optimizer = build(model, lr=0.02, interval=interval)
    expected: dict[str, float] = {}
    for step in range(5):
        if step in taken:
            expected = group_norms(model)
        optimizer.step(model)
        assert norms_of(optimizer) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_step_on_a_linear_objective(form: str) -> None:
    """theta_l moves by -lr g c_l z_l or -lr g z_l with g = sum_l gradient_l^T z_l / c_l, z as MeZO has it."""
    weights = torch.randn(21, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def step(model: Quadratic, optimizer: Optimizer) -> dict[str, Tensor]:
        before = weights_of(model)
        optimizer.step(lambda: model.flat() @ weights)
        return change_of(model, before)

    plain = Quadratic(SHAPES)
    mezo = MeZO(plain, lr=1.0, seed=7, engine="in_place")
    moved = step(plain, mezo)
    z = {name: -change / mezo.last_record.scalars[0] for name, change in moved.items()}

    model = Quadratic(SHAPES)
    c = group_norms(model)
    found = step(model, build(model, lr=0.25, seed=7, form=form))
    gradient = dict(zip(sorted(SHAPES), weights.split([math.prod(SHAPES[n]) for n in sorted(SHAPES)]), strict=True))
    g = sum(float(gradient[name] @ z[name].flatten()) / c[name] for name in SHAPES)
    for name in SHAPES:
        expected = -0.25 * g * z[name] * (c[name] if form == "variance" else 1.0)
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_accept_the_mean_estimate_is_the_gradient_or_over_c(form: str) -> None:
    """Variance: the gradient of every group. Expectation: divided by its c. Over fixed seeds, within 5 errors."""
    model = Quadratic(SHAPES)
    start, c, sizes = weights_of(model), group_norms(model), [math.prod(SHAPES[name]) for name in sorted(SHAPES)]
    assert max(c.values()) > 1.5 * min(c.values())
    gradient = dict(zip(sorted(SHAPES), model.gradient().split(sizes), strict=True))
    estimates = []
    for seed in range(300):
        optimizer = build(model, form=form, seed=seed)
        optimizer.estimate(model)
        estimates.append({t.name: estimate.flatten() for t, estimate in optimizer.gradient_estimates()})
    assert differing_bits(start, weights_of(model)) == []
    for name in SHAPES:
        truth = gradient[name] / (1.0 if form == "variance" else c[name])
        assert_mean(torch.stack([estimate[name] for estimate in estimates]), truth)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_accept_c_of_1_is_mezo(form: str, dtype: torch.dtype) -> None:
    """Bit for bit: all weights are 1 or -1 and c their root mean square."""
    models = [Net(dtype), Net(dtype)]
    for model in models:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.where(parameter < 0, -1.0, 1.0))
    ours = build(models[0], form=form, lr=0.05, weight_decay=0.1, scale_by_num_params=True)
    theirs = MeZO(models[1], lr=0.05, weight_decay=0.1)
    assert run(ours, models[0], 5) == run(theirs, models[1], 5)
    assert differing_bits(*map(weights_of, models)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_accept_runs_replay_and_resume(dtype: torch.dtype) -> None:
    """Bit for bit, cut at a step that takes c anew and at one that does not; nothing more is journalled."""

    def fresh() -> Optimizer:
        return build(Net(dtype), lr=0.02, interval=2, seed=5)

    optimizer, checkpoints, records = fresh(), [], []
    for _ in range(6):
        checkpoints.append((weights_of(optimizer.model), copy.deepcopy(optimizer.state_dict())))
        records += run(optimizer, optimizer.model, 1)
    assert {(len(record.scalars), record.observation) for record in records} == {(1, b"")}
    replayed = fresh()
    for record in records:
        replayed.replay(record)
    assert differing_bits(state_of(optimizer), state_of(replayed)) == []
    for num_done in (2, 3):
        resumed = fresh()
        weights, state = checkpoints[num_done]
        restore(resumed.model, weights)
        resumed.load_state_dict(state)
        run(resumed, resumed.model, 6 - num_done)
        assert differing_bits(state_of(optimizer), state_of(resumed)) == []


@pytest.mark.parametrize("form", FORMS)
def test_weight_decay_is_not_scaled(form: str) -> None:
    model = Net(torch.float64)
    before = weights_of(model)
    optimizer = build(model, form=form, lr=0.1, weight_decay=0.5, vector_lr_scale=0.5)
    for _ in range(3):
        optimizer.step(lambda: 0.0)
    for name, weight in weights_of(model).items():
        factor = 0.95**3 if name in ("first.weight", "head.weight") else 1.0
        torch.testing.assert_close(weight, factor * before[name], rtol=1e-14, atol=0)


def test_it_goes_with_any_method_by_name() -> None:
    schedule = {"name": "norm_scaled", "form": "expectation", "interval": 10}
    method = make_method("mezo", {"schedule": schedule, "num_directions": 2})
    assert method.parts().schedule == NormScaled(form="expectation", interval=10)


def test_state_is_one_number_a_tensor() -> None:
    assert build(Net()).state_bytes == 4 * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "varianc"}, "Unknown form 'varianc'. Did you mean: variance"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"vector_lr_scale": 0.0}, "vector_lr_scale must be positive and finite, got 0.0"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NormScaled(**options)
