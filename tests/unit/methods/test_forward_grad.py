"""Forward-Grad: MeZO's step without its bias, in every space and block, and with the trainer's losses."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from foretune import ForwardGrad, MeZO, Optimizer
from foretune.directions import Gaussian, Rademacher
from foretune.errors import UsageError
from foretune.estimators import ForwardMode, TwoSided
from foretune.methods import make_method
from foretune.noise import LaneMask, MagnitudeMask, Noise, Purpose
from foretune.schedules import Whole
from foretune.spaces import Identity, LowRank
from foretune.types import AbstractSchedule, Block, Member
from foretune.updates import SGD
from model_zoo import causal_closure, opt, with_adapter
from toys import Net, Quadratic, assert_mean, restore, weights_of
from unit.trainer.runs import make_opt, make_trainer

ENGINES = pytest.mark.parametrize("engine", ["layerwise", "in_place"])


def changes_of(model: nn.Module, before: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([(tensor - before[name]).flatten() for name, tensor in weights_of(model).items()])


def test_published_defaults() -> None:
    parts = make_method("forward_grad", {}).parts()
    assert (parts.space, parts.direction, parts.update) == (Identity(), Gaussian(), SGD())
    assert (parts.estimator, parts.schedule) == (ForwardMode(), Whole())
    rates = {scheme: make_method("forward_grad", {}, tuning=scheme).lr for scheme in ("full", "lora", "prefix")}
    assert rates == {"full": 5e-7, "lora": 1e-5, "prefix": 5e-4}
    with pytest.raises(UsageError, match="Method 'forward_grad' has no option 'zo_eps'"):
        make_method("forward_grad", {"zo_eps": 1e-3})


@pytest.mark.parametrize("num_directions", [1, 3])
def test_on_a_quadratic_it_equals_the_two_sided_result_with_the_same_v(num_directions: int) -> None:
    changes = []
    for method, options in ((ForwardGrad, {}), (MeZO, {"zo_eps": 0.1})):
        model = Quadratic({"w": (3, 4), "b": (3,)})
        before = weights_of(model)
        method(model, lr=1e-2, num_directions=num_directions, seed=5, engine="in_place", **options).step(model)
        changes.append(changes_of(model, before))
    torch.testing.assert_close(*changes, rtol=0, atol=1e-12)


@ENGINES
def test_on_a_non_linear_toy_it_equals_two_sided_as_zo_eps_goes_to_0(engine: str) -> None:
    """The distance falls with zo_eps^2."""
    model = Net(torch.float64)
    ForwardGrad(model, lr=0.0, seed=5, engine=engine).step(model)
    slopes = {}
    for zo_eps in (1e-2, 1e-3, 0.0):
        options = {"zo_eps": zo_eps} if zo_eps else {}
        optimizer = (MeZO if zo_eps else ForwardGrad)(model, lr=0.0, seed=5, engine=engine, **options)
        optimizer.step(model)
        slopes[zo_eps] = optimizer.last_record.scalars[0]
    errors = [abs(slopes[zo_eps] - slopes[0.0]) for zo_eps in (1e-2, 1e-3)]
    assert 0 < errors[0] < 1e-2 * abs(slopes[0.0])
    assert errors[1] == pytest.approx(errors[0] / 100, rel=0.05)


def test_its_mean_is_the_gradient_with_autograd_as_truth() -> None:
    model = Net(torch.float64)
    start = weights_of(model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradient = torch.autograd.grad(model.eval()(), [model.get_parameter(name) for name in names])
    truth = torch.cat([tensor.flatten() for tensor in gradient])
    samples = []
    for seed in range(400):
        restore(model, start)
        ForwardGrad(model, lr=1.0, seed=seed, engine="layerwise").step(model)
        samples.append(torch.cat([(start[name] - model.get_parameter(name).detach()).flatten() for name in names]))
    assert_mean(torch.stack(samples), truth)


class Masked(AbstractSchedule):
    """Two blocks, of factors and masks of all kinds, one after the other."""

    sequential = True

    def blocks(self, step, trainables, *, seed):
        lanes = Noise(99, 3, Purpose.DIRECTION)
        members = [
            Member(t, std=0.5 + index % 2, mask=(LaneMask(lanes, 0, 1 << 14), MagnitudeMask(0.3), None)[index % 3])
            for index, t in enumerate(trainables)
        ]
        return (Block(tuple(members[::2])), Block(tuple(members[1::2])))


@ENGINES
@pytest.mark.parametrize(
    ("space", "direction", "schedule"),
    [
        (LowRank(rank=2, interval=2), Gaussian(), Whole(matrix_lr_scale=3.0)),
        (Identity(), Rademacher(), Masked()),
        (Identity(), Gaussian(), Masked()),
    ],
    ids=["low_rank", "masked signs", "masked"],
)
def test_the_tangent_is_the_lifted_direction(engine, space, direction, schedule) -> None:
    """Slopes and steps are those of differences with a small zo_eps, in every space, block and under every mask."""
    results = []
    for estimator in (ForwardMode(num_directions=2), TwoSided(zo_eps=1e-5, num_directions=2)):
        model = opt().double()
        parts = {"space": space, "direction": direction, "schedule": schedule, "estimator": estimator}
        optimizer = Optimizer(model, **parts, lr=1e-4, engine=engine)
        closure, records = causal_closure64(model), []
        for _ in range(3):
            optimizer.step(closure)
            records += optimizer.last_record.scalars
        results.append((torch.tensor(records), weights_of(model)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(tensor, results[1][1][name], rtol=0, atol=1e-8)


def causal_closure64(model: nn.Module):
    """The causal loss in float64."""
    input_ids = torch.tensor([[4, 9, 17, 5, 30, 11], [7, 3, 8, 4, 4, 21]])

    def closure() -> Tensor:
        logits = model(input_ids=input_ids, use_cache=False).logits
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())

    return closure


@ENGINES
def test_lora(engine: str) -> None:
    model = with_adapter(opt, "lora")
    optimizer = ForwardGrad(model, lr=1e-3, engine=engine)
    losses = [optimizer.step(causal_closure(model)).item() for _ in range(3)]
    assert all(map(math.isfinite, losses))
    assert any("lora" in trainable.name for trainable in optimizer.trainables)


@pytest.mark.parametrize("hf_path", [False, True], ids=["objective", "transformers"])
def test_the_trainer_accumulates_slopes_as_one_large_batch(tmp_path, hf_path) -> None:
    records = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = make_trainer(
            tmp_path / str(batch_size),
            model=make_opt(),
            hf_path=hf_path,
            method="forward_grad",
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            learning_rate=1e-3,
            eval_strategy="no",
            save_strategy="no",
        )
        trainer.train()
        records.append(trainer.zo_optimizer.last_record)
    assert [record.zo_eps for record in records] == [0.0, 0.0]
    assert records[1].loss == pytest.approx(records[0].loss, rel=1e-6)
    assert records[1].scalars == pytest.approx(records[0].scalars, rel=1e-3)
