"""SNLI: does the premise, a caption, entail the hypothesis? For masked language models.

The prompt is that of LM-BFF (Gao et al. 2021, arXiv:2012.15723).
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.tasks.base import TASKS, HubSource, Row
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.masked import inferred_sentence

_NO_LABEL = -1
"""The label of rows on which the annotators did not agree."""


@dataclass(frozen=True, kw_only=True)
class _SNLI(ClassificationTask):
    def is_usable(self, row: Row) -> bool:
        """Whether the annotators agreed on a label."""
        return row[self.label_field] != _NO_LABEL

    def check_values(self, row: Row, where: str) -> None:
        """As `Task.check_values`."""
        if self.is_usable(row):
            super().check_values(row, where)


TASK = TASKS.register("snli", aliases=("SNLI",))(
    _SNLI(
        name="snli",
        summary="captions: entailment, neutral or contradiction",
        sources=(HubSource("stanfordnlp/snli"), HubSource("snli")),
        fields={"premise": str, "hypothesis": str, "label": int},
        label_words=("Yes", "Maybe", "No"),
        masked=inferred_sentence("premise", "hypothesis", ("No", "Yes", "Maybe"), classes=(1, 2, 0)),
    )
)
