"""HiZOO: shorter directions where the loss is curved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foretune.directions import HessianScaled
from foretune.estimators import SecondDifference
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("hizoo")
@dataclass(frozen=True, kw_only=True)
class HiZOOMethod(AbstractMethod):
    """HiZOO: MeZO along ``z / sqrt(H)``, H a running estimate of the diagonal of the Hessian.

        y = z / sqrt(H),    g = (L(theta + zo_eps y) - L(theta - zo_eps y)) / (2 zo_eps)
        curvature = (L(theta + zo_eps y) + L(theta - zo_eps y) - 2 L(theta)) / zo_eps^2
        theta <- theta - lr * (g y + weight_decay * theta)
        H <- (1 - smooth) H + smooth / 2 |curvature| H z^2,      H = 1 at first

    3 forwards a step. State: log H, one number per weight.

    Args:
        lr: Learning rate. Published: 1e-6 (full), 1e-5 to 1e-4 (LoRA).
        zo_eps: Perturbation scale. Published: 1e-3 (full), 1e-3 or 1e-2 (LoRA).
        smooth: Share of the new curvature in H, 1e-8 to 1e-3. H grows to about ``1 + smooth * steps * curvature/2``:
            for an OPT of 4 million parameters (curvature 2000) the default gives 1.4 after 400 steps, 20 after
            20,000. Published: 1e-8 (README), with which H hardly leaves 1, and 0 (the code's default), which is
            MeZO at the price of a third forward.
        form: How H follows the curvature: the paper's `biased` form, or one whose mean is the diagonal (`unbiased`:
            ``z^2 - 1`` in place of ``z^2``, and the curvature with its sign).
        precond: Whether the step follows the measured direction (`old` H) or ``z / sqrt(H)`` with the `new` H, as
            the published code does.
        weight_decay: Weight decay on matrices.
    References:
        Zhao et al. 2024, arXiv:2402.15173, Algorithm 1.
        Differs from the published code: H is kept in float32 (in half precision 1 - 1e-8 is 1 and H stays 1), is
        part of a checkpoint, and the step follows the direction that was measured; no fourth forward for logging.
    """

    class_name: ClassVar[str] = "HiZOO"
    paper: ClassVar[str] = (
        "Second-Order Fine-Tuning without Pain for LLMs: A Hessian Informed Zeroth-Order Optimizer, arXiv:2402.15173"
    )
    family: ClassVar[str] = "second order"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "lora": {"lr": 5e-5},
            "prefix": {"lr": 1e-3, "zo_eps": 1e-1},  # MeZO's, which it is at first
            "prompt": {"lr": 1e-3, "zo_eps": 1e-2},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.05, "smooth": 1e-3}, num_steps=200)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"its_mean_estimate_is_the_gradient": "the mean of g y is the gradient divided by H, which leaves 1 at step 1"}
    )

    lr: float = 1e-6
    zo_eps: float = 1e-3
    smooth: float = 1e-6
    form: Literal["biased", "unbiased"] = "biased"
    precond: Literal["old", "new"] = "old"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x HessianScaled x SecondDifference x SGD x Whole."""
        return Parts(
            space=Identity(),
            direction=HessianScaled(smooth=self.smooth, form=self.form, precond=self.precond),
            estimator=SecondDifference(zo_eps=self.zo_eps),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
