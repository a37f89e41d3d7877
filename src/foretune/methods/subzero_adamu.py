"""SubZO-AdaMU: directions with a memory in the small coordinates of a random subspace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from foretune.errors import UsageError, near_misses
from foretune.estimators import TwoSided
from foretune.methods.annealed import AbstractAnnealedMethod
from foretune.methods.base import METHODS, Toy
from foretune.schedules import Whole
from foretune.spaces import Orthonormal
from foretune.types import Parts
from foretune.updates import SGD, AdaMU

VMode = Literal["none", "core"]
_OF_THE_DIVISION = ("beta2_target", "phi_beta2", "sigma")


@METHODS.register("subzero_adamu", aliases=("subzo_adamu",))
@dataclass(frozen=True, kw_only=True)
class SubZOAdaMUMethod(AbstractAnnealedMethod):
    """SubZO-AdaMU: SubZero whose coordinates mix fresh noise with the coordinates before, as ZO-AdaMU's directions do.

        fresh = sqrt(alpha) z,    history = m_{t-1} + sqrt(1 - alpha) xi,    z, xi (rho, rho) of N(0, 1)
        m_t = beta1 fresh + (1 - beta1) history,    Z = s U m_t V^T,    rho = min(rank, a, b),    s = sqrt(a b) / rho
        W <- W - lr * (g Z + weight_decay * W),    b <- b - lr * g z  (biases, norm weights)

    alpha and beta1 are 1 until t1 (the method is then SubZero), annealed until t2 and constant from there on. With
    `v_mode` core, m in the update is divided by ``sqrt(v + sigma)``, ``v = beta2 fresh^2 + (1 - beta2) history^2``.
    Where U and V are redrawn every `interval` steps, m becomes ``U_new^T U m V^T V_new``.

    2 forwards a step. State: m, rho^2 numbers per matrix; U and V are kept in memory.

    Args:
        lr: Learning rate; SubZero's for full tuning. Published: 1e-3 (prompt).
        zo_eps: Perturbation scale. Published: 1e-2 (prompt).
        rank: Most columns of U (a x rho) and V (b x rho). Published: 8.
        interval: Steps between redraws of U and V. Published: 2000.
        align: Perturb as far as MeZO does (s); off, s = 1.
        reshape: Matrices that are seen as nearly square ones: those of adapters (auto), always or never.
        total_steps: Length of the run, for t1, t2 and t3; the command line and the trainer fill it in.
        t1: Updates of a tensor before annealing begins; default a quarter of `total_steps`.
        t2: Updates after which it ends; default half of `total_steps`.
        t3: Updates in all, which shapes the annealing; default `total_steps`.
        alpha_target: Variance of the fresh noise in the end.
        beta1_target: Share of the fresh part in m in the end.
        beta2_target: Share of the fresh part in v in the end.
        phi_alpha: Shape of alpha's annealing.
        phi_beta1: Shape of beta1's annealing.
        phi_beta2: Shape of beta2's annealing.
        v_mode: Divide the step of matrices by their uncertainty (core), or not (none).
        sigma: Keeps the root from 0.
        vector_adamu: Biases and norm weights follow ZO-AdaMU in full, instead of plain Gaussian directions.
        refresh: When U and V are redrawn, project m onto the new subspace, or reset it; of a projected m the share
            rho^2 / (a b) is left, so both are nearly the same.
        weight_decay: Weight decay on matrices.
    References:
        No paper; a fork of SubZero (Yu et al. 2024, arXiv:2410.08989) with the directions of ZO-AdaMU (Jiang et al.
        2024, arXiv:2312.15184).
        Differs from the published code: a resumed run goes on with the U, V and m it had (there directions are 0
        until the next redraw); t2 has one default; `v_mode` core, `vector_adamu` and `refresh` are ours.
    """

    class_name: ClassVar[str] = "SubZOAdaMU"
    paper: ClassVar[str] = "SubZero with the directions of ZO-AdaMU, arXiv:2410.08989 and arXiv:2312.15184"
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
            "its_mean_estimate_is_the_gradient": "after the warm-up the mean of g m is c^2 times the gradient, "
            "c^2 = beta1^2 alpha + (1 - beta1)^2 (1 - alpha), plus a pull along the direction before"
        }
    )

    lr: float = 1e-7
    rank: int = 8
    interval: int = 2000
    align: bool = True
    reshape: Literal["auto", "always", "never"] = "auto"
    beta2_target: float = 0.01
    phi_beta2: float = 1.5
    v_mode: VMode = "none"
    sigma: float = 1e-8
    vector_adamu: bool = False
    refresh: Literal["project", "reset"] = "project"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Orthonormal x MomentumGuided x TwoSided x (SGD or AdaMU) x Whole."""
        if self.v_mode not in get_args(VMode):
            raise UsageError(f"Unknown v_mode {self.v_mode!r}.{near_misses(str(self.v_mode), get_args(VMode))}")
        divides = self.v_mode == "core" or self.vector_adamu
        for name in () if divides else _OF_THE_DIVISION:
            if getattr(self, name) != getattr(type(self), name):
                raise UsageError(f"{name} would have no effect: nothing is divided. Drop it, or set v_mode='core'.")
        if divides:
            update = AdaMU(sigma=self.sigma, weight_decay=self.weight_decay, vectors_only=self.v_mode == "none")
        else:
            update = SGD(weight_decay=self.weight_decay)
        return Parts(
            space=Orthonormal(rank=self.rank, interval=self.interval, align=self.align, reshape=self.reshape),
            direction=self.momentum_guided(
                beta2_target=self.beta2_target,
                phi_beta2=self.phi_beta2,
                matrices_only=not self.vector_adamu,
                on_refresh=self.refresh,
            ),
            estimator=TwoSided(zo_eps=self.zo_eps),
            update=update,
            schedule=Whole(),
        )
