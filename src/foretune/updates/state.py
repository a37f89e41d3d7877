"""State that update rules keep between steps."""

from __future__ import annotations

import torch
from torch import Tensor

from foretune.types import UpdateContext


def state_tensor(context: UpdateContext, name: str) -> Tensor:
    """Return this tensor's state `name`, one number per coordinate; zeros at the first update."""
    tensors, trainable = context.state.tensors, context.member.trainable
    if name not in tensors:
        tensors[name] = torch.zeros(
            context.coordinate_shape, dtype=trainable.compute_dtype, device=trainable.parameter.device
        )
    return tensors[name]
