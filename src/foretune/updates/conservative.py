"""Steps that are tried before they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import IncompatibleError
from foretune.types import AbstractUpdate, Change, Parts, Trainable, Trial, UpdateContext
from foretune.updates.decay import check_weight_decay, decay_factor


@dataclass(frozen=True, kw_only=True)
class Conservative(AbstractUpdate):
    """Keep the best of ``theta``, ``theta - lr * estimate`` and ``theta + lr * estimate``.

        theta <- (1 - lr * weight_decay) theta - c * lr * lift(estimate)
        c = argmin over 0, 1, -1 of L(theta - c * lr * lift(estimate)), ties in this order

    Three more forwards per block and step (two where the estimator measures the clean loss), on the data of the
    estimate, so the loss of a step's own data never rises (but for the decay, which comes after the choice). No state;
    c goes to the journal.

    Args:
        weight_decay: Applied to matrices only, decoupled.
    References:
        Zhang et al. 2024, arXiv:2402.11592 (ZO-SGD-Cons).
    """

    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_weight_decay(self.weight_decay)

    def check(self, parts: Parts, trainables: Sequence[Trainable]) -> None:
        """Refuse to try steps along directions that are not those that would be taken."""
        if parts.direction.advances_first:
            raise IncompatibleError(
                f"Conservative cannot be combined with this {type(parts.direction).__name__}: the step follows a "
                "direction that is known only after the steps were tried. Let it follow the measured one."
            )

    @property
    def num_decisions(self) -> int:
        """One, the factor c."""
        return 1

    @property
    def num_trials(self) -> int:
        """One for each candidate."""
        return 3

    def decide(self, trial: Trial) -> tuple[float, ...]:
        """Return the factor c with the smallest loss; one that is nan is never smaller."""
        best, smallest = 0.0, trial.loss(0.0)
        for factor in (1.0, -1.0):
            loss = trial.loss(factor)
            if loss < smallest:
                best, smallest = factor, loss
        return (best,)

    def apply(self, context: UpdateContext) -> Change:
        """Return the change that was decided; there is no state to advance."""
        (factor,) = context.decision
        return Change(decay_factor(context, self.weight_decay), context.estimate.scaled(-factor * context.lr))

    def num_state_elements(self, trainable: Trainable, coordinate_shape: tuple[int, ...]) -> int:
        """None."""
        return 0
