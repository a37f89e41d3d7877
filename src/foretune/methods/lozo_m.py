"""LOZO-M: LOZO with momentum kept in the small coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import LowRank
from foretune.types import Parts
from foretune.updates import Momentum


@METHODS.register("lozo_m", aliases=("lozo_sgdm",))
@dataclass(frozen=True, kw_only=True)
class LOZOMMethod(AbstractMethod):
    """LOZO-M: LOZO along an average N (m x rank) of ``g U``, carried over when V is redrawn.

        N <- beta N + (1 - beta) g U,      N <- N V_old^T V_new / n  when V is redrawn
        W <- W - lr * matrix_lr_scale * N V^T / rank

    2 q forwards a step. State: m x rank numbers per matrix, the full size of each bias and norm weight.

    Args:
        lr: Learning rate. Published for RoBERTa-large: 1e-6 or 1e-7 (in the code's scale).
        zo_eps: Perturbation scale.
        num_directions: Directions per step; they share V.
        rank: r of U (m x r) and V (n x r). Published: 4 for RoBERTa-large.
        interval: Steps between redraws of V (nu). Published: 50 or 100.
        beta: Decay of the average. Published: 0.9 (script), 0.7 (code default).
        matrix_lr_scale: Factor on the learning rate of matrices; default `rank` (see LOZO).
        weight_decay: Decoupled weight decay on matrices, ``lr * matrix_lr_scale * weight_decay``.
    References:
        Chen et al. 2024, arXiv:2410.07698, momentum form.
        Differs from the published code: N is transported with both V regenerated from their streams, so an
        interval of 1 and a resume work.
    """

    class_name: ClassVar[str] = "LOZOM"
    paper: ClassVar[str] = (
        "Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank Structures, arXiv:2410.07698"
    )
    family: ClassVar[str] = "low rank"
    toy: ClassVar[Toy] = Toy(options={"lr": 0.04, "rank": 2, "interval": 3}, num_steps=400)

    lr: float = 1e-7
    zo_eps: float = 1e-3
    num_directions: int = 1
    rank: int = 2
    interval: int = 50
    beta: float = 0.9
    matrix_lr_scale: float | None = None
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """LowRank x Gaussian x TwoSided x Momentum x Whole."""
        return Parts(
            space=LowRank(rank=self.rank, interval=self.interval),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=Momentum(beta=self.beta, weight_decay=self.weight_decay),
            schedule=Whole(matrix_lr_scale=self.rank if self.matrix_lr_scale is None else self.matrix_lr_scale),
        )
