"""SubZero: directions in a small random subspace with orthonormal bases that stay for a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foretune.directions import Gaussian
from foretune.estimators import finite_differences
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Orthonormal
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("subzero", aliases=("subzero_sgd",))
@dataclass(frozen=True, kw_only=True)
class SubZeroMethod(AbstractMethod):
    """SubZero: MeZO in the subspace ``{U X V^T}`` of each matrix, U and V redrawn every `interval` steps.

        Z = s U z V^T,  z (rho, rho) of N(0, 1),  rho = min(rank, a, b),  s = sqrt(a b) / rho
        W <- W - lr * g Z,     b <- b - lr * g z  (biases, norm weights)

    U (a x rho) and V (b x rho) have orthonormal columns; matrices of adapters are reshaped to a nearly square a x b
    first. 2 q forwards a step (one-sided: q + 1), no optimizer state; U and V are kept in memory.

    Args:
        lr: Learning rate. Published: 1e-7 to 1e-6 (full), 1.5e-5 to 5e-5 (LoRA), 1e-3 (prompt).
        zo_eps: Perturbation scale. Published: 1e-3 (full, LoRA), 1e-2 (prompt).
        num_directions: Directions per step (q); they share U and V.
        rank: Most columns of U and V. Published: 8 (code default), 16 to 128 (full), 4 to 16 (LoRA), 24 (prompt).
        interval: Steps between redraws of U and V (F). Published: 1000 (paper), 2000 (code default).
        align: Perturb as far as MeZO does (s), so that its zo_eps serves. Off (s = 1), a matrix is perturbed
            sqrt(a b) / rho times less; the step is scaled to stay the same on a linear loss.
        reshape: Matrices that are reshaped: those of adapters (auto), always or never.
        estimator: Central differences, or forward differences that share one clean loss.
        weight_decay: Weight decay on matrices.
    References:
        Yu et al. 2024, arXiv:2410.08989.
        Differs from the published code: a rank above a dimension works; a resumed run goes on with the U and V it
        had; without `align` the estimate is unbiased by its factor a b / rho^2, which the bare form leaves to lr.
    """

    class_name: ClassVar[str] = "SubZero"
    paper: ClassVar[str] = "Zeroth-Order Fine-Tuning of LLMs in Random Subspaces, arXiv:2410.08989"
    family: ClassVar[str] = "subspace"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "lora": {"lr": 3e-5},
            "prefix": {"lr": 1e-3, "zo_eps": 1e-1},  # MeZO's: aligned norms carry them over
            "prompt": {"lr": 1e-3, "zo_eps": 1e-2, "rank": 24, "interval": 1000},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.03, "rank": 1, "interval": 3}, num_steps=300)

    lr: float = 1e-7
    zo_eps: float = 1e-3
    num_directions: int = 1
    rank: int = 8
    interval: int = 2000
    align: bool = True
    reshape: Literal["auto", "always", "never"] = "auto"
    estimator: Literal["two_sided", "one_sided"] = "two_sided"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Orthonormal x Gaussian x (TwoSided or OneSided) x SGD x Whole."""
        return Parts(
            space=Orthonormal(rank=self.rank, interval=self.interval, align=self.align, reshape=self.reshape),
            direction=Gaussian(),
            estimator=finite_differences(self.estimator, zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
