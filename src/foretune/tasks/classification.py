"""Tasks whose candidates are the same words for every row."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.errors import UsageError
from foretune.tasks.base import Row
from foretune.tasks.candidates import AbstractCandidateTask


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(AbstractCandidateTask):
    """A row has an integer label, and each label a word.

    Args:
        label_words: The word of each label, in label order; further arguments as `Task`.
        label_field: The field with the label.
    """

    label_words: tuple[str, ...]
    label_field: str = "label"

    def candidates(self, row: Row) -> tuple[str, ...]:
        """Return the label words."""
        return self.label_words

    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the label of `row`."""
        return (row[self.label_field],)

    def check_values(self, row: Row, where: str) -> None:
        """As `Task.check_values`: the label must be one of those there are words for."""
        label = row[self.label_field]
        if not 0 <= label < len(self.label_words):
            raise UsageError(
                f"{where}: field {self.label_field!r} is {label}; "
                f"task {self.name!r} has labels 0 to {len(self.label_words) - 1}."
            )
