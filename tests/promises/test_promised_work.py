"""What a step does, counted instead of timed: forwards, noise elements, bytes written, large temporaries."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import pytest
import torch

from foretune import Optimizer
from foretune.directions import Gaussian
from foretune.engine import AbstractEngine
from foretune.estimators import TwoSided
from foretune.methods import METHODS, AbstractMethod
from foretune.spaces import Masked, OneSidedOrthonormal, Orthonormal, bases
from foretune.spaces.bases import OrthonormalBases
from foretune.types import AbstractSpace, Change, Combination, Draw, UpdateContext
from foretune.updates import SGD
from live_bytes import LiveBytes
from model_zoo import causal_closure, opt, with_adapter
from promised import build, run
from toys import Deep, Net, Toys
from work import Meter, Work, expected_temporaries, expected_work, reads_of

NUM_STEPS_BEFORE = 11
"""Every tensor has moved, and what is annealed in toy settings has reached its target."""
NUM_STEPS = 3
"""Among which a basis is refreshed."""


@pytest.fixture(autouse=True)
def factors_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of toys are small."""
    monkeypatch.setattr("foretune.engine.factored.LEAST_NUMEL", 0)


def measured_and_expected(optimizer: Optimizer, closure: Callable) -> Iterator[tuple[Work, Work]]:
    """The work of a few steps, once everything is in its stride."""
    run(optimizer, closure, NUM_STEPS_BEFORE)
    meter, reads = Meter(optimizer), reads_of(optimizer, closure)
    for _ in range(NUM_STEPS):
        work = meter.step(closure)
        yield work, expected_work(optimizer, reads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("engine", ["layerwise", "in_place"])
def test_a_step_does_the_declared_work(
    recipe: type[AbstractMethod], toys: Toys, engine: str, dtype: torch.dtype
) -> None:
    model = toys.net(dtype)
    for work, expected in measured_and_expected(build(recipe, model, engine=engine), model):
        assert work == expected


@pytest.mark.parametrize("engine", ["layerwise", "paired"])
def test_a_step_of_a_language_model_does_the_declared_work(recipe: type[AbstractMethod], engine: str) -> None:
    """With a tied embedding: the rows that are looked up are written, and all of it as the head."""
    if engine == "paired" and not recipe(**recipe.toy.options).parts().estimator.zo_eps:
        pytest.skip("there are no losses to pair: the slope is exact")
    model = with_adapter(opt, "lora") if recipe.schemes[0] == "lora" else opt()
    optimizer = build(recipe, model.eval(), engine=engine)
    for work, expected in measured_and_expected(optimizer, causal_closure(model)):
        assert work == expected


def num_temporaries(optimizer: Optimizer, model: Deep) -> int:
    """Allocations of at least half a layer in a step."""
    with LiveBytes() as counter:
        optimizer.step(model)
    return sum(size >= model.layer_bytes / 2 for size in counter.sizes)


def test_a_step_makes_the_declared_temporaries(recipe: type[AbstractMethod], toys: Toys) -> None:
    """Allocations of at least half a layer; the forward makes none."""
    model = toys.deep()
    optimizer = build(recipe, model, engine="layerwise")
    run(optimizer, model, NUM_STEPS_BEFORE)
    for _ in range(NUM_STEPS):
        assert num_temporaries(optimizer, model) == expected_temporaries(optimizer, model.layer_bytes / 2)


@pytest.mark.parametrize(
    "space", [Masked(sparsity=0.5), Orthonormal(interval=3), OneSidedOrthonormal(interval=3)], ids=repr
)
def test_spaces_do_the_declared_work(space: AbstractSpace) -> None:
    """Those that no method has by itself among them."""
    model = Net()
    optimizer = Optimizer(model, space=space, estimator=TwoSided(num_directions=2), lr=0.01)
    for work, expected in measured_and_expected(optimizer, model):
        assert work == expected


# ---------------------------------------------------------------- does the guard bite?


def drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A direction is the mean of itself and itself."""
    draw = Gaussian.draw

    def draw_twice(self: Gaussian, *args: object, **kwargs: object) -> Draw:
        vector = draw(self, *args, **kwargs).vector.scaled(0.5)
        return Draw(vector + vector)

    monkeypatch.setattr(Gaussian, "draw", draw_twice)


def evaluated_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is looked at before it is measured."""
    loss = AbstractEngine.loss
    monkeypatch.setattr(AbstractEngine, "loss", lambda self, *args: (loss(self, *args), loss(self, *args))[1])


def whole_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is perturbed, whatever is looked up."""
    monkeypatch.setattr("foretune.engine.layerwise.reads_rows", lambda module: False)


def bases_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No basis is kept between uses."""
    monkeypatch.setattr(OrthonormalBases, "get", lambda self, *args, **kwargs: bases.orthonormal_basis(*args, **kwargs))


def gradient_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain descent materializes the estimate."""
    apply = SGD.apply

    def apply_dense(self: SGD, context: UpdateContext) -> Change:
        dense = Combination(dense=(1.0, context.gradient()))
        return apply(self, replace(context, estimate=dense))

    monkeypatch.setattr(SGD, "apply", apply_dense)


@pytest.mark.parametrize(
    ("regression", "method", "differing"),
    [
        (drawn_twice, "mezo", {"elements"}),
        (evaluated_once_more, "mezo", {"forwards", "elements", "scratch_bytes"}),
        (whole_embeddings, "mezo", {"elements", "scratch_bytes"}),
        (bases_made_anew, "subzero", {"elements"}),
    ],
)
def test_more_work_is_noticed(
    regression: Callable[[pytest.MonkeyPatch], None], method: str, differing: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    regression(monkeypatch)
    model = opt().eval()
    optimizer = build(METHODS.get(method), model, engine="layerwise")
    for work, expected in measured_and_expected(optimizer, causal_closure(model)):
        assert {f.name for f in fields(Work) if getattr(work, f.name) != getattr(expected, f.name)} == differing


def test_more_temporaries_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient_is_made(monkeypatch)
    model = Deep()
    optimizer = build(METHODS.get("mezo"), model, engine="layerwise")
    optimizer.step(model)
    assert num_temporaries(optimizer, model) == model.num_layers
