"""MNLI: does the premise, of one of ten genres, entail the hypothesis? For masked language models.

The prompt is that of LM-BFF (Gao et al. 2021, arXiv:2012.15723); rows of the matched genres are for evaluation.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, HubSource
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.masked import inferred_sentence

_MATCHED = {"validation": "validation_matched"}

TASK = TASKS.register("mnli", aliases=("MNLI",))(
    ClassificationTask(
        name="mnli",
        summary="sentences of ten genres: entailment, neutral or contradiction",
        sources=(HubSource("nyu-mll/glue", "mnli", splits=_MATCHED), HubSource("glue", "mnli", splits=_MATCHED)),
        fields={"premise": str, "hypothesis": str, "label": int},
        label_words=("Yes", "Maybe", "No"),
        masked=inferred_sentence("premise", "hypothesis", ("No", "Yes", "Maybe"), classes=(1, 2, 0), limit=240),
    )
)
