"""ZO-Muon: steps whose singular values are all alike, in the full space or in a subspace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from foretune.directions import Gaussian
from foretune.errors import UsageError, near_misses
from foretune.estimators import OneSided, TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity, OneSidedOrthonormal
from foretune.types import AbstractUpdate, Parts
from foretune.updates import SGD, MSign, Muon

_DEFAULTS: dict[str, dict[str, Any]] = {
    "full": {"num_directions": 1, "lr_1d": None, "beta": 0.95},
    "subspace": {"num_directions": 4, "lr_1d": 1e-7, "rank": 64, "interval": 100, "variant": "muon"},
}
"""The settings of each space that another one does not have, or has another default of."""

_VARIANTS: dict[str, tuple[type[OneSided | TwoSided], Callable[..., AbstractUpdate]]] = {
    "muon": (OneSided, MSign),
    "muon_svd": (OneSided, partial(MSign, exact=True)),
    "sgd": (TwoSided, SGD),
}


@METHODS.register("zo_muon")
@dataclass(frozen=True, kw_only=True)
class ZOMuonMethod(AbstractMethod):
    """ZO-Muon: two methods of that name, which orthogonalize the estimate of each matrix.

    `muon_space` full is MeZO's estimate in Muon: an average M of it, orthogonalized by Newton-Schulz (NS).

        M <- beta M + (1 - beta) g Z,    O = NS((1 - beta) g Z + beta M)
        W <- (1 - lr weight_decay) W - lr sqrt(max(1, rows / columns)) O,    Adam for biases and norm weights

    2 forwards a step. State: one number per entry of a matrix, two per entry of a vector.

    `muon_space` subspace is the method of the paper: queries P Psi_k that share an orthonormal P (m x rank), their
    mean orthogonalized, no average over steps.

        W <- W - lr (P msign((1/q) sum_k g_k Psi_k) + weight_decay W),    b <- b - lr_1d (1/q) sum_k g_k z_k

    q + 1 forwards a step (variant sgd: 2 q), no state; P is kept in memory.

    Args:
        lr: Learning rate, in units of spectral norm per step. Published: 1e-3 (full, prompt tuning), 1e-2 (subspace,
            OPT-13B).
        zo_eps: Perturbation scale. Published: 1e-2 (full, prompt tuning), 1e-3 (subspace).
        muon_space: full or subspace.
        num_directions: Directions per step (q); default 1 (full) or 4 (subspace, published). With a single one msign
            keeps only the sign of g.
        lr_1d: Learning rate of biases and norm weights; it follows the schedule of `lr`. Default: `lr` (full), 1e-7
            (subspace, published).
        weight_decay: Weight decay on matrices.
        beta: Decay of the average; full only. Default 0.95, published.
        rank: Most columns of P; subspace only. Default 64, published for OPT-13B.
        interval: Steps between redraws of P (F); subspace only. Default 100, published for OPT-13B.
        variant: muon (Newton-Schulz), muon_svd (an exact msign) or sgd (no msign, two-sided estimates); subspace
            only. Default muon.
    References:
        Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization, arXiv:2602.17155 (subspace);
        Jordan et al. 2024, Muon (full, as in a public fork of SubZero).
        Differs from the published code: all queries of a step and its update use one P, also on steps where P is
        redrawn; Newton-Schulz in float32; cores are regenerated instead of stored; lr_1d is an option.
    """

    class_name: ClassVar[str] = "ZOMuon"
    paper: ClassVar[str] = "Powering Up Zeroth-Order Training via Subspace Gradient Orthogonalization, arXiv:2602.17155"
    family: ClassVar[str] = "subspace"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {"prompt": {"lr": 1e-3, "zo_eps": 1e-2}}
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.02}, num_steps=400)

    lr: float = 1e-3
    zo_eps: float = 1e-3
    muon_space: Literal["full", "subspace"] = "full"
    num_directions: int | None = None
    lr_1d: float | None = None
    weight_decay: float = 0.0
    beta: float | None = None
    rank: int | None = None
    interval: int | None = None
    variant: Literal["muon", "muon_svd", "sgd"] | None = None

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x Muon, or OneSidedOrthonormal x Gaussian x OneSided x MSign; x Whole."""
        if self.muon_space not in _DEFAULTS:
            raise UsageError(f"Unknown muon_space {self.muon_space!r}.{near_misses(str(self.muon_space), _DEFAULTS)}")
        compose = self._full if self.muon_space == "full" else self._subspace
        return compose(**self._settings())

    def _full(self, *, num_directions: int, lr_1d: float | None, beta: float) -> Parts:
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=num_directions),
            update=Muon(beta=beta, weight_decay=self.weight_decay),
            schedule=self._schedule(lr_1d),
        )

    def _subspace(self, *, num_directions: int, lr_1d: float, rank: int, interval: int, variant: str) -> Parts:
        if variant not in _VARIANTS:
            raise UsageError(f"Unknown variant {variant!r}.{near_misses(str(variant), _VARIANTS)}")
        estimator, update = _VARIANTS[variant]
        return Parts(
            space=OneSidedOrthonormal(rank=rank, interval=interval),
            direction=Gaussian(),
            estimator=estimator(zo_eps=self.zo_eps, num_directions=num_directions),
            update=update(weight_decay=self.weight_decay),
            schedule=self._schedule(lr_1d),
        )

    def _settings(self) -> dict[str, Any]:
        """Return the settings of the chosen space, its defaults where none was given."""
        settings = dict(_DEFAULTS[self.muon_space])
        for name in sorted(set().union(*_DEFAULTS.values())):
            value = getattr(self, name)
            if value is not None and name not in settings:
                raise UsageError(f"{name} has no effect with muon_space={self.muon_space}, got {value}. Leave it out.")
            if value is not None:
                settings[name] = value
        return settings

    def _schedule(self, lr_1d: float | None) -> Whole:
        if lr_1d is None:
            return Whole()
        if not (lr_1d > 0 and math.isfinite(lr_1d)):
            raise UsageError(f"lr_1d must be positive and finite, got {lr_1d}.")
        # where lr is 0 nothing moves; one that is out of range is refused by the optimizer
        return Whole(vector_lr_scale=lr_1d / self.lr if 0 < self.lr < math.inf else 1.0)
