import pytest
import torch

import foretune
from toys import Net, differing_bits, weights_of


def test_interleave_takes_turns_and_leaves_out_the_first_round():
    from timing import interleave

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
    from timing import Spread

    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0, 100.0]) == Spread(3.5, 2.0, 5.0, 6)
    # a slow round slows both: within a round the ratio is 2 throughout
    assert Spread.of_ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == Spread(2.0, 2.0, 2.0, 3)


@pytest.mark.parametrize("engine", ["layerwise", "in_place"])
def test_a_timed_step_is_a_step_and_its_parts_make_the_whole(engine):
    from timing import TimedStep

    plain, observed = Net(), Net()
    optimizer = foretune.MeZO(plain, lr=1e-2, engine=engine)
    timed_step = TimedStep(foretune.MeZO(observed, lr=1e-2, engine=engine), observed)

    parts = timed_step()
    for _ in range(2):
        optimizer.step(plain)

    assert differing_bits(weights_of(plain), weights_of(observed)) == []
    whole = parts.pop("step")
    assert sum(parts.values()) == pytest.approx(whole)
    assert all(parts[name] > 0 for name in ("forward", "noise write", "update", "overhead"))
    assert parts["noise write"] < whole
    assert not torch.is_inference_mode_enabled()
