"""ZO-SGD with heavy-ball momentum."""

from __future__ import annotations

import math
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
from foretune.updates import HeavyBall

StateKind = Literal["stored", "recomputed"]

FORGOTTEN_SHARE = 1e-3
"""Share of a constant estimate's momentum that a recomputed one may leave out: momentum^K, after K steps."""


@METHODS.register("zo_momentum", aliases=("zo_sgd_mmt",))
@dataclass(frozen=True, kw_only=True)
class ZOMomentumMethod(AbstractMethod):
    """ZO-SGD-MMT: heavy-ball momentum on MeZO's estimate.

        m <- momentum * m + (1/q) sum_k g_k z_k,      theta <- theta - lr * m

    In the end a step is 1 / (1 - momentum) times MeZO's: take a smaller lr. 2 q forwards a step. State: one number
    for every trainable one; or, recomputed, 16 bytes for each of the last K q directions and tensors (K = 66 at
    momentum 0.9), and K q regenerated directions a step.

    Args:
        lr: Learning rate. Published: as for MeZO, and one power of ten lower.
        zo_eps: Perturbation scale. Published: 1e-3 (full).
        num_directions: Directions per step (q).
        momentum: mu. Published: 0.9. 0 is MeZO.
        state: Keep m, or regenerate it from the slopes and noise keys of the last K steps, ``momentum^K`` < 1e-3.
        weight_decay: Decoupled weight decay on matrices.
    References:
        Zhang et al. 2024, arXiv:2402.11592 (ZO-SGD-MMT). Malladi et al. 2023, arXiv:2305.17333 (recomputed
        momentum).
        Differs from the published code: weight decay is not part of m, so 0 momentum is MeZO bit for bit.
    """

    class_name: ClassVar[str] = "ZOMomentum"
    paper: ClassVar[str] = (
        "Revisiting Zeroth-Order Optimization for Memory-Efficient LLM Fine-Tuning: A Benchmark, arXiv:2402.11592"
    )
    family: ClassVar[str] = "ZO-SGD"
    tuning_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {  # MeZO's over 10
            "lora": {"lr": 5e-6, "zo_eps": 1e-2},
            "prefix": {"lr": 1e-4, "zo_eps": 1e-1},
            "prompt": {"lr": 1e-4, "zo_eps": 1e-2},
        }
    )
    toy: ClassVar[Toy] = Toy(options={"lr": 0.005}, num_steps=250)

    lr: float = 1e-7
    zo_eps: float = 1e-3
    num_directions: int = 1
    momentum: float = 0.9
    state: StateKind = "stored"
    weight_decay: float = 0.0

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x HeavyBall x Whole."""
        if self.state not in get_args(StateKind):
            raise UsageError(f"Unknown state {self.state!r}.{near_misses(self.state, get_args(StateKind))}")
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=HeavyBall(
                momentum=self.momentum,
                num_terms=None if self.state == "stored" else self._num_steps_that_count() * self.num_directions,
                weight_decay=self.weight_decay,
            ),
            schedule=Whole(),
        )

    def _num_steps_that_count(self) -> int:
        """Return K, the smallest number of steps with ``momentum^K`` below `FORGOTTEN_SHARE`."""
        if not 0 < self.momentum < 1:
            return 1
        return math.floor(math.log(FORGOTTEN_SHARE) / math.log(self.momentum)) + 1
