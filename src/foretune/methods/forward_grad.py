"""Forward-Grad: descent along a random direction by its exact slope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from foretune.directions import Gaussian
from foretune.estimators import ForwardMode
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("forward_grad")
@dataclass(frozen=True, kw_only=True)
class ForwardGradMethod(AbstractMethod):
    """Forward-Grad: MeZO's step with the exact slope along z, from one forward-mode pass.

        theta <- theta - lr * (1/q) sum_k <gradient, z_k> z_k

    q forward-mode passes a step, no perturbation scale, no optimizer state. The loss has to be differentiable, and the
    model free of operators without a forward-mode rule (fused attention is replaced by its plain form meanwhile).

    Args:
        lr: Learning rate. Published for OPT-1.3B: 5e-7 (full), 1e-5 (LoRA), 5e-4 (prefix); grid of prompt tuning:
            5e-5 to 1e-2.
        num_directions: Directions per step (q).
        weight_decay: Weight decay on matrices.
    References:
        Baydin et al. 2022, arXiv:2202.08587, Algorithm 1; Zhang et al. 2024, arXiv:2402.11592 (Forward-Grad).
        Differs from the published code: a layer's z exists while that layer runs only, and the derivative is taken of
        the loss alone, not of every output of the model.
    """

    class_name: ClassVar[str] = "ForwardGrad"
    paper: ClassVar[str] = "Gradients without Backpropagation, arXiv:2202.08587"
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"lora": {"lr": 1e-5}, "prefix": {"lr": 5e-4}, "prompt": {"lr": 1e-3}}
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.05}, num_steps=150)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"any_closure_will_do": "a derivative needs the loss as a tensor, a number has none"}
    )

    lr: float = 5e-7
    num_directions: int = 1
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x Gaussian x ForwardMode x SGD x Whole."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=ForwardMode(num_directions=self.num_directions),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
