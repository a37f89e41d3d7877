"""MeZO: SPSA and plain descent, the baseline of the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foretune.directions import Gaussian
from foretune.estimators import finite_differences
from foretune.estimators.weighting import Weighting
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("mezo", aliases=("zo_sgd",))
@dataclass(frozen=True, kw_only=True)
class MeZOMethod(AbstractMethod):
    """MeZO (ZO-SGD): perturb every trainable tensor by one Gaussian vector, step along it.

        theta <- theta - lr * (1/q) sum_k g_k z_k
        g_k = (L(theta + zo_eps z_k) - L(theta - zo_eps z_k)) / (2 zo_eps)

    2 q forwards a step (one-sided: q + 1), no optimizer state.

    Args:
        lr: Learning rate. Published for OPT: 1e-6 or 1e-7 (full), 1e-4 or 5e-5 (LoRA), 1e-2 or 1e-3 (prefix).
        zo_eps: Perturbation scale. Published: 1e-3 (full), 1e-2 (LoRA), 1e-1 (prefix).
        num_directions: Directions per step (q).
        estimator: Central differences, or forward differences that share one clean loss.
        weighting: What becomes of the slopes g: ``mean`` as above; ``sum`` leaves out 1/q (an option of the
            published code); ``sign`` takes their signs; ``normalized`` divides by their standard deviation, q >= 2.
        ramp_steps: Steps over which the number of directions grows linearly from 1 to q; 0 for q from the start.
            Published: the length of the run (linear sample schedule).
        weight_decay: Weight decay on matrices.
        max_grad_norm: Norm to which longer estimates are scaled, over all tensors; 0 for no clipping.
    References:
        Malladi et al. 2023, arXiv:2305.17333, Algorithms 1 and 2.
        Differs from the published code: noise from a counter instead of the global generator, the weights are
        not perturbed in place, the logged loss is the mean of both sides; num_directions counts without a ramp too.
    """

    class_name: ClassVar[str] = "MeZO"
    paper: ClassVar[str] = "Fine-Tuning Language Models with Just Forward Passes, arXiv:2305.17333"
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "lora": {"lr": 5e-5, "zo_eps": 1e-2},
            "prefix": {"lr": 1e-3, "zo_eps": 1e-1},
            "prompt": {"lr": 1e-3, "zo_eps": 1e-2},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.05}, num_steps=150)

    lr: float = 1e-6
    zo_eps: float = 1e-3
    num_directions: int = 1
    estimator: Literal["two_sided", "one_sided"] = "two_sided"
    weighting: Weighting = "mean"
    ramp_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 0.0

    def parts(self) -> Parts:
        """Identity x Gaussian x (TwoSided or OneSided) x SGD x Whole."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=finite_differences(
                self.estimator,
                zo_eps=self.zo_eps,
                num_directions=self.num_directions,
                weighting=self.weighting,
                ramp_steps=self.ramp_steps,
            ),
            update=SGD(weight_decay=self.weight_decay, max_grad_norm=self.max_grad_norm),
            schedule=Whole(),
        )
