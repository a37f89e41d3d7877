"""ZO-SGD-Sign: steps of one size in every coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

from foretune.directions import Gaussian
from foretune.errors import UsageError, near_misses
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import Whole
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD, Sign

SignMode = Literal["elementwise", "scalar"]


@METHODS.register("zo_sign", aliases=("zo_sign_opt", "zo_sgd_sign"))
@dataclass(frozen=True, kw_only=True)
class ZOSignMethod(AbstractMethod):
    """ZO-SGD-Sign: MeZO's estimate, of which only the signs are followed.

        theta <- theta - lr * sign((1/q) sum_k g_k z_k)          elementwise
        theta <- theta - lr * (1/q) sum_k sign(g_k) z_k          scalar

    2 q forwards a step, no optimizer state.

    Args:
        lr: Learning rate: by how much every weight moves. Published grid: 1e-8 to 1e-5 (7B to 13B, full).
        zo_eps: Perturbation scale. Published grid: 1e-4 to 1e-2.
        num_directions: Directions per step (q).
        sign_mode: The sign of every entry of the estimate (the paper), or of the slopes alone, which leaves the
            magnitudes of z (the published code).
        weight_decay: Decoupled weight decay on matrices.
    References:
        Zhang et al. 2024, arXiv:2402.11592 (ZO-SGD-Sign), after Liu et al. 2019, signSGD via Zeroth-Order Oracle.
        Differs from the published code: elementwise by default; its sweeps left the optimizer to AdamW, so their
        learning rates are search ranges and no evidence.
    """

    class_name: ClassVar[str] = "ZOSign"
    paper: ClassVar[str] = (
        "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark, arXiv:2402.11592"
    )
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {  # of the published grids
            "lora": {"lr": 1e-4},
            "prefix": {"lr": 1e-3, "zo_eps": 1e-1},
            "prompt": {"lr": 1e-4},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.02}, num_steps=400)

    lr: float = 1e-6
    zo_eps: float = 1e-3
    num_directions: int = 1
    sign_mode: SignMode = "elementwise"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x (Sign, or SGD on the signs of the slopes) x Whole."""
        if self.sign_mode not in get_args(SignMode):
            raise UsageError(f"Unknown sign_mode {self.sign_mode!r}.{near_misses(self.sign_mode, get_args(SignMode))}")
        elementwise = self.sign_mode == "elementwise"
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(
                zo_eps=self.zo_eps,
                num_directions=self.num_directions,
                weighting="mean" if elementwise else "sign",
            ),
            update=(Sign if elementwise else SGD)(weight_decay=self.weight_decay),
            schedule=Whole(),
        )
