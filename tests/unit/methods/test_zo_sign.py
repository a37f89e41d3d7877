"""ZO-SGD-Sign on a linear objective, where both of its forms have closed-form means."""

import math

import pytest
import torch
from torch import Tensor

from foretune import ZOSign, noise
from foretune.errors import UsageError
from foretune.estimators import TwoSided
from foretune.methods import METHODS, make_method
from foretune.noise import Noise, Purpose
from foretune.updates import SGD, Sign
from toys import Net, Quadratic, assert_mean, restore, weights_of

C = torch.tensor([3.0, -2.0, 1.0, 0.5, -0.25, 0.1], dtype=torch.float64)


def changes(sign_mode: str, num_steps: int, num_directions: int = 1) -> tuple[Tensor, Tensor]:
    """The steps (lr 0.1) on the linear objective with gradient C, and the z they followed, (num_steps, q, 6)."""
    model = Quadratic({"w": (2, 3)})
    start = weights_of(model)
    optimizer = ZOSign(
        model, lr=0.1, sign_mode=sign_mode, num_directions=num_directions, zo_eps=0.5, seed=3, engine="in_place"
    )
    steps, directions = [], []
    for step in range(num_steps):
        restore(model, start)
        optimizer.step(lambda: model.flat() @ C)
        steps.append(model.flat().detach() - start["w"].flatten())
        directions.append(
            torch.stack(
                [
                    noise.fill(
                        torch.empty(6, dtype=torch.float64),
                        Noise(noise.mix(3, step, query), optimizer.trainables[0].stream, Purpose.DIRECTION),
                    )
                    for query in range(num_directions)
                ]
            )
        )
    return torch.stack(steps), torch.stack(directions)


def test_parts_and_aliases() -> None:
    parts = make_method("zo_sign", {}).parts()
    assert (parts.update, parts.estimator) == (Sign(), TwoSided())
    scalar = make_method("zo_sign", {"sign_mode": "scalar"}).parts()
    assert (scalar.update, scalar.estimator) == (SGD(), TwoSided(weighting="sign"))
    assert METHODS.get("zo_sign_opt") is METHODS.get("zo_sgd_sign") is METHODS.get("zo_sign")
    with pytest.raises(UsageError, match=r"Unknown sign_mode 'scaler'\. Did you mean: scalar"):
        make_method("zo_sign", {"sign_mode": "scaler"})


def test_every_entry_moves_by_lr() -> None:
    """|change_i| = lr (elementwise), lr |z_i| (scalar)."""
    for sign_mode, magnitude in (("elementwise", torch.ones_like), ("scalar", torch.abs)):
        steps, z = changes(sign_mode, 5)
        torch.testing.assert_close(steps.abs(), 0.1 * magnitude(z[:, 0]), rtol=0, atol=1e-14)


def test_the_mean_step_of_the_elementwise_form() -> None:
    """E[sign(g) sign(z_i)] = (2 / pi) arcsin(c_i / ||c||)."""
    steps, _ = changes("elementwise", 2000)
    assert_mean(-steps / 0.1, 2 / math.pi * torch.asin(C / C.norm()))


def test_the_mean_step_of_the_scalar_form() -> None:
    """E[sign(g) z] = sqrt(2 / pi) c / ||c||."""
    steps, _ = changes("scalar", 2000)
    assert_mean(-steps / 0.1, math.sqrt(2 / math.pi) * C / C.norm())


@pytest.mark.parametrize("sign_mode", ["elementwise", "scalar"])
def test_several_directions(sign_mode: str) -> None:
    """The sign of the mean, or the mean of the signs."""
    steps, z = changes(sign_mode, 5, num_directions=3)
    slopes = z @ C
    if sign_mode == "elementwise":
        expected = torch.einsum("sq,sqd->sd", slopes, z).sign()
    else:
        expected = torch.einsum("sq,sqd->sd", slopes.sign(), z) / 3
    torch.testing.assert_close(steps, -0.1 * expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("sign_mode", ["elementwise", "scalar"])
def test_a_flat_loss_moves_nothing(sign_mode: str) -> None:
    model = Net()
    before = weights_of(model)
    ZOSign(model, lr=0.1, sign_mode=sign_mode).step(lambda: 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(model).items())
