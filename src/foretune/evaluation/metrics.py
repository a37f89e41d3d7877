"""Metrics, as fractions in [0, 1]; reports multiply by 100."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def accuracy(predictions: Sequence[int], correct: Sequence[Collection[int]]) -> float:
    """Return the fraction of predictions that are among their row's right answers.

    Raises:
        ValueError: there are no rows, or the two differ in length.
    """
    if not predictions or len(predictions) != len(correct):
        raise ValueError(f"accuracy of {len(predictions)} predictions and {len(correct)} answers is undefined")
    hits = sum(prediction in answers for prediction, answers in zip(predictions, correct, strict=True))
    return hits / len(predictions)
