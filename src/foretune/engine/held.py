"""Which tensors are so small that perturbed copies of all of them are held at a time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from foretune.types import Trainable

HELD_SHARE = 1 / 256
"""Of the memory of the model's parameters, that copies which are held may take."""
HELD_NUMEL = 1 << 18
"""Numbers that a tensor which is held may have: the noise of more takes longer than what is done beside it."""


def choose_held(model: nn.Module, trainables: Sequence[Trainable]) -> tuple[Trainable, ...]:
    """Return the smallest of the tensors, as many as take a 256th of the memory of the model's parameters together.

    Those are biases and the weights of norms, or an adapter as a whole. What is done for each of them before and after
    its layer runs would take longer than its noise.
    """
    room = HELD_SHARE * sum(parameter.nbytes for parameter in model.parameters())
    small = [trainable for trainable in trainables if trainable.parameter.numel() <= HELD_NUMEL]
    held: set[Trainable] = set()
    for trainable in sorted(small, key=lambda trainable: trainable.parameter.nbytes):
        room -= trainable.parameter.nbytes
        if room < 0:
            break
        held.add(trainable)
    return tuple(trainable for trainable in trainables if trainable in held)
