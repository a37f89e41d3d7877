"""FZOO: steps as long as the loss is rough, from one-sided random signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from foretune.directions import Rademacher
from foretune.estimators import OneSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("fzoo")
@dataclass(frozen=True, kw_only=True)
class FZOOMethod(AbstractMethod):
    """FZOO: one-sided differences along N random sign vectors, over the spread of their losses.

        L_i = L(theta + zo_eps u_i),  u_i of +1 and -1,  sigma = population standard deviation of the L_i
        theta <- theta - lr / (N sigma) * sum_i (L_i - L(theta)) u_i

    sigma is about zo_eps times the length of the gradient, so this is normalized descent: neither zo_eps nor the
    loss's unit changes the step. No step where sigma < 1e-12. N + 1 forwards a step, no optimizer state.

    Args:
        lr: Learning rate. Published for OPT-13B, full: 5e-5.
        zo_eps: Perturbation scale. Published: 1e-4 (README), 1e-3 (script).
        num_directions: N, at least 2. Published: 8.
        weight_decay: Weight decay on matrices.
    References:
        Dang et al. 2025, arXiv:2506.09034.
        Differs from the published code: equal losses make no step instead of a division by 0; the reuse of the
        last step's losses, which nothing there switches on, is left out.
    """

    class_name: ClassVar[str] = "FZOO"
    paper: ClassVar[str] = "Fast Zeroth-Order Optimizer for Fine-Tuning LLMs towards Adam-Scale Speed, arXiv:2506.09034"
    family: ClassVar[str] = "ZO-SGD"
    toy: ClassVar[Toy] = Toy(options={"lr": 0.05}, num_steps=120)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"its_mean_estimate_is_the_gradient": "the estimate is divided by its own scale"}
    )

    lr: float = 5e-5
    zo_eps: float = 1e-4
    num_directions: int = 8
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x Rademacher x OneSided, normalized x SGD x Whole."""
        return Parts(
            space=Identity(),
            direction=Rademacher(),
            estimator=OneSided(zo_eps=self.zo_eps, num_directions=self.num_directions, weighting="normalized"),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
