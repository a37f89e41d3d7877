"""RGS-BCD: two random groups of the trainable numbers move one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import RandomGroups
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("rgs_bcd")
@dataclass(frozen=True, kw_only=True)
class RGSBCDMethod(AbstractMethod):
    """RGS-BCD: MeZO on one random half of the numbers, then on the other half, within a step.

        G1, G2 by a fair coin for each number, once for the run;  for X = G1, then X = G2, on one batch:
        g = (L(X + zo_eps u) - L(X - zo_eps u)) / (2 zo_eps),  u ~ N(0, std_X^2),  X <- X - lr * g u

    4 q forwards a step, no state. Published for the tensors of LoRA; the schedule works on any.

    Args:
        lr: Learning rate. Published: 1e-4.
        zo_eps: Perturbation scale. Published: 1e-2.
        num_directions: Directions per group and step (q).
        stds: Standard deviations of the directions of both groups. Published: 1 and 0.5.
        granularity: ``element`` splits each tensor, ``tensor`` throws one coin for each.
    References:
        "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass", supplement, Algorithm 2.
        Differs from the listing: the groups' directions are independent. The published code does not run it.
    """

    class_name: ClassVar[str] = "RGSBCD"
    paper: ClassVar[str] = "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass, 2025"
    family: ClassVar[str] = "blocks"
    schemes: ClassVar[tuple[str, ...]] = ("lora",)
    toy: ClassVar[Toy] = Toy(options={"lr": 0.03, "num_directions": 4}, num_steps=400)

    lr: float = 1e-4
    zo_eps: float = 1e-2
    num_directions: int = 1
    stds: tuple[float, float] = (1.0, 0.5)
    granularity: Literal["element", "tensor"] = "element"

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x SGD x RandomGroups."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=SGD(),
            schedule=RandomGroups(stds=self.stds, granularity=self.granularity),
        )
