"""Tasks whose candidates are texts of the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foretune.tasks.base import Row
from foretune.tasks.candidates import AbstractCandidateTask


@dataclass(frozen=True, kw_only=True)
class MultipleChoiceTask(AbstractCandidateTask):
    """Every row brings its own candidates, as many as it likes, and one or more of them are right.

    Args:
        choices: The candidates of a row.
        right: The texts of its right answers; those that are no candidate are ignored.
        objective: Teacher forcing on the right one by default; further arguments as `Task`.
    """

    choices: Callable[[Row], Sequence[str]]
    right: Callable[[Row], Sequence[str]]
    objective: str = "lm"

    def candidates(self, row: Row) -> tuple[str, ...]:
        """Return the candidates of `row`."""
        return tuple(self.choices(row))

    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the index of every candidate whose text is a right answer, that of the first answer in front.

        So a candidate that is there twice is right in both places. With a single answer the published code takes the
        first index only.
        """
        candidates = self.candidates(row)
        order = [index for answer in self.right(row) for index, text in enumerate(candidates) if text == answer]
        return tuple(dict.fromkeys(order))

    def is_usable(self, row: Row) -> bool:
        """Whether any right answer is among the candidates."""
        return bool(self.correct(row))
