"""Metrics by name, for evaluation and as objectives without a gradient.

A built-in metric is a mean over rows of values in [0, 1]; reports multiply it by 100. A user's own function of
generated texts (a reward) stands beside them and may have any finite value. Larger is better.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretune.errors import UsageError, in_one_line, near_misses
from foretune.evaluation.answers import exact_match, token_f1
from foretune.evaluation.functions import load_function
from foretune.evaluation.rouge import rouge_l


def accuracy(predictions: Sequence[int], correct: Sequence[Collection[int]]) -> float:
    """Return the fraction of predictions that are among their row's right answers.

    Raises:
        ValueError: there are no rows, or the two differ in length.
    """
    return _mean(_hits(predictions, correct))


@dataclass(frozen=True, slots=True)
class CandidateMetric:
    """A metric of predicted candidates.

    Args:
        name: What reports call it.
        score_rows: Function of the predictions and, for each row, the indices of the right candidates; returns one
            value in [0, 1] a row.
    """

    name: str
    score_rows: Callable[[Sequence[int], Sequence[Collection[int]]], list[float]]

    def __call__(self, predictions: Sequence[int], correct: Sequence[Collection[int]]) -> float:
        """Return the mean over rows.

        Raises:
            ValueError: there are no rows, or the two differ in length.
        """
        return _mean(self.score_rows(predictions, correct))


@dataclass(frozen=True, slots=True)
class TextMetric:
    """A metric of generated texts.

    Args:
        name: What reports call it.
        score_rows: Function of the texts and, for each, its example: a mapping with ``prompt`` (the text in front)
            and ``answers`` (the reference texts), and whatever else the caller puts in. Returns one value a text.
        is_fraction: Whether values lie in [0, 1], so that reports multiply them by 100.
    """

    name: str
    score_rows: Callable[[list[str], list[Mapping[str, Any]]], list[float]]
    is_fraction: bool = True

    def __call__(self, texts: Sequence[str], examples: Sequence[Mapping[str, Any]]) -> float:
        """Return the mean over texts.

        Raises:
            ValueError: there are no texts, or the two differ in length.
            UsageError: a user's function returns something else than one finite number a text.
        """
        _check_lengths(texts, examples)
        return _mean(self.score_rows(list(texts), list(examples)))


def find_metric(value: str, *, option: str) -> CandidateMetric | TextMetric:
    """Return the metric called `value`, or the user's function that it names.

    Such a function is called as ``function(texts, examples)``, with lists of equal length: the generated texts, and
    mappings with ``prompt`` and ``answers`` (see `TextMetric`). It returns one finite number a text, the larger the
    better, in any sequence of numbers::

        def brevity(texts, examples):
            return [-len(text) / len(example["answers"][0]) for text, example in zip(texts, examples)]

    Args:
        value: A key of `METRICS`, ``package.module:function`` or ``path/to/file.py:function``.
        option: What the user gave it to, for messages, for example ``--objective``.
    Raises:
        UsageError: an unknown name, or a function that cannot be loaded or called with two arguments.
    """
    if ":" in value:
        function = load_function(value, option=option)
        return TextMetric(value.rpartition(":")[2], _checked(function, f"{option} {value}"), is_fraction=False)
    if value not in METRICS:
        raise UsageError(
            f"{option} {value}: there is no such metric.{near_misses(value, METRICS)} "
            "Your own is given as package.module:function or path/to/file.py:function."
        )
    return METRICS[value]


def _checked(function: Callable[..., Any], where: str) -> Callable[[list[str], list[Mapping[str, Any]]], list[float]]:
    """Return the user's function with its result checked: one finite float a text."""
    try:
        inspect.signature(function).bind([], [])
    except TypeError as error:
        raise UsageError(f"{where}: it is called as function(texts, examples), but: {error}.") from None

    def score_rows(texts: list[str], examples: list[Mapping[str, Any]]) -> list[float]:
        try:
            result = function(texts, examples)
        except Exception as error:
            raise UsageError(f"{where}: it failed: {in_one_line(error)} ({_place(error)}).") from error
        try:
            values = [float(value) for value in result]
        except (TypeError, ValueError):
            raise UsageError(
                f"{where}: it returned {result!r:.60}; it should return one number for each text."
            ) from None
        if len(values) != len(texts):
            raise UsageError(f"{where}: it returned {len(values)} values for {len(texts)} texts.")
        for value, text in zip(values, texts, strict=True):
            if not math.isfinite(value):
                raise UsageError(f"{where}: it returned {value} for the text {text!r:.60}; values should be finite.")
        return values

    return score_rows


def _place(error: Exception) -> str:
    """Say where an exception was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}, line {frame.lineno}"


def _against_answers(name: str, score: Callable[[str, Sequence[str]], float]) -> TextMetric:
    def score_rows(texts: list[str], examples: list[Mapping[str, Any]]) -> list[float]:
        return [score(text, example["answers"]) for text, example in zip(texts, examples, strict=True)]

    return TextMetric(name, score_rows)


def _hits(predictions: Sequence[int], correct: Sequence[Collection[int]]) -> list[float]:
    _check_lengths(predictions, correct)
    return [float(prediction in right) for prediction, right in zip(predictions, correct, strict=True)]


def _check_lengths(outputs: Sequence[Any], answers: Sequence[Any]) -> None:
    if not outputs or len(outputs) != len(answers):
        raise ValueError(f"a metric of {len(outputs)} predictions and {len(answers)} answers is undefined")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


METRICS: dict[str, CandidateMetric | TextMetric] = {
    "accuracy": CandidateMetric("accuracy", _hits),
    "f1": _against_answers("f1", token_f1),
    "exact_match": _against_answers("exact_match", exact_match),
    "rouge_l": _against_answers("rouge_l", rouge_l),
}
"""The built-in metrics by name."""
