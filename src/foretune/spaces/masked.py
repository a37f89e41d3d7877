"""Gradient sparsity: only some entries of a tensor move, at random or those of small magnitude."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal

import torch
from torch import Tensor

from foretune import noise
from foretune.errors import UsageError, near_misses
from foretune.noise import NUM_LANES, LaneMask, MagnitudeMask, Mask, Noise, Purpose
from foretune.types import AbstractSpace, Combination, TensorState, Trainable

MAX_SAMPLED = 1_000_000
"""Entries from which the quantile over a whole model is estimated: rates are right to about 1e-4, and to find it at
every step costs less than the step's noise."""

_CHOICES = {"group": ("layer", "global"), "rule": ("random", "magnitude")}
_STATE = "mask_setting"  # the rate or threshold of this epoch, where it depends on the weights
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Masked(AbstractSpace):
    """Coordinates are the tensor's own entries, and those that a mask leaves out neither are perturbed nor move.

        lift(v) = M v, M the same for perturbation and update, chosen anew every `resample_interval` steps
        random:     M_j = 0 with probability s_i, independently; E[estimate] = (1 - s_i) gradient over masks
        magnitude:  M_j = 1 where |theta_j| <= limit_i, with a fraction `sparsity` of the entries above the limit

    Nothing is rescaled: given M, the estimate is MeZO's on the entries that are left. State: none for random masks
    of one rate (they are regenerated from noise), otherwise one number a tensor, s_i or limit_i.

    Args:
        sparsity: Fraction s of the entries that rest, in [0, 1). Published sweep: 0.1 to 0.9. Resolved to 1/65536.
        resample_interval: Steps between masks. Published: 1 (default), 10, 100, up to 20000.
        group: ``layer``: each tensor on its own, s_i = s. ``global``: limit_i is one number, the quantile of |theta|
            over all entries of all trainable tensors (of 1e6 of them, if there are more); a random mask takes as its
            s_i the fraction of the tensor's entries with |theta| at most the s-quantile. Tensors that are all zero
            (LoRA B at the start) are left out of the quantile and get s, or they would never move.
        rule: ``random`` or ``magnitude``. Under ``magnitude``, an all-zero tensor moves as a whole.
        parity: Replace each rate s_i by Phi(s_i), the rate of the published code.
    Raises:
        UsageError: a setting out of range, or `parity` with the magnitude rule.
    References:
        Zhang et al. 2024, arXiv:2402.11592, gradient sparsity (random). Liu et al. 2024, arXiv:2402.15751 (magnitude).
        Differs from the published code: the rate is the one asked for (a uniform draw is compared with s, not a
        normal one, unless `parity`); every direction and the update use the mask; frozen tensors are not counted.
    """

    sparsity: float = 0.5
    resample_interval: int = 1
    group: Literal["layer", "global"] = "layer"
    rule: Literal["random", "magnitude"] = "random"
    parity: bool = False

    masks: ClassVar[bool] = True
    state_names: ClassVar[tuple[str, ...]] = (_STATE,)

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity must be in [0, 1), got {self.sparsity}.")
        if self.resample_interval < 1:
            raise UsageError(f"resample_interval must be at least 1, got {self.resample_interval}.")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f"Unknown {name} {getattr(self, name)!r}.{near_misses(getattr(self, name), known)}")
        if self.parity and self.rule == "magnitude":
            raise UsageError("parity=True would have no effect: it is about the rate of random masks. Drop it.")

    def coordinate_shape(self, trainable: Trainable) -> tuple[int, ...]:
        """The tensor's own shape."""
        return trainable.shape

    def epoch(self, step: int) -> int:
        """``step // resample_interval``."""
        return step // self.resample_interval

    def estimate_scale(self, trainable: Trainable) -> float:
        """1: on the entries that move the estimate is unbiased as it is."""
        return 1.0

    def begin_epoch(self, states: Mapping[Trainable, TensorState], *, seed: int, epoch: int) -> None:
        """Take rates or limits from the weights as they are now."""
        if not self._looks_at_weights:
            return
        nonzero = [trainable for trainable in states if bool(trainable.parameter.any())]
        shared = _quantile(_sample(nonzero), self._fraction_below) if self.group == "global" and nonzero else 0.0
        for trainable, state in states.items():
            theta = trainable.parameter.detach()
            if self.rule == "random":
                setting = _fraction_up_to(theta, shared) if trainable in nonzero else self.sparsity
            elif self.group == "global":
                setting = shared
            else:
                setting = _quantile(theta.flatten().to(trainable.compute_dtype).abs(), self._fraction_below)
            state.tensors[_STATE] = torch.tensor(setting, dtype=trainable.compute_dtype)

    def mask(self, trainable: Trainable, state: TensorState, *, seed: int, epoch: int) -> Mask | None:
        """Return the tensor's mask in this epoch; None where everything moves."""
        setting = float(state.tensors[_STATE]) if self._looks_at_weights else self.sparsity
        if self.rule == "magnitude":
            return MagnitudeMask(setting) if self._looks_at_weights else None
        rate = NormalDist().cdf(setting) if self.parity else setting
        num_kept = round((1 - rate) * NUM_LANES)
        if num_kept == NUM_LANES:
            return None
        return LaneMask(Noise(noise.mix(seed, epoch), trainable.stream, Purpose.MASK), 0, num_kept)

    def add(
        self,
        trainable: Trainable,
        vector: Combination,
        *,
        out: Tensor,
        base: Tensor,
        seed: int,
        epoch: int,
        scale: float = 1.0,
        rounding: Noise | None = None,
        rows: Tensor | None = None,
        mirrored: Tensor | None = None,
    ) -> None:
        """Write ``out = scale * base + vector`` in one pass; the vector carries its mask."""
        vector.add_to(out, base, scale=scale, rounding=rounding, rows=rows, mirrored=mirrored)

    def transport(self, trainable: Trainable, vector: Tensor, *, seed: int, old_epoch: int, new_epoch: int) -> Tensor:
        """Return `vector` itself: the coordinates stay, only which of them move changes."""
        return vector

    def num_state_elements(self, trainable: Trainable) -> int:
        """1 where the mask depends on the weights: the tensor's rate or limit."""
        return 1 if self._looks_at_weights else 0

    @property
    def _looks_at_weights(self) -> bool:
        return self.sparsity > 0 and (self.group == "global" or self.rule == "magnitude")

    @property
    def _fraction_below(self) -> float:
        """Fraction of the entries that lie at or below the quantile that is looked for."""
        return self.sparsity if self.rule == "random" else 1 - self.sparsity


