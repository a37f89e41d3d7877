"""LOZO: directions U V^T of low rank, with a V that stays for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import LowRank
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("lozo")
@dataclass(frozen=True, kw_only=True)
class LOZOMethod(AbstractMethod):
    """LOZO: MeZO in the subspace ``{X V^T}`` of each matrix, V redrawn every `interval` steps.

        W <- W - lr * matrix_lr_scale * g U V^T / rank,     b <- b - lr * g z  (biases, norm weights)

    2 q forwards a step, no optimizer state.

    Args:
        lr: Learning rate. Published for OPT-13B: 1e-6 or 1e-7 (in the code's scale, see `matrix_lr_scale`).
        zo_eps: Perturbation scale; the perturbation of a matrix is sqrt(rank) times as long as MeZO's.
        num_directions: Directions per step; they share V.
        rank: r of U (m x r) and V (n x r). Published: 1, 2 or 4.
        interval: Steps between redraws of V (nu). Published: 50 or 100.
        matrix_lr_scale: Factor on the learning rate of matrices. The default is `rank`: with the paper's
            1/rank this is the step of the published code, for which all published settings were chosen. 1 is
            the paper's equation at face value.
        weight_decay: Weight decay on matrices, ``lr * matrix_lr_scale * weight_decay``.
    References:
        Chen et al. 2024, arXiv:2410.07698, Algorithm 1.
        Differs from the published code: the update also follows the measured direction on steps where V is
        redrawn; V and the step counter survive a resume.
    """

    class_name: ClassVar[str] = "LOZO"
    paper: ClassVar[str] = (
        "Enhancing Zeroth-order Fine-tuning for Language Models with Low-rank Structures, arXiv:2410.07698"
    )
    family: ClassVar[str] = "low rank"
    toy: ClassVar[Toy] = Toy(options={"lr": 0.02, "rank": 2, "interval": 3}, num_steps=200)

    lr: float = 1e-7
    zo_eps: float = 1e-3
    num_directions: int = 1
    rank: int = 2
    interval: int = 50
    matrix_lr_scale: float | None = None
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """LowRank x Gaussian x TwoSided x SGD x Whole."""
        return Parts(
            space=LowRank(rank=self.rank, interval=self.interval),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(matrix_lr_scale=self.rank if self.matrix_lr_scale is None else self.matrix_lr_scale),
        )
