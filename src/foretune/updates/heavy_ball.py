"""Heavy-ball momentum, stored or regenerated from the noise it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from foretune.errors import IncompatibleError, UsageError
from foretune.types import AbstractUpdate, Change, Combination, Parts, TensorState, Trainable, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor
from foretune.updates.state import state_tensor

_NUMBER_BYTES = 8  # of a coefficient (float64) and of a key (the bits of an unsigned integer, as int64)


@dataclass(frozen=True, kw_only=True)
class HeavyBall(AbstractUpdate):
    """theta <- (1 - lr * weight_decay) theta - lr * lift(m), with a decaying sum of estimates in coordinates.

        m <- momentum * m + estimate

    Neither dampening nor Nesterov's point: a constant estimate is followed with lr / (1 - momentum) in the end.

    State: one number per coordinate, float32 (float64 for float64 weights). With `num_terms`, instead, m is what it
    is made of, ``sum_j c_j z_j``: the coefficients and noise keys of the last `num_terms` directions, 16 bytes each
    for every tensor, and a step regenerates as many z.

    Args:
        momentum: mu, in [0, 1). 0 is plain descent, without state.
        num_terms: None stores m; otherwise how many directions are remembered (q for every step that counts).
        weight_decay: Applied to matrices only, decoupled.
    Raises:
        UsageError: a setting out of range.
    References:
        Zhang et al. 2024, arXiv:2402.11592 (ZO-SGD-MMT). Malladi et al. 2023, arXiv:2305.17333 (momentum
        from the last keys and slopes).
    """

    momentum: float = 0.9
    num_terms: int | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum must be in [0, 1), got {self.momentum}.")
        if self.num_terms is not None and self.num_terms < 1:
            raise UsageError(f"num_terms must be at least 1, or None to store the momentum, got {self.num_terms}.")

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse to regenerate a momentum that is not made of plain noise in the weights' own coordinates."""
        if self.num_terms is None:
            return
        if any(parts.space.lifts(trainable) for trainable in trainables):
            raise _no_plain_noise(type(parts.space).__name__, "its coordinates are not the weights")
        masking = parts.masking_part(trainables)
        if masking is not None:
            raise _no_plain_noise(type(masking).__name__, "its masks change")
        if not all(_is_plain_noise(parts, trainable) for trainable in trainables):
            raise _no_plain_noise(type(parts.direction).__name__, "its directions are more than one draw of noise")

    def apply(self, context: UpdateContext) -> Change:
        """Advance m and return the change."""
        if self.momentum == 0:
            total = context.estimate
        elif self.num_terms is None:
            stored = state_tensor(context, "momentum")
            context.estimate.accumulate_into(stored, decay=self.momentum, weight=context.member.trainable.parameter)
            total = Combination(dense=(1.0, stored))
        else:
            if context.estimate.mask is not None:  # by a schedule that masked nothing at its first step
                raise _no_plain_noise("a schedule with masks", "they change")
            total = self._advance_terms(context.estimate, context.state, self.num_terms)
        return Change(decay_factor(context, self.weight_decay), total.scaled(-context.lr))

    def _advance_terms(self, estimate: Combination, state: TensorState, num_terms: int) -> Combination:
        """Put the estimate's terms before the remembered ones, forget the oldest, and return m."""
        terms = list(estimate.noise)
        if "keys" in state.tensors:
            coefficients, keys = state.tensors["coefficients"], state.tensors["keys"]
            terms += [
                (self.momentum * coefficient, replace(terms[0][1], key=key % 2**64))
                for coefficient, key in zip(coefficients.tolist(), keys.tolist(), strict=True)
            ]
        terms = terms[:num_terms]
        missing = [0] * (num_terms - len(terms))
        coefficients = torch.tensor([coefficient for coefficient, _ in terms] + missing, dtype=torch.float64)
        keys = torch.tensor([_signed(address.key) for _, address in terms] + missing, dtype=torch.int64)
        state.tensors |= {"coefficients": coefficients, "keys": keys}
        return Combination(noise=tuple(terms))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """One per coordinate, or the bytes of the remembered terms in numbers of the compute dtype."""
        if self.momentum == 0:
            return 0
        if self.num_terms is None:
            return math.prod(coordinate_shape)
        return self.num_terms * 2 * _NUMBER_BYTES // trainable.compute_dtype.itemsize


def _no_plain_noise(part: str, why: str) -> IncompatibleError:
    return IncompatibleError(
        f"HeavyBall with num_terms cannot be combined with {part}: {why}, and noise keys alone do not give the "
        "momentum again. Store it: num_terms=None."
    )


def _is_plain_noise(parts: Parts, trainable: Trainable) -> bool:
    """Whether a direction is a multiple of one regenerable noise tensor at every step."""
    shape = parts.space.coordinate_shape(trainable)
    vector = parts.direction.draw(trainable, TensorState(), key=0, step=0, coordinate_shape=shape).vector
    is_one_draw = len(vector.noise) == 1 and vector.dense is None and not vector.products
    return is_one_draw and parts.direction.num_state_elements(trainable, shape) == 0


def _signed(key: int) -> int:
    """The int64 with the bits of a 64-bit key."""
    return key - 2**64 if key >= 2**63 else key
