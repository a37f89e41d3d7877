"""Runs an update rule alone: given estimates go in, weights come out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foretune.parameters import collect_trainables
from foretune.spaces import Identity
from foretune.types import AbstractUpdate, Combination, Member, TensorState, UpdateContext


def run_update(
    update: AbstractUpdate, start: Tensor, estimates: Sequence[Tensor], lr: float
) -> tuple[Tensor, TensorState]:
    """Apply the rule to one tensor, once per estimate; return the weights and the state."""
    (trainable,) = collect_trainables(nn.ParameterDict({"w": nn.Parameter(start.clone())}))
    state, weights = TensorState(), trainable.parameter.detach()
    for estimate in estimates:
        change = update.apply(
            UpdateContext(
                member=Member(trainable),
                lr=lr,
                estimate=Combination(dense=(1.0, estimate)),
                state=state,
                coordinate_shape=tuple(start.shape),
                draws=(),
                scalars=(),
            )
        )
        Identity().add(trainable, change.step, out=weights, base=weights, seed=0, epoch=0, scale=change.scale)
        state.num_updates += 1
    return weights, state


def estimates_and_start(*shape: int, num: int = 5) -> tuple[list[Tensor], Tensor]:
    """Random float64 estimates and weights."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(num)], start
