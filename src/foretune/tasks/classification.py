"""Tasks whose candidates are the same words for every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import UsageError, near_misses
from foretune.tasks.base import Row
from foretune.tasks.candidates import AbstractCandidateTask


@dataclass(frozen=True, kw_only=True)
class ClassificationTask(AbstractCandidateTask):
    """A row has a label, and each label a word.

    Args:
        label_words: The word of each label, in label order; further arguments as `Task`.
        label_field: The field with the label.
        label_names: What the labels are called in that field, see `label_name`; None = integers from 0.
    """

    label_words: tuple[str, ...]
    label_field: str = "label"
    label_names: tuple[str, ...] | None = None

    def candidates(self, row: Row) -> tuple[str, ...]:
        """Return the label words."""
        return self.label_words

    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the label of `row`."""
        label = row[self.label_field]
        return (label if self.label_names is None else self.label_names.index(label_name(label)),)

    def check_values(self, row: Row, where: str) -> None:
        """As `Task.check_values`: the label must be one of those there are words for."""
        super().check_values(row, where)
        label = row[self.label_field]
        if self.label_names is not None:
            try:
                check_label(label, self.label_names, self.label_field)
            except ValueError as error:
                raise UsageError(f"{where}: {error}") from None
        elif not 0 <= label < len(self.label_words):
            raise UsageError(
                f"{where}: field {self.label_field!r} is {label}; "
                f"task {self.name!r} has labels 0 to {len(self.label_words) - 1}."
            )


def label_name(value: object) -> str:
    """Return a label as text, so that 1 is the same label in a JSON and in a CSV file; booleans as JSON has them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_label(value: object, names: Sequence[str], field: str) -> None:
    """Refuse a label that is not one of `names`.

    Raises:
        ValueError: the message names the field and lists near misses.
    """
    name = label_name(value)
    if name not in names:
        raise ValueError(f"field {field!r}: there is no label {name!r:.60}.{near_misses(name, names)}")
