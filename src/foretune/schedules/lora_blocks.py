"""The two factors of LoRA as blocks, in turn or jointly, each with its own scale and learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import IncompatibleError, UsageError
from foretune.schedules.module_paths import lora_side
from foretune.types import AbstractSchedule, Block, Member, Parts, Trainable


@dataclass(frozen=True, kw_only=True)
class LoRABlocks(AbstractSchedule):
    """Block A holds every factor A of the model, block B every factor B, of ``W + (alpha / r) B A``.

        step t of a cycle of steps_b + steps_a: B moves while t < steps_b, then A; the other block rests
        E[change of X] = -lr * lr_scale_X * std_X^2 * gradient_X

    B goes first because it is zero at the start: until it has moved, the loss does not depend on A. No state: the
    place in the cycle follows from the step.

    Args:
        steps_a, steps_b: Steps of each block in a cycle.
        std_a, std_b: Standard deviation of the directions; it acts twice on the expected change.
        lr_scale_a, lr_scale_b: Factors on the learning rate.
        joint: Move both blocks at every step, along one direction, instead of in turn; steps have no effect.
    Raises:
        UsageError: fewer than one step, or a factor that is not positive and finite.
    References:
        ZOBCD-LoRA, "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass", supplement.
        Differs from the published code: a cycle has exactly steps_b and steps_a updates (there one more and one
        less).
    """

    steps_a: int = 20
    steps_b: int = 200
    std_a: float = 0.5
    std_b: float = 1.0
    lr_scale_a: float = 1.0
    lr_scale_b: float = 2.0
    joint: bool = False

    sequential = False

    def __post_init__(self) -> None:
        for name in ("steps_a", "steps_b"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("std_a", "std_b", "lr_scale_a", "lr_scale_b"):
            factor = getattr(self, name)
            if not (factor > 0 and math.isfinite(factor)):
                raise UsageError(f"{name} must be positive and finite, got {factor}.")

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse models without LoRA tensors, and other tensors beside them."""
        check_lora(type(self).__name__, trainables)

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return the block that moves at this step, or both as one."""
        is_b = step % (self.steps_b + self.steps_a) < self.steps_b
        sides = "AB" if self.joint else "B" if is_b else "A"
        members = {
            "A": lambda trainable: Member(trainable, std=self.std_a, lr=self.lr_scale_a),
            "B": lambda trainable: Member(trainable, std=self.std_b, lr=self.lr_scale_b),
        }
        sided = ((lora_side(trainable.name), trainable) for trainable in trainables)
        return (Block(tuple(members[side](trainable) for side, trainable in sided if side and side in sides)),)


def check_lora(part: str, trainables: Sequence[Trainable]) -> None:
    """Refuse trainable tensors other than both factors of LoRA adapters.

    Args:
        part: Who refuses.
        trainables: All tensors of the run.
    Raises:
        IncompatibleError: naming the tensor, or the factor that is missing.
    """
    sides = {trainable.name: lora_side(trainable.name) for trainable in trainables}
    for side in "AB":
        if side not in sides.values():
            raise IncompatibleError(
                f"{part} needs LoRA adapters, but the model has no trainable lora_{side} tensor. Tune with LoRA "
                "(--tuning lora, or a peft model), or choose another method."
            )
    other = next((name for name, side in sides.items() if side is None), None)
    if other is not None:
        raise IncompatibleError(
            f"{part} moves the factors A and B of LoRA adapters only, but '{other}' is trainable, too. Freeze it "
            "(requires_grad_(False)), or choose another method."
        )
