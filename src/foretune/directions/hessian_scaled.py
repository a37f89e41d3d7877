"""Directions that are short where the loss is curved (HiZOO)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foretune.errors import IncompatibleError, UsageError, near_misses
from foretune.noise import Noise, Purpose
from foretune.pieces import piece_bounds
from foretune.types import AbstractDirection, Combination, Draw, Parts, TensorState, Trainable

STATE = "log_hessian"
FORMS = ("biased", "unbiased")
PRECONDITIONERS = ("old", "new")


@dataclass(frozen=True, kw_only=True)
class HessianScaled(AbstractDirection):
    """y = z / sqrt(H), z ~ N(0, 1), with a running estimate H > 0 of the diagonal of the Hessian, 1 at first.

        biased:    H <- (1 - smooth) H + smooth / 2 |curvature| H z^2
        unbiased:  H <- (1 - smooth) H + smooth / 2  curvature  H (z^2 - 1)

    The curvature is that along y. On a quadratic with diagonal a, the unbiased increment has mean a_i; the biased
    one ``a_i + H_i/2 sum_j a_j / H_j``: each entry then grows with the curvature of all, so that H acts as a
    decaying learning rate more than as a preconditioner. Of an estimate g y the mean is the gradient divided by H.

    Where a schedule scales the directions of a tensor by std, H is the curvature in the coordinates theta / std, std^2
    times that of theta: the run is the one that those coordinates would have without the schedule.

    State: log H, one number per coordinate, float32 (float64 for float64 weights); the logarithm because H stays
    near 1, where float32 would round the increments of a small `smooth` away. Each draw makes y: a temporary of one
    tensor's coordinates.

    Args:
        smooth: Share of the new curvature in H, in [0, 1]; 0 leaves plain Gaussian directions. Published: 0 (code),
            1e-8 (README).
        form: The paper's `biased` one, or the `unbiased` one.
        precond: Whether the step follows the measured direction (`old` H), or ``z / sqrt(H)`` with the `new` H.
        floor, ceiling: Limits of H.
    Raises:
        UsageError: a setting out of range.
    References:
        Zhao et al. 2024, arXiv:2402.15173, Algorithm 1.
        Differs from the published code: H does not take part in half precision (there 1 - 1e-8 rounds to 1 and H
        never changes); the step follows the measured direction unless precond is `new`.
    """

    smooth: float = 1e-6
    form: Literal["biased", "unbiased"] = "biased"
    precond: Literal["old", "new"] = "old"
    floor: float = 1e-6
    ceiling: float = 1e6

    def __post_init__(self) -> None:
        if not 0 <= self.smooth <= 1:
            raise UsageError(f"smooth must be in [0, 1], got {self.smooth}.")
        if not 0 < self.floor <= 1 <= self.ceiling < math.inf:
            raise UsageError(
                f"floor and ceiling must be positive and finite with 1 between them, got {self.floor}, {self.ceiling}."
            )
        for name, known in (("form", FORMS), ("precond", PRECONDITIONERS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"Unknown {name} {value!r}.{near_misses(str(value), known)}")

    @property
    def advances_first(self) -> bool:
        """Whether the step already follows the new H."""
        return self.precond == "new"

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse an estimator that does not see curvature, and entries that rest while others are measured."""
        if not parts.estimator.measures_curvature:
            raise IncompatibleError(
                f"HessianScaled cannot be combined with {type(parts.estimator).__name__}, which measures no "
                "curvature. Use SecondDifference."
            )
        masking = parts.masking_part(trainables)
        if masking is not None:
            raise IncompatibleError(
                f"HessianScaled cannot be combined with {type(masking).__name__}: entries that rest would be given the "
                "curvature of those that were measured."
            )

    def draw(
        self, trainable: Trainable, state: TensorState, *, key: int, step: int, coordinate_shape: tuple[int, ...]
    ) -> Draw:
        """Return y of this tensor and key."""
        z = _gaussian(trainable, key)
        log_hessian = state.tensors.get(STATE)
        if log_hessian is None:
            return Draw(z)
        y = torch.empty_like(log_hessian)
        for start, stop in piece_bounds(y.numel()):
            part = y.view(-1)[start:stop]
            torch.mul(log_hessian.view(-1)[start:stop], -0.5, out=part).exp_()
            part.mul_(z.materialize_part(start, stop, coordinate_shape, trainable.parameter))
        return Draw(Combination(dense=(1.0, y)))

    def advance(
        self,
        trainable: Trainable,
        state: TensorState,
        *,
        keys: Sequence[int],
        step: int,
        coordinate_shape: tuple[int, ...],
        scalars: tuple[float, ...],
    ) -> None:
        """Let H follow the curvature that was measured."""
        z, parameter = _gaussian(trainable, keys[0]), trainable.parameter
        if STATE not in state.tensors:
            state.tensors[STATE] = parameter.new_zeros(coordinate_shape, dtype=trainable.compute_dtype)
        log_hessian = state.tensors[STATE].view(-1)
        for start, stop in piece_bounds(log_hessian.numel()):
            self.follow(
                log_hessian[start:stop], z.materialize_part(start, stop, coordinate_shape, parameter), scalars[-1]
            )

    def follow(self, log_hessian: Tensor, z: Tensor, curvature: float | Tensor) -> None:
        """Change log H in place after a step along ``z / sqrt(H)``; `z` is overwritten as well.

        log H <- log H + log(1 + smooth/2 |curvature| z^2 - smooth),    or with ``curvature (z^2 - 1)`` in the middle.
        """
        if self.form == "biased":
            gain = 0.5 * self.smooth * abs(curvature)
            growth = z.square_().mul_(gain).sub_(self.smooth)
        else:
            gain = 0.5 * self.smooth * curvature
            growth = z.square_().sub_(1.0).mul_(gain).sub_(self.smooth)
        # where the new H would be negative its logarithm is -inf, and the floor takes its place
        growth.clamp_(min=-1.0).log1p_()
        log_hessian.add_(growth).clamp_(math.log(self.floor), math.log(self.ceiling))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """One per coordinate."""
        return math.prod(coordinate_shape)

    def refresh(self, tensors: Mapping[str, Tensor], transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Keep H as it is: it is no vector, and what is known of one basis is the best guess in the next."""
        return {STATE: tensors[STATE]} if STATE in tensors else {}


def _gaussian(trainable: Trainable, key: int) -> Combination:
    return Combination(noise=((1.0, Noise(key, trainable.stream, Purpose.DIRECTION)),))
