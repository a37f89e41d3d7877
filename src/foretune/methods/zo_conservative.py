"""ZO-SGD-Cons: MeZO's step, tried in both senses before it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from foretune.directions import Gaussian
from foretune.estimators.finite_differences import Sides, finite_differences
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import Conservative


@METHODS.register("zo_conservative", aliases=("zo_conserv", "zo_sgd_cons"))
@dataclass(frozen=True, kw_only=True)
class ZOConservativeMethod(AbstractMethod):
    """ZO-SGD-Cons: of staying, MeZO's step and its opposite, what the batch likes best.

        e = (1/q) sum_k g_k z_k
        theta <- argmin of L over theta, theta - lr * e, theta + lr * e     (ties in this order)

    2 q + 3 forwards a step (one-sided: q + 3, the clean loss is shared), all on one batch; no optimizer state. The
    loss of the batch never rises.

    Args:
        lr: Learning rate. Published grid: 1e-8 to 1e-5 (full), 1e-7 to 1e-4 (LoRA, prompt).
        zo_eps: Perturbation scale. Published grid: 1e-4 to 1e-2.
        num_directions: Directions per step (q).
        estimator: Central differences, or forward differences that share one clean loss.
        weight_decay: Decoupled weight decay on matrices, after the choice.
    References:
        Zhang et al. 2024, arXiv:2402.11592 (ZO-SGD-Cons).
        Differs from the published code: the trial steps are this rule's own (there, an optimizer left at its
        default was stepped instead), and the candidates are judged with the rounding that the update will use.
    """

    class_name: ClassVar[str] = "ZOConservative"
    paper: ClassVar[str] = (
        "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark, arXiv:2402.11592"
    )
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {  # MeZO's, within the published grids
            "lora": {"lr": 5e-5, "zo_eps": 1e-2},
            "prefix": {"lr": 1e-3, "zo_eps": 1e-1},
            "prompt": {"lr": 1e-4, "zo_eps": 1e-2},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.1}, num_steps=150)

    lr: float = 1e-6
    zo_eps: float = 1e-3
    num_directions: int = 1
    estimator: Sides = "two_sided"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x Gaussian x (TwoSided or OneSided) x Conservative x Whole."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=finite_differences(self.estimator, zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=Conservative(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