def _fraction_up_to(theta: Tensor, limit: float) -> float:
    return int(noise.kept(MagnitudeMask(limit), theta).sum()) / theta.numel()


def _sample(trainables: Sequence[Trainable]) -> Tensor:
    """Return |theta| over all entries, or over at most about `MAX_SAMPLED` of them, evenly from each tensor.

    Entries are taken at multiples of the golden ratio (modulo the tensor's size), which fall evenly into rows and
    columns and, unlike a stride, have no common divisor with the length of a row.
    """
    share = min(1.0, MAX_SAMPLED / sum(trainable.parameter.numel() for trainable in trainables))
    parts = []
    for trainable in trainables:
        theta = trainable.parameter.detach().flatten()
        if share < 1.0:
            place = torch.arange(math.ceil(share * theta.numel()), dtype=torch.float64, device=theta.device)
            theta = theta[place.mul_(_GOLDEN).frac_().mul_(theta.numel()).long()]
        parts.append(theta.to(trainable.compute_dtype).abs())
    return torch.cat(parts)


def _quantile(values: Tensor, fraction: float) -> float:
    """Return the smallest value with at least this fraction of all values at or below it."""
    rank = math.ceil(fraction * values.numel() - 1e-9)  # 0.1 * 10 must not round up to the second value
    return float(values.kthvalue(max(1, rank)).values)
