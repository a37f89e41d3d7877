"""SubZO-Muon: SubZO-AdaMU whose directions are orthogonalized once their annealing is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foretune.estimators import TwoSided
from foretune.methods.annealed import AbstractAnnealedMethod
from foretune.methods.base import METHODS, Toy
from foretune.schedules import Whole
from foretune.spaces import Orthonormal
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("subzero_muon", aliases=("subzo_muon",))
@dataclass(frozen=True, kw_only=True)
class SubZOMuonMethod(AbstractAnnealedMethod):
    """SubZO-Muon: SubZO-AdaMU that perturbs and steps along nearly orthogonal coordinates from t2 on.

        m_t = beta1 sqrt(alpha) z + (1 - beta1) (m_{t-1} + sqrt(1 - alpha) xi),    z, xi (rho, rho) of N(0, 1)
        O_t = m_t before t2,    NewtonSchulz(m_t) scaled to the norm of m_t from t2 on
        W <- W - lr * (g s U O_t V^T + weight_decay * W),    b <- b - lr * g z  (biases, norm weights)

    alpha and beta1 are 1 until t1 (the method is then SubZero) and annealed until t2. m itself is remembered, not O.
    2 forwards a step. State: m, rho^2 numbers per matrix; U and V are kept in memory.

    Args:
        lr: Learning rate; SubZero's for full tuning. Published: 1e-3 (prompt).
        zo_eps: Perturbation scale. Published: 1e-2 (prompt).
        rank: Most columns of U (a x rho) and V (b x rho). Published: 8.
        interval: Steps between redraws of U and V. Published: 2000.
        align: Perturb as far as MeZO does (s = sqrt(a b) / rho); off, s = 1.
        reshape: Matrices that are seen as nearly square ones: those of adapters (auto), always or never.
        total_steps: Length of the run, for t1, t2 and t3; the command line and the trainer fill it in.
        t1: Updates of a tensor before annealing begins; default a quarter of `total_steps`.
        t2: Updates after which it ends and orthogonalization begins; default half of `total_steps`.
        t3: Updates in all, which shapes the annealing; default `total_steps`.
        alpha_target: Variance of the fresh noise in the end.
        beta1_target: Share of the fresh part in m in the end.
        phi_alpha: Shape of alpha's annealing.
        phi_beta1: Shape of beta1's annealing.
        refresh: When U and V are redrawn, project m onto the new subspace, or reset it.
        weight_decay: Weight decay on matrices.
    References:
        No paper; a fork of SubZero (Yu et al. 2024, arXiv:2410.08989).
        Differs from the published code: float32 iterations; U, V and m survive a resume.
    """

    class_name: ClassVar[str] = "SubZOMuon"
    paper: ClassVar[str] = "SubZero with orthogonalized directions of ZO-AdaMU, arXiv:2410.08989 and arXiv:2312.15184"
    family: ClassVar[str] = "subspace"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "lora": {"lr": 3e-5},  # SubZero's, which it is until t1
            "prefix": {"lr": 1e-3, "zo_eps": 1e-1},
            "prompt": {"lr": 1e-3, "zo_eps": 1e-2},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.03, "rank": 2, "interval": 3, "t1": 2, "t2": 5, "t3": 10}, num_steps=300)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "its_mean_estimate_is_the_gradient": "after the warm-up directions remember and are orthogonalized: the "
            "mean of g O is no multiple of the gradient"
        }
    )

    lr: float = 1e-7
    rank: int = 8
    interval: int = 2000
    align: bool = True
    reshape: Literal["auto", "always", "never"] = "auto"
    refresh: Literal["project", "reset"] = "project"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Orthonormal x MomentumGuided (orthogonalized) x TwoSided x SGD x Whole."""
        return Parts(
            space=Orthonormal(rank=self.rank, interval=self.interval, align=self.align, reshape=self.reshape),
            direction=self.momentum_guided(
                matrices_only=True,
                orthogonalize=True,
                on_refresh=self.refresh,
            ),
            estimator=TwoSided(zo_eps=self.zo_eps),
            update=SGD(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
