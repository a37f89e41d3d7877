"""ZO-SGD-MMT: its settings, MeZO at zero momentum, and the recomputed form."""

import pytest
import torch

from foretune import MeZO, ZOMomentum
from foretune.errors import UsageError
from foretune.methods import METHODS, make_method
from foretune.updates import HeavyBall
from toys import Net, Quadratic, differing_bits, weights_of


def test_published_defaults() -> None:
    assert make_method("zo_momentum", {}).parts().update == HeavyBall(momentum=0.9)
    assert METHODS.get("zo_sgd_mmt") is METHODS.get("zo_momentum")


def test_as_many_directions_are_remembered_as_count() -> None:
    """The smallest K with momentum^K below 1e-3, for every query."""
    for momentum, num_steps in ((0.9, 66), (0.5, 10), (0.2, 5), (1e-4, 1), (0.0, 1)):
        options = {"state": "recomputed", "momentum": momentum, "num_directions": 3}
        assert make_method("zo_momentum", options).parts().update.num_terms == 3 * num_steps
        assert momentum**num_steps < 1e-3 <= momentum ** (num_steps - 1)
    with pytest.raises(UsageError, match=r"Unknown state 'recompute'\. Did you mean: recomputed"):
        make_method("zo_momentum", {"state": "recompute"})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("state", ["stored", "recomputed"])
def test_zero_momentum_is_mezo_bit_for_bit(state: str, dtype: torch.dtype) -> None:
    results = []
    for optimizer_class, options in ((ZOMomentum, {"momentum": 0.0, "state": state}), (MeZO, {})):
        model = Net(dtype)
        optimizer = optimizer_class(model, lr=0.02, weight_decay=0.1, num_directions=2, seed=3, **options)
        for _ in range(6):
            optimizer.step(model)
        assert optimizer.state_bytes == 0
        results.append(weights_of(model))
    assert differing_bits(*results) == []


def test_the_recomputed_form_follows_the_stored_one() -> None:
    """Over three times as many steps as are remembered; what is forgotten is a thousandth."""
    results = []
    for state in ("stored", "recomputed"):
        model = Quadratic({"w": (3, 4), "b": (2,)})
        start = model.flat().detach()
        optimizer = ZOMomentum(model, lr=1e-3, momentum=0.5, state=state, seed=1)
        for _ in range(30):
            optimizer.step(model)
        results.append(model.flat().detach())
    moved = float((results[0] - start).norm())
    assert 0 < float((results[0] - results[1]).norm()) < 3e-3 * moved


def test_state() -> None:
    """d numbers, or 16 bytes for each remembered term and tensor."""
    model = Quadratic({"w": (30, 40), "b": (2,)})
    assert ZOMomentum(model, lr=0.1).state_bytes == 8 * 1202
    assert ZOMomentum(model, lr=0.1, state="recomputed").state_bytes == 2 * 66 * 16
