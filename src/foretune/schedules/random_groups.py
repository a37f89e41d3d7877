"""All trainable numbers in two random groups that move one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from foretune import noise
from foretune.errors import IncompatibleError, UsageError, near_misses
from foretune.noise import NUM_LANES, LaneMask, Noise, Purpose
from foretune.types import AbstractSchedule, Block, Member, Parts, Trainable

_GRANULARITIES = ("element", "tensor")


@dataclass(frozen=True, kw_only=True)
class RandomGroups(AbstractSchedule):
    """Every number is thrown into one of two groups by a fair coin, once for the run; each step visits both.

        group 1 is measured and moves, then group 2 is measured where group 1 has moved to (Gauss-Seidel)
        E[change of group k] = -lr * stds[k]^2 * gradient

    Twice the forwards of one estimate, no state: the split is regenerated from the run's seed. State of an update
    rule is shared by both groups of a tensor: an average decays at both visits.

    Args:
        stds: Standard deviations of the directions of group 1 and 2; they act twice on the expected change.
        granularity: ``element`` splits each tensor, ``tensor`` throws one coin for each.
    Raises:
        UsageError: a standard deviation that is not positive and finite, or an unknown granularity.
    References:
        RGS-BCD, supplement of "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass",
        Algorithm 2, which leaves the split open (a fair coin an element is our choice).
        Differs from the listing: the groups' directions are independent (there one seed serves both).
    """

    stds: tuple[float, float] = (1.0, 0.5)
    granularity: Literal["element", "tensor"] = "element"

    sequential = True

    def __post_init__(self) -> None:
        if len(self.stds) != 2 or not all(std > 0 and math.isfinite(std) for std in self.stds):
            raise UsageError(f"stds must be two positive numbers, got {self.stds}.")
        if self.granularity not in _GRANULARITIES:
            raise UsageError(
                f"Unknown granularity {self.granularity!r}.{near_misses(self.granularity, _GRANULARITIES)}"
            )

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse to split the entries of tensors whose coordinates are others, or are masked already."""
        if self.granularity == "tensor":
            return
        space = type(parts.space).__name__
        lifted = next((trainable.name for trainable in trainables if parts.space.lifts(trainable)), None)
        if lifted is not None:
            raise IncompatibleError(
                f"RandomGroups cannot be combined with {space}: it splits the entries of '{lifted}', which move "
                "jointly there. Use granularity='tensor'."
            )
        if parts.space.masks:
            raise IncompatibleError(
                f"RandomGroups cannot be combined with {space}: both mask the entries of a tensor. Use "
                "granularity='tensor'."
            )

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return both groups (one, if all coins of whole tensors fell alike)."""
        groups = [self._members(group, trainables, seed) for group in (0, 1)]
        return [Block(members) for members in groups if members]

    def _members(self, group: int, trainables: Sequence[Trainable], seed: int) -> tuple[Member, ...]:
        std = self.stds[group]
        if self.granularity == "tensor":
            return tuple(Member(t, std=std) for t in trainables if _coin(seed, t.stream) == group)
        return tuple(Member(t, std=std, mask=_half(seed, t.stream, group)) for t in trainables)


def _half(seed: int, stream: int, group: int) -> LaneMask:
    middle = NUM_LANES // 2
    return LaneMask(Noise(noise.mix(seed, 0), stream, Purpose.SPLIT), group * middle, (group + 1) * middle)


@lru_cache(maxsize=1 << 16)
def _coin(seed: int, stream: int) -> int:
    return int(noise.lanes(1, _half(seed, stream, 0).address)) * 2 // NUM_LANES
