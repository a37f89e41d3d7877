"""Everything moves at every step; layers with large weights are perturbed less."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from foretune.errors import UsageError, near_misses
from foretune.norms import norm
from foretune.schedules.module_paths import partition
from foretune.schedules.whole import Whole
from foretune.types import AbstractSchedule, Block, Member, TensorState, Trainable

_FORMS = ("variance", "expectation")
_NORM = "group_norm"


@dataclass(frozen=True, kw_only=True)
class NormScaled(AbstractSchedule):
    """One block with every tensor, whose directions are divided by the norm c of the weights of its layer.

        group l is perturbed by zo_eps z_l / c_l,    c_l = ||theta_l||, or 1 where theta_l = 0
        variance:       estimate_l = g c_l z_l,  E[estimate_l] = gradient_l
        expectation:    estimate_l = g z_l,      E[estimate_l] = gradient_l / c_l

    Groups are the layers; what is outside of them (embeddings, a final norm, a head) is parted by modules. Only
    trainable tensors count. A group with c = 100 is perturbed by a hundredth of zo_eps: give a larger one.

    No further forwards. State: c, one number a tensor, taken from the weights when a step begins, also in a replay.

    Args:
        form: ``variance`` changes how noisy the estimate of each group is, ``expectation`` what it estimates.
        interval: Steps after which c is taken anew; None keeps that of the first weights.
        scale_by_num_params: Divide c by the square root of how many numbers the group has: their root mean square.
        matrix_lr_scale: Factor on the learning rate of matrices (not of biases and norm weights).
        vector_lr_scale: Factor on the learning rate of the others.
    Raises:
        UsageError: an unknown form, an interval below 1, or a factor that is not positive.
    References:
        Malladi et al. 2023, arXiv:2305.17333, variance- and expectation-modified SPSA; their code for medium-sized
        models (zo_variant=param_norm, recompute_norms, scale_norm_by_num_params).
        Differs from the published code: scale_by_num_params divides by the root of the number of parameters (there by
        the root of c), and groups follow the structure of any model. Left out is c = |g| of a probe of each group
        alone (zo_variant=grad_norm, norm_running_update): g is Gaussian around 0, so 1 / |g| has no mean and the
        perturbation no bound, and a schedule would have to measure losses, which here the estimator alone does.
    """

    form: Literal["variance", "expectation"] = "variance"
    interval: int | None = None
    scale_by_num_params: bool = False
    matrix_lr_scale: float = 1.0
    vector_lr_scale: float = 1.0

    sequential = False
    state_names: ClassVar[tuple[str, ...]] = (_NORM,)

    def __post_init__(self) -> None:
        if self.form not in _FORMS:
            raise UsageError(f"Unknown form {self.form!r}.{near_misses(self.form, _FORMS)}")
        if self.interval is not None and self.interval < 1:
            raise UsageError(f"interval must be at least 1, got {self.interval}.")
        self._whole()  # refuses factors out of range

    def _whole(self) -> Whole:
        return Whole(matrix_lr_scale=self.matrix_lr_scale, vector_lr_scale=self.vector_lr_scale)

    def blocks(self, step: int, trainables: Sequence[Trainable], *, seed: int) -> Sequence[Block]:
        """Return one block."""
        return self._whole().blocks(step, trainables, seed=seed)

    def begin_step(self, step: int, states: Mapping[Trainable, TensorState]) -> None:
        """Take c from the weights, at the first step and after each interval."""
        if step != 0 and (self.interval is None or step % self.interval != 0):
            return
        trainables = tuple(states)
        for group in partition(tuple(trainable.name for trainable in trainables), "block"):
            members = [trainables[index] for index in group]
            size = math.hypot(*(norm(trainable.parameter) for trainable in members))
            if self.scale_by_num_params:
                size /= math.sqrt(sum(trainable.parameter.numel() for trainable in members))
            for trainable in members:
                states[trainable].tensors[_NORM] = torch.tensor(size or 1.0, dtype=trainable.compute_dtype)

    def member(self, member: Member, state: TensorState) -> Member:
        """Return the member with c in its factors; weight decay is left as it is."""
        size = float(state.tensors[_NORM])
        return replace(member, std=1.0 / size, scale=size**2 if self.form == "variance" else size)

    def num_state_elements(self, trainable: Trainable) -> int:
        """One, the norm of its group."""
        return 1
