"""What all engines promise: true weights in every case, and every loss that of the shift asked for."""

from __future__ import annotations

import os
import signal
import threading

import numpy
import pytest
import torch
from torch import Tensor, nn

from engine_runs import MINUS, PLUS, Shift, bits, interrupted_by_a_timer, loss_of_moved_copy, measure, num_hooks
from foretune import noise
from foretune.engine.base import AbstractEngine, read_loss
from foretune.engine.in_place import InPlace
from foretune.engine.layerwise import Layerwise
from foretune.engine.paired import Paired
from foretune.errors import UsageError
from foretune.estimators import TwoSided
from foretune.optimizer import Optimizer
from foretune.parameters import collect_trainables
from foretune.spaces import LowRank
from foretune.updates import Momentum
from model_zoo import HIDDEN, Embeddings, Nested, Stack, causal_closure, data_closure, opt, token_closure

ENGINES = pytest.mark.parametrize("engine_class", [Layerwise, InPlace, Paired], ids=lambda cls: cls.name)


def make(engine_class: type[AbstractEngine], model: nn.Module) -> AbstractEngine:
    return engine_class(model, collect_trainables(model))


class Moment:
    """Does something at the n-th call of a forward hook or pre-hook, once."""

    def __init__(self, action, number: int = 1) -> None:
        self.action, self.left = action, number

    def __call__(self, *args: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


def raise_(error: type[BaseException]):
    def action() -> None:
        raise error("in the middle of a forward")

    return action


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _keyboard_interrupts():
    """The handler of an interactive run: a background process may have inherited one that ignores SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


# ---------------------------------------------------------------- interrupted evaluations


@ENGINES
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["layers.0", "layers.1.1", "layers.1"])
@pytest.mark.parametrize("after", [False, True], ids=["entering", "leaving"])
def test_an_error_anywhere_in_a_forward_leaves_weights_and_engine_intact(engine_class, error, place, after) -> None:
    model = Stack(2)
    closure, engine, before = data_closure(model), make(engine_class, model), bits(model)
    module = model.get_submodule(place)
    register = module.register_forward_hook if after else module.register_forward_pre_hook
    with register(Moment(raise_(error))), pytest.raises(error, match="in the middle"), engine.session():
        engine.loss(closure, Shift(PLUS))
    assert bits(model) == before
    assert num_hooks(model) == 0
    assert measure(engine, closure, Shift(MINUS)) == loss_of_moved_copy(model, data_closure, Shift(MINUS))
    assert bits(model) == before


@ENGINES
def test_an_error_within_a_session_is_forgotten_by_its_next_evaluation(engine_class) -> None:
    model = Stack(2)
    closure, engine, before = data_closure(model), make(engine_class, model), bits(model)
    for error in (RuntimeError, KeyboardInterrupt):
        with engine.session(), model.layers[1][1].register_forward_pre_hook(Moment(raise_(error))):
            with pytest.raises(error):
                engine.loss(closure, Shift(PLUS))
            assert bits(model) == before
            wanted = loss_of_moved_copy(model, data_closure, Shift(PLUS))
            assert engine.loss(closure, Shift(PLUS)) == wanted
        assert bits(model) == before


@ENGINES
@pytest.mark.parametrize("place", ["", "layers.0.1", "layers.1.3"])
def test_ctrl_c_in_a_forward(engine_class, place) -> None:
    model = Stack(2)
    closure, engine, before = data_closure(model), make(engine_class, model), bits(model)
    handler = signal.getsignal(signal.SIGINT)
    later = []
    with model.get_submodule(place).register_forward_pre_hook(Moment(press_ctrl_c)):
        with model.register_forward_hook(lambda *args: later.append(1)), pytest.raises(KeyboardInterrupt):
            measure(engine, closure, Shift(PLUS))
        assert not later  # delivered at once, not at the end
        assert bits(model) == before
        assert signal.getsignal(signal.SIGINT) is handler
        assert measure(engine, closure, Shift(PLUS)) == loss_of_moved_copy(model, data_closure, Shift(PLUS))


@ENGINES
def test_ctrl_c_by_a_timer_at_random_moments(engine_class) -> None:
    model = Stack(3)
    closure, engine, before = data_closure(model), make(engine_class, model), bits(model)
    wanted = measure(engine, closure, Shift(PLUS))

    def check() -> None:
        assert engine.loss(closure, Shift(PLUS)) == wanted

    interrupted = 0
    for _ in interrupted_by_a_timer(engine, check, count=60, longest=2e-3):
        interrupted += 1
        assert bits(model) == before
        assert num_hooks(model) == 0
        assert all(module.training for module in model.modules())
    assert interrupted == 60


@ENGINES
def test_a_second_ctrl_c_does_not_disturb_the_clean_up(engine_class) -> None:
    model = Stack(2)
    closure, engine, before = data_closure(model), make(engine_class, model), bits(model)
    pressed = []

    # the second one comes with the exception of the first one on its way out of the closure
    def closure_interrupted_twice() -> Tensor:
        try:
            return closure()
        finally:
            pressed.append(1)
            press_ctrl_c()

    ctrl_c = model.layers[1].register_forward_pre_hook(Moment(press_ctrl_c))
    with ctrl_c, pytest.raises(KeyboardInterrupt):
        measure(engine, closure_interrupted_twice, Shift(PLUS))
    assert pressed
    assert bits(model) == before
    assert all(module.training for module in model.modules())


@ENGINES
def test_ctrl_c_between_evaluations_waits_for_the_next_one(engine_class) -> None:
    model = Stack(2)
    engine, before, reached = make(engine_class, model), bits(model), []
    with pytest.raises(KeyboardInterrupt), engine.session():
        press_ctrl_c()
        reached.append("still in the session")
        engine.loss(lambda: reached.append("in the closure"), Shift(PLUS))
    assert reached == ["still in the session"]
    assert bits(model) == before


@ENGINES
def test_evaluations_work_outside_of_the_main_thread(engine_class) -> None:
    model = Stack(2)
    closure, engine, found = data_closure(model), make(engine_class, model), []
    thread = threading.Thread(target=lambda: found.append(measure(engine, closure, Shift(PLUS))))
    thread.start()
    thread.join()
    assert found == [loss_of_moved_copy(model, data_closure, Shift(PLUS))]


# ---------------------------------------------------------------- modes


@ENGINES
def test_modules_are_in_eval_mode_and_return_to_their_own(engine_class) -> None:
    model = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    model.train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    x, engine = torch.ones(1, HIDDEN), make(engine_class, model)
    rng = torch.get_rng_state()

    def closure() -> Tensor:
        assert not any(module.training for module in model.modules())
        return model(x).square().mean()

    with engine.session():
        losses = {engine.loss(closure, Shift(PLUS)) for _ in range(3)}
        assert losses != {engine.loss(closure, Shift(MINUS))}
    assert len(losses) == 1
    assert torch.equal(rng, torch.get_rng_state())
    assert [module.training for module in model.modules()] == modes

    with engine.session():
        model.train()  # as a closure may
    assert [module.training for module in model.modules()] == modes


@ENGINES
def test_nothing_is_measured_outside_of_a_session(engine_class) -> None:
    model = Stack(1)
    with pytest.raises(AssertionError, match="session"):
        make(engine_class, model).loss(data_closure(model), Shift(PLUS))


@ENGINES
def test_no_shift_is_the_loss_at_the_weights(engine_class) -> None:
    model = opt()
    engine = make(engine_class, model)
    assert measure(engine, causal_closure(model), None) == loss_of_moved_copy(model, causal_closure, None)
    nothing = Shift(PLUS, only=())
    assert measure(engine, causal_closure(model), nothing) == loss_of_moved_copy(model, causal_closure, None)
    assert nothing.written == []


@ENGINES
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_gives_the_bits_of_a_moved_copy(engine_class, dtype) -> None:
    for model, closure_of in ((Stack(2, dtype), data_closure), (Embeddings(dtype), token_closure)):
        engine, before = make(engine_class, model), bits(model)
        for shift in (Shift(PLUS), Shift(MINUS)):
            assert measure(engine, closure_of(model), shift) == loss_of_moved_copy(model, closure_of, shift)
        assert bits(model) == before


# ---------------------------------------------------------------- autocast and inference mode


@ENGINES
@pytest.mark.parametrize("around_all", [False, True], ids=["in_closure", "around_session"])
def test_casts_that_autocast_keeps_are_not_reused(engine_class, around_all) -> None:
    """Else plus and minus come out equal, and so does the caller's own forward after a step."""
    model = Stack(2)
    engine = make(engine_class, model)

    def closure_of(some: nn.Module):
        inner = data_closure(some)

        def closure() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return inner()

        return closure

    def oracle(shift: Shift | None) -> float:
        torch.clear_autocast_cache()
        return loss_of_moved_copy(model, closure_of, shift)

    shifts = [Shift(PLUS), Shift(MINUS), None]
    wanted = [oracle(shift) for shift in shifts]
    assert len(set(wanted)) == 3
    closure = closure_of(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=around_all):
        before = data_closure(model.eval())().item()  # fills the cache with the true weights, if it is on
        for shift, loss in zip(shifts, wanted, strict=True):
            assert measure(engine, closure, shift) == loss
            assert data_closure(model)().item() == before


class CreatesLazily(nn.Module):
    """Makes a table, as a buffer and as an attribute, at its first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(HIDDEN, HIDDEN)
        self.table: Tensor | None = None
        self.register_buffer("mask", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.linspace(0.5, 1.5, HIDDEN)
            self.mask = torch.arange(HIDDEN) < 3
        return (self.layer(x) * self.table).masked_fill(self.mask, 0.0).square().mean()


@ENGINES
def test_a_model_can_be_trained_by_gradients_afterwards(engine_class) -> None:
    for model, closure_of in (
        (CreatesLazily(), data_closure),
        (Nested(), data_closure),
        (opt(), causal_closure),
    ):
        closure, engine = closure_of(model), make(engine_class, model)
        for shift in (Shift(PLUS), Shift(MINUS), None):
            measure(engine, closure, shift)
        model.eval()
        loss = closure()
        loss.backward()
        assert loss.item() == loss_of_moved_copy(model, closure_of, None)
        for parameter in model.parameters():
            assert not parameter.is_inference()
            assert parameter.grad is not None
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        shift = Shift(PLUS)
        assert measure(engine, closure, shift) == loss_of_moved_copy(model, closure_of, shift)


@ENGINES
def test_no_graph_is_built_and_the_grad_mode_comes_back(engine_class) -> None:
    model = Stack(1)
    inner, engine = data_closure(model), make(engine_class, model)

    def closure() -> Tensor:
        loss = inner()
        assert not loss.requires_grad
        return loss

    for _ in range(2):
        measure(engine, closure, Shift(PLUS))
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


@ENGINES
def test_a_caller_in_inference_mode(engine_class) -> None:
    model = Stack(1)
    closure, engine = data_closure(model), make(engine_class, model)
    wanted = loss_of_moved_copy(model, data_closure, Shift(PLUS))
    with torch.inference_mode():
        assert measure(engine, closure, Shift(PLUS)) == wanted
    assert measure(engine, closure, Shift(PLUS)) == wanted
    assert not any(parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize("engine", ["layerwise", "in_place"])
@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_step_in_inference_mode_leaves_nothing_that_is_bound_to_it(engine, backend) -> None:
    model = Stack(1)
    optimizer = Optimizer(
        model, estimator=TwoSided(), space=LowRank(interval=1), update=Momentum(), lr=1e-3, engine=engine
    )
    with noise.use_backend(backend):
        with torch.inference_mode():
            optimizer.step(data_closure(model))
        for step in range(2):
            tensors = [t for state in optimizer.tensor_states.values() for t in state.tensors.values()]
            assert len(tensors) == len(optimizer.trainables)
            assert not any(tensor.is_inference() for tensor in [*tensors, *model.parameters()]), step
            for tensor in tensors:
                tensor.add_(0.0)
            optimizer.step(data_closure(model))
    data_closure(model)().backward()


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    "loss",
    [1.5, torch.tensor(1.5), torch.tensor([1.5], dtype=torch.float64), numpy.float32(1.5), numpy.array(1.5)],
    ids=repr,
)
def test_accepted_losses(loss) -> None:
    found = read_loss(loss)
    assert found == 1.5
    assert type(found) is float


@pytest.mark.parametrize("loss", [2, True + 1, torch.tensor(2), numpy.int64(2)], ids=repr)
def test_accepted_counts(loss) -> None:
    assert read_loss(loss) == 2.0


def test_a_double_loss_keeps_its_bits() -> None:
    value = 0.1 + 0.2
    assert read_loss(torch.tensor(value, dtype=torch.float64)) == value
    assert read_loss(numpy.float64(value)) == value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_coarse_loss_is_refused_by_its_dtype(dtype) -> None:
    with pytest.raises(UsageError, match=f"{dtype} loss"):
        read_loss(torch.tensor(1.0).to(dtype))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (None, "got NoneType"),
        ("1.5", "got str"),
        ([1.5], "got list"),
        ({"loss": 1.5}, "got dict"),
        (1.5 + 0j, "got complex"),
        (numpy.ones(2), "got ndarray"),
        (torch.ones(2, 3), r"shape \(2, 3\)"),
        (torch.ones(0), r"shape \(0,\)"),
        (torch.tensor(1j), "complex64"),
    ],
    ids=repr,
)
def test_what_is_no_scalar_is_refused(loss, message) -> None:
    with pytest.raises(UsageError, match=message):
        read_loss(loss)


@ENGINES
def test_a_refused_loss_leaves_the_weights(engine_class) -> None:
    model = Stack(1)
    before = bits(model)
    with pytest.raises(UsageError, match="bfloat16"):
        measure(make(engine_class, model), lambda: data_closure(model)().bfloat16(), Shift(PLUS))
    assert bits(model) == before
