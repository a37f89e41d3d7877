"""Weight decay, as every update rule applies it."""

from __future__ import annotations

from foretune.errors import UsageError
from foretune.types import UpdateContext


def check_weight_decay(weight_decay: float) -> None:
    """Refuse a negative weight decay.

    Raises:
        UsageError: naming the value.
    """
    if not weight_decay >= 0:
        raise UsageError(f"weight_decay must be 0 or more, got {weight_decay}.")


def decay_factor(context: UpdateContext, weight_decay: float) -> float:
    """Return ``1 - lr * weight_decay`` for tensors that decay, 1 for the others."""
    return 1.0 - context.lr * weight_decay if context.member.trainable.decays else 1.0
