"""ZO-Adam: the published defaults, and the run against torch's Adam fed with the same estimates."""

import torch
from torch import nn

from foretune import ZOAdam, noise
from foretune.estimators import TwoSided
from foretune.methods import make_method
from foretune.noise import Noise, Purpose
from foretune.updates import Adam
from toys import Quadratic


def test_published_defaults() -> None:
    method = make_method("zo_adam", {})
    assert method.parts().update == Adam(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False)
    assert method.parts().estimator == TwoSided(zo_eps=1e-3, num_directions=1)


def test_it_is_adam_on_the_journalled_estimates() -> None:
    """torch's Adam on mean_k g_k z_k, with g from the records and z from its address, to 1e-12."""
    model = Quadratic({"w": (3, 4)})
    parameter = nn.Parameter(model.w.detach().clone())
    oracle = torch.optim.Adam([parameter], lr=0.05, weight_decay=0.2)
    optimizer = ZOAdam(model, lr=0.05, num_directions=3, weight_decay=0.2, seed=4)
    (trainable,) = optimizer.trainables
    for step in range(10):
        optimizer.step(model)
        estimate = torch.zeros(3, 4, dtype=torch.float64)
        for query, slope in enumerate(optimizer.last_record.scalars):
            address = Noise(noise.mix(4, step, query), trainable.stream, Purpose.DIRECTION)
            estimate += slope / 3 * noise.fill(torch.empty_like(estimate), address)
        parameter.grad = estimate
        oracle.step()
        torch.testing.assert_close(model.w.detach(), parameter.detach(), rtol=0, atol=1e-12)


def test_the_first_step_is_the_sign_of_the_estimate() -> None:
    model = Quadratic({"w": (3, 4), "b": (2,)})
    before = model.flat().detach()
    ZOAdam(model, lr=0.1).step(model)
    change = (model.flat() - before).detach().abs()
    torch.testing.assert_close(change, torch.full((14,), 0.1, dtype=torch.float64), rtol=1e-5, atol=0)


def test_state_is_two_numbers_for_every_trainable_one() -> None:
    optimizer = ZOAdam(Quadratic({"w": (3, 4), "b": (2,)}), lr=0.1)
    assert optimizer.state_bytes == 2 * 14 * 8
