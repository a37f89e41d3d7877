"""MGS-BCD: MeZO on LoRA that updates the rows with the largest activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from foretune.directions import Gaussian
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import MagnitudeGroups
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD


@METHODS.register("mgs_bcd")
@dataclass(frozen=True, kw_only=True)
class MGSBCDMethod(AbstractMethod):
    """MGS-BCD: measure along a direction of all LoRA tensors, update the rows with the largest activations.

        M_A[j] = sum |(x A^T)_j|,  M_B[o] = sum |(x A^T B^T)_o|  over the tokens of the step's forwards
        rows with M at least its quantile at selective_ratio:  theta_row <- theta_row - lr * g z_row

    2 q forwards a step; state: one number a row. The rows are journalled, one bit each: plainly at every step, with
    `bcd` at 50 steps of 450. A ratio of 0 is MeZO. Activations of evaluations do not count.

    With `adaselect` the ratio moves from selective_ratio through the larger ones of 0.5, 0.7 and 0.9 as the dev metric
    stops improving: the one by which the run selects its model. `foretune.MGSBCD` alone evaluates nothing: there the
    ratio moves only if `report` is called with the metric after each evaluation.

    Args:
        lr: Learning rate. Published for the method's LoRA runs: 1e-4.
        zo_eps: Perturbation scale. Published: 1e-2.
        num_directions: Directions per step (q).
        selective_ratio: Fraction of the rows that rest, in [0, 1). Published: 0.5.
        bcd: Count for 50 steps, in which nothing moves, how often each row is kept; then update one random half of
            the rows kept most often for 200 steps, the other half for 200, and count again.
        perturb_selected: Perturb only the rows that are updated, which are then those of the step before; rows of B
            that are zero when they come to rest stay so. For runs without `bcd`.
        adaselect: Raise the ratio when the dev metric stops improving; with `bcd`, from the next counting step on.
        patience: Evaluations in a row without improvement before it is raised. Not published.
    References:
        "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass", magnitude-based gradient selection;
        the paper's text, its listing and the published code describe three algorithms, and this is the code's, whose
        flag `selective` is this method's name.
        Differs from the published code: evaluation is not counted, M_B is of B's own output, and cycles are anchored
        at their own start.
    """

    class_name: ClassVar[str] = "MGSBCD"
    paper: ClassVar[str] = "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass, 2025"
    family: ClassVar[str] = "blocks"
    schemes: ClassVar[tuple[str, ...]] = ("lora",)
    toy: ClassVar[Toy] = Toy(options={"lr": 0.005}, num_steps=400)
    exceptions: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "it_steps_along_what_it_measured": "rows with small activations are measured, but do not move",
            "its_mean_estimate_is_the_gradient": "it is 0 in rows with small activations",
            "it_solves_the_toy_problem_in_its_stated_steps": "of two outputs, the smaller one is never updated",
        }
    )

    lr: float = 1e-4
    zo_eps: float = 1e-2
    num_directions: int = 1
    selective_ratio: float = 0.5
    bcd: bool = False
    perturb_selected: bool = False
    adaselect: bool = False
    patience: int = 3

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x SGD x MagnitudeGroups."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=SGD(),
            schedule=MagnitudeGroups(
                selective_ratio=self.selective_ratio,
                bcd=self.bcd,
                perturb_selected=self.perturb_selected,
                adaselect=self.adaselect,
                patience=self.patience,
            ),
        )
