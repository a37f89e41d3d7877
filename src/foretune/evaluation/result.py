"""What an evaluation returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The outcome of one evaluation.

    Args:
        metrics: Means over rows by name, fractions in [0, 1] except for functions of the user's; the task's own in
            front, none where only the loss was asked for.
        loss: The training objective's loss on these rows.
        num_rows: Rows evaluated.
        predictions: The predicted candidate, or the generated text, of each row, in the rows' own order.
    """

    metrics: Mapping[str, float]
    loss: float
    num_rows: int
    predictions: tuple[int, ...] | tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """Metrics and loss in one mapping."""
        return {**self.metrics, "loss": self.loss}
