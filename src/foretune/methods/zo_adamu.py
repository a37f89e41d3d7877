"""ZO-AdaMU: the perturbation itself carries momentum, and the step is divided by its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from foretune.estimators import TwoSided
from foretune.methods.annealed import AbstractAnnealedMethod
from foretune.methods.base import METHODS, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import AdaMU


@METHODS.register("zo_adamu")
@dataclass(frozen=True, kw_only=True)
class ZOAdaMUMethod(AbstractAnnealedMethod):
    """ZO-AdaMU: measure along a mix of fresh noise and the direction before, divide by the mix's uncertainty.

        fresh = sqrt(alpha) z,      history = m_{t-1} + sqrt(1 - alpha) xi          z, xi ~ N(0, 1)
        m_t = beta1 fresh + (1 - beta1) history,    v_t = beta2 fresh^2 + (1 - beta2) history^2
        theta <- theta - lr * (g m_t / sqrt(v_t + sigma) + weight_decay * theta)
        g = (L(theta + zo_eps m_t) - L(theta - zo_eps m_t)) / (2 zo_eps)

    alpha, beta1 and beta2 are 1 until t1 (the step is then ``lr g sign(z)``), annealed until t2 and constant from
    there on. 2 forwards a step. State: m, one number per weight.

    Args:
        lr: Learning rate of the normalised step. Published: 1e-4 (full and prefix), 1e-2 (LoRA), 1e-3 (prompt).
        zo_eps: Perturbation scale. Published: 1e-3 (full), 1e-2 (prefix, prompt), 1e-1 (LoRA).
        total_steps: Length of the run, for t1, t2 and t3; the command line and the trainer fill it in.
        t1: Updates of a tensor before annealing begins; default a quarter of `total_steps`. Published: 1024.
        t2: Updates after which it ends; default half of `total_steps`. Published: 0.8 of the run.
        t3: Updates in all, which shapes the annealing; default `total_steps`.
        alpha_target: Variance of the fresh noise in the end.
        beta1_target: Share of the fresh part in m in the end.
        beta2_target: Share of the fresh part in v in the end.
        phi_alpha: Shape of alpha's annealing.
        phi_beta1: Shape of beta1's annealing.
        phi_beta2: Shape of beta2's annealing.
        sigma: Keeps the root from 0.
        weight_decay: Weight decay on matrices.
    References:
        Jiang et al. 2024, arXiv:2312.15184, Algorithm 1.
        Differs from the published code: the update follows the measured m (there the weights of the mix differ
        between the two), the annealing has no jumps, sigma is inside the root as in the paper.
    """

    class_name: ClassVar[str] = "ZOAdaMU"
    paper: ClassVar[str] = (
        "ZO-AdaMU Optimizer: Adapting Perturbation by the Momentum and Uncertainty in Zeroth-order Optimization, "
        "arXiv:2312.15184"
    )
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "lora": {"lr": 1e-2, "zo_eps": 1e-1},
            "prefix": {"lr": 1e-4, "zo_eps": 1e-2},
            "prompt": {"lr": 1e-3, "zo_eps": 1e-2},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.02, "t1": 2, "t2": 6, "t3": 12}, num_steps=300)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "its_mean_estimate_is_the_gradient": "after the warm-up the mean of g m is c^2 times the gradient, "
            "c^2 = beta1^2 alpha + (1 - beta1)^2 (1 - alpha), plus a pull along the direction before"
        }
    )

    lr: float = 1e-4
    beta2_target: float = 0.01
    phi_beta2: float = 1.5
    sigma: float = 1e-8
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x MomentumGuided x TwoSided x AdaMU x Whole."""
        return Parts(
            space=Identity(),
            direction=self.momentum_guided(beta2_target=self.beta2_target, phi_beta2=self.phi_beta2),
            estimator=TwoSided(zo_eps=self.zo_eps),
            update=AdaMU(sigma=self.sigma, weight_decay=self.weight_decay),
            schedule=Whole(),
        )
