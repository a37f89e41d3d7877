"""Weight decay, as every update rule applies it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foretune.errors import IncompatibleError, UsageError
from foretune.types import Combination, Parts, Trainable, UpdateContext


def check_weight_decay(weight_decay: float) -> None:
    """Refuse a weight decay that is negative or not finite.

    Raises:
        UsageError: naming the value.
    """
    if not 0 <= weight_decay < math.inf:
        raise UsageError(f"weight_decay must be 0 or more and finite, got {weight_decay}.")


def check_coupled_decay(weight_decay: float, parts: Parts, trainables: Sequence[Trainable]) -> None:
    """Refuse a coupled weight decay in a space whose coordinates are not the weights.

    Raises:
        IncompatibleError: naming the space and a tensor.
    """
    if weight_decay == 0:
        return
    lifted = next((t.name for t in trainables if t.decays and parts.space.lifts(t)), None)
    if lifted is not None:
        raise IncompatibleError(
            f"Coupled weight decay cannot be combined with {type(parts.space).__name__}: the state of '{lifted}' is "
            "kept in coordinates that cannot hold weight_decay * theta. Use decoupled=True."
        )


def decay_factor(context: UpdateContext, weight_decay: float) -> float:
    """Return ``1 - lr * weight_decay`` for tensors that decay, 1 for the others: decoupled decay."""
    return 1.0 - context.lr * weight_decay if context.member.trainable.decays else 1.0


def decayed_estimate(context: UpdateContext, weight_decay: float) -> Combination:
    """Return ``estimate + weight_decay * theta`` for tensors that decay, the estimate for the others: coupled decay."""
    trainable, estimate = context.member.trainable, context.estimate
    if weight_decay == 0 or not trainable.decays:
        return estimate
    theta = trainable.parameter.detach().to(trainable.compute_dtype)
    return estimate + Combination(dense=(weight_decay, theta), mask=estimate.mask)
