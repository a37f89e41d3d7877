"""ZO-Adam: Adam fed with SPSA's estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import Adam


@METHODS.register("zo_adam")
@dataclass(frozen=True, kw_only=True)
class ZOAdamMethod(AbstractMethod):
    """ZO-Adam: Adam on MeZO's gradient estimate.

        e = (1/q) sum_k g_k z_k
        m <- beta1 m + (1 - beta1) e,      v <- beta2 v + (1 - beta2) e^2
        theta <- theta - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + 1e-8)

    2 q forwards a step. State: two numbers for every trainable one.

    Args:
        lr: Learning rate. Published grids: 1e-6 to 1e-3 (RoBERTa-large, full), 1e-8 to 1e-5 (OPT, full).
        zo_eps: Perturbation scale. Published: 1e-3 (full).
        num_directions: Directions per step (q).
        betas: Decay of m and of v. Published: 0.9, 0.999.
        weight_decay: Weight decay on matrices.
        decoupled: Shrink the weights directly (AdamW) instead of adding the decay to the estimate.
    References:
        Malladi et al. 2023, arXiv:2305.17333 (MeZO-Adam). Zhang et al. 2024, arXiv:2402.11592 (ZO-Adam).
        Differs from the published code: the learning-rate schedule and the weight decay reach Adam; steps of the
        bias correction are counted per tensor.
    """

    class_name: ClassVar[str] = "ZOAdam"
    paper: ClassVar[str] = (
        "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark, arXiv:2402.11592"
    )
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {  # of the published grids
            "lora": {"lr": 1e-5},
            "prefix": {"lr": 1e-4},
            "prompt": {"lr": 1e-4},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.1}, num_steps=200)

    lr: float = 1e-6
    zo_eps: float = 1e-3
    num_directions: int = 1
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decoupled: bool = False

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x Adam x Whole."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=Adam(betas=self.betas, weight_decay=self.weight_decay, decoupled=self.decoupled),
            schedule=Whole(),
        )
