"""EGGROLL: an evolution strategy whose members differ by matrices of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from foretune.directions import LowRankProduct
from foretune.estimators import Population
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("eggroll")
@dataclass(frozen=True, kw_only=True)
class EGGROLLMethod(AbstractMethod):
    """EGGROLL: ES along products of two fresh Gaussian factors, in pairs.

        E_k = A_k B_k^T / sqrt(rank) for matrices,  E_k Gaussian for vectors
        L_i = L(theta + zo_eps E_k) and L(theta - zo_eps E_k),  N = 2 num_directions members in all
        theta <- theta - lr sqrt(N) * (1/N) sum_i (L_i - mean(L)) / std(L) * (+-E_k)

    The step of a matrix has rank min(num_directions * rank, m, n) at most. Made for rewards, as ES is. N forwards
    a step, no optimizer state; another update rule, Adam say, may stand in for plain descent.

    Args:
        lr: Learning rate; every weight moves by about lr. The default, our choice, gives steps as long as
            those of ES at scale (5e-4 / sqrt(30)).
        zo_eps: Perturbation scale sigma. The default is that of ES at scale.
        num_directions: Directions per step: N / 2 with pairs, N without.
        rank: Of each direction. Published: 1.
        antithetic: Measure every direction with both signs.
        weight_decay: Weight decay on matrices.
    References:
        Sarkar et al. 2025, arXiv:2511.16652.
        Differs from the published code: scores are not shaped within groups of prompts, and nothing is added under
        the root of their variance (1e-5 there), so that the loss's unit does not matter; equal scores make no step.
    """

    class_name: ClassVar[str] = "EGGROLL"
    paper: ClassVar[str] = "Evolution Strategies at the Hyperscale, arXiv:2511.16652"
    family: ClassVar[str] = "evolution strategies"
    toy: ClassVar[Toy] = Toy(options={"lr": 0.02, "num_directions": 4, "rank": 2}, num_steps=200)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"its_mean_estimate_is_the_gradient": "scores are divided by their own spread"}
    )

    lr: float = 1e-4
    zo_eps: float = 1e-3
    num_directions: int = 16
    rank: int = 1
    antithetic: bool = True
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x LowRankProduct x Population x SGD x Whole."""
        return Parts(
            space=Identity(),
            direction=LowRankProduct(rank=self.rank),
            estimator=Population(
                zo_eps=self.zo_eps,
                num_directions=self.num_directions,
                antithetic=self.antithetic,
                sqrt_population=True,
            ),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
