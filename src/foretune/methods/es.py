"""ES at scale: the plainest evolution strategy, on all weights of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from foretune.directions import Gaussian
from foretune.estimators import Population
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("es")
@dataclass(frozen=True, kw_only=True)
class ESMethod(AbstractMethod):
    """ES: a population of perturbed models, followed by how they compare.

        L_i = L(theta + zo_eps z_i)
        theta <- theta - (lr / N) sum_i (L_i - mean(L)) / std(L) z_i

    Made for rewards (a loss that is minus the reward): only comparisons within a step count. No step where all
    members do equally well. N forwards a step, no optimizer state.

    Args:
        lr: Learning rate, with 1 / zo_eps in it. Published: 5e-4.
        zo_eps: Perturbation scale sigma. Published: 1e-3.
        num_directions: Directions per step, N (of a pair: N / 2). Published: 30.
        antithetic: Measure every direction with both signs. Published: no.
        weight_decay: Weight decay on matrices.
    References:
        Qiu et al. 2025, arXiv:2509.24372.
        Differs from the published code: tensors of one shape do not share their noise (one version there reseeds
        for each); equal scores make no step.
    """

    class_name: ClassVar[str] = "ES"
    paper: ClassVar[str] = "Evolution Strategies at Scale: LLM Fine-Tuning Beyond RL, arXiv:2509.24372"
    family: ClassVar[str] = "evolution strategies"
    toy: ClassVar[Toy] = Toy(options={"lr": 0.1, "num_directions": 10}, num_steps=120)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"its_mean_estimate_is_the_gradient": "scores are divided by their own spread"}
    )

    lr: float = 5e-4
    zo_eps: float = 1e-3
    num_directions: int = 30
    antithetic: bool = False
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x Gaussian x Population x SGD x Whole."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=Population(zo_eps=self.zo_eps, num_directions=self.num_directions, antithetic=self.antithetic),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
