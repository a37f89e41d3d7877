"""Measurements in turns, and a step split into parts that make the whole and change nothing."""

import pytest
import torch

import foretune
from foretune.estimators import TwoSided
from foretune.runs import timing
from foretune.runs.timing import PARTS, Clock, Spread, TimedStep, interleave, timed
from foretune.schedules import ModuleBlocks
from toys import Net, differing_bits, weights_of


def test_interleave_takes_turns_and_leaves_out_the_first_round():
    calls = []

    def case(name):
        def run():
            calls.append(name)
            return {"step": float(len(calls))}

        return run

    measured = interleave({name: case(name) for name in "abc"}, repeats=2)
    assert "".join(calls) == "abcabcabc"
    assert measured["b"] == [{"step": 5.0}, {"step": 8.0}]


def test_spread_and_ratio():
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0, 100.0]) == Spread(3.5, 2.0, 5.0, 6)
    # a slow round slows both: within a round the ratio is 2 throughout
    assert Spread.of_ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == Spread(2.0, 2.0, 2.0, 3)


@pytest.mark.parametrize("engine", ["layerwise", "in_place"])
def test_a_timed_step_is_a_step_and_its_parts_make_the_whole(engine):
    plain, observed = Net(), Net()
    optimizer = foretune.MeZO(plain, lr=1e-2, engine=engine)
    timed_step = TimedStep(foretune.MeZO(observed, lr=1e-2, engine=engine), observed)

    parts = timed_step()
    for _ in range(2):
        optimizer.step(plain)

    assert differing_bits(weights_of(plain), weights_of(observed)) == []
    whole = parts.pop("step")
    assert sum(parts.values()) == pytest.approx(whole)
    assert all(parts[name] > 0 for name in PARTS)
    assert parts["noise"] < whole
    assert not torch.is_inference_mode_enabled()


def test_writes_of_a_slope_are_noise():
    timed_step = TimedStep(foretune.ForwardGrad(net := Net(), lr=1e-2), net)
    parts = timed_step()
    assert 0 < parts["noise"] < parts["step"]
    assert 0 < parts["forward"] < parts["step"]


def test_moves_between_blocks_are_updates():
    net, slow = Net(), 0.01
    optimizer = foretune.Optimizer(
        net, estimator=TwoSided(zo_eps=1e-3), schedule=ModuleBlocks(level="linear"), lr=1e-3, engine="layerwise"
    )
    move, moves = optimizer._move, []

    def slow_move(*args):
        moves.append(args)
        timing.time.sleep(slow)
        move(*args)

    optimizer._move = slow_move
    timed_step = TimedStep(optimizer, net)
    moves.clear()
    parts = timed_step()
    assert len(moves) > 1
    assert parts["update"] >= slow * len(moves)
    assert parts["overhead"] < slow


class FakeEvent:
    """A CUDA event: recorded in the order of a stream, readable once the device was waited for."""

    waited = 0
    recorded = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        FakeEvent.recorded += 1
        self.milliseconds, self.stream = 1e3 * FakeEvent.recorded, stream

    def elapsed_time(self, other):
        assert FakeEvent.waited >= FakeEvent.recorded, "read before the device was waited for"
        return other.milliseconds - self.milliseconds


def test_a_gpu_is_timed_by_events_of_its_stream_that_are_read_after_waiting(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: setattr(FakeEvent, "waited", FakeEvent.recorded))
    clock = Clock("cuda")
    assert timed(lambda: None, clock)() == {"step": pytest.approx(1.0)}
    assert clock.mark().stream == "stream of cuda"

    parts = TimedStep(foretune.MeZO(net := Net(), lr=1e-2, engine="layerwise"), net, clock)()
    assert parts["step"] == pytest.approx(sum(parts[name] for name in PARTS))
    num_trainable = sum(parameter.requires_grad for parameter in net.parameters())
    assert parts["noise"] == 2 * (num_trainable + 1)  # a second between any two events; all are prepared together
