"""ZOBCD-LoRA: the factors of LoRA move in turn, B ten times as often as A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from foretune.directions import Gaussian
from foretune.errors import UsageError, near_misses
from foretune.estimators import TwoSided
from foretune.methods.base import METHODS, AbstractMethod, Toy
from foretune.schedules import LoRABlocks
from foretune.spaces import Identity
from foretune.types import Parts
from foretune.updates import SGD

_LR_MULT = {"supplement": (1.0, 2.0), "code": (0.5, 1.0)}  # of A and of B
_STEPS = ("bcd_steps_a", "bcd_steps_b")
_STDS = ("bcd_std_a", "bcd_std_b")
_LRS = ("bcd_lr_mult_a", "bcd_lr_mult_b")
_WITHOUT_EFFECT = {
    "full": (),
    "s1": (*_STDS, *_LRS, "preset"),
    "s2": (*_STEPS, *_STDS),
    "s3": (*_STEPS, *_LRS, "preset"),
}


@METHODS.register("zobcd", aliases=("lora_bcd", "zo_lora_bcd"))
@dataclass(frozen=True, kw_only=True)
class ZOBCDMethod(AbstractMethod):
    """ZOBCD-LoRA: MeZO on one factor of all LoRA adapters at a time, each with its own scale and learning rate.

        X = B for bcd_steps_b steps, then A for bcd_steps_a steps, and again; the other factor rests
        g = (L(X + zo_eps u) - L(X - zo_eps u)) / (2 zo_eps),  u ~ N(0, bcd_std_X^2)
        X <- X - lr * bcd_lr_mult_X * g u,  so E[change] = -lr * bcd_lr_mult_X * bcd_std_X^2 * gradient

    2 q forwards a step, no state: the place in the cycle follows from the step. Published with LoRA of rank 8 and
    alpha 16 on query and value projections.

    Args:
        lr: Learning rate, before the factors. Published: 1e-4.
        zo_eps: Perturbation scale. Published: 1e-2.
        num_directions: Directions per step (q).
        zobcd_variant: ``full``, or one of its parts alone, for ablations: ``s1`` takes the factors in turn with
            equal scales and learning rates, ``s2`` (distinct learning rates) and ``s3`` (distinct scales) move both
            at every step.
        preset: Factors on the learning rate of A and B: ``supplement`` (1, 2) or ``code`` (1/2, 1).
        bcd_steps_a: Steps of A in a cycle.
        bcd_steps_b: Steps of B in a cycle.
        bcd_std_a: Standard deviation of A's directions.
        bcd_std_b: Standard deviation of B's directions.
        bcd_lr_mult_a: Factor on A's learning rate; default: the preset's.
        bcd_lr_mult_b: Factor on B's learning rate; default: the preset's.
    Raises:
        UsageError: a setting out of range, or one that has no effect in the variant.
    References:
        "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass", supplement. The variants are
        read off a figure there, whose text does not define them.
        Differs from the published code: exactly 200 and 20 updates in a cycle (there 201 and 19); each step has its
        own batch and direction.
    """

    class_name: ClassVar[str] = "ZOBCD"
    paper: ClassVar[str] = "Unlocking LoRA's Capabilities for Fine-tuning LLMs with Only Forward Pass, 2025"
    family: ClassVar[str] = "blocks"
    schemes: ClassVar[tuple[str, ...]] = ("lora",)
    toy: ClassVar[Toy] = Toy(
        options={"lr": 0.03, "num_directions": 4, "bcd_steps_a": 2, "bcd_steps_b": 3}, num_steps=1000
    )

    lr: float = 1e-4
    zo_eps: float = 1e-2
    num_directions: int = 1
    zobcd_variant: Literal["full", "s1", "s2", "s3"] = "full"
    preset: Literal["supplement", "code"] = "supplement"
    bcd_steps_a: int = 20
    bcd_steps_b: int = 200
    bcd_std_a: float = 0.5
    bcd_std_b: float = 1.0
    bcd_lr_mult_a: float | None = None
    bcd_lr_mult_b: float | None = None

    def parts(self) -> Parts:
        """Identity x Gaussian x TwoSided x SGD x LoRABlocks."""
        return Parts(
            space=Identity(),
            direction=Gaussian(),
            estimator=TwoSided(zo_eps=self.zo_eps, num_directions=self.num_directions),
            update=SGD(),
            schedule=self._schedule(),
        )

    def _schedule(self) -> LoRABlocks:
        for name, known in (("zobcd_variant", _WITHOUT_EFFECT), ("preset", _LR_MULT)):
            if getattr(self, name) not in known:
                raise UsageError(f"Unknown {name} {getattr(self, name)!r}.{near_misses(getattr(self, name), known)}")
        variant, unused = self.zobcd_variant, _WITHOUT_EFFECT[self.zobcd_variant]
        for name in unused:
            if getattr(self, name) != getattr(type(self), name):
                raise UsageError(f"{name} would have no effect with zobcd_variant={variant!r}. Drop one of them.")
        mults = (self.bcd_lr_mult_a, self.bcd_lr_mult_b)
        mult_a, mult_b = (
            own if given is None else given for given, own in zip(mults, _LR_MULT[self.preset], strict=True)
        )
        return LoRABlocks(
            steps_a=self.bcd_steps_a,
            steps_b=self.bcd_steps_b,
            std_a=1.0 if "bcd_std_a" in unused else self.bcd_std_a,
            std_b=1.0 if "bcd_std_b" in unused else self.bcd_std_b,
            lr_scale_a=1.0 if "bcd_lr_mult_a" in unused else mult_a,
            lr_scale_b=1.0 if "bcd_lr_mult_b" in unused else mult_b,
            joint=variant in ("s2", "s3"),
        )
