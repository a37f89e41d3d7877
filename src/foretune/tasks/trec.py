"""TREC: what does a question ask for? For masked language models.

The prompt is that of LM-BFF (Gao et al. 2021, arXiv:2012.15723). The hub numbers the six coarse labels abbreviation,
entity, description, human, location, number; the published files, and so the classes here, number them otherwise.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, HubSource
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.masked import MaskedTemplate, Sentence

_LIMIT = 110

TASK = TASKS.register("trec", aliases=("TREC",))(
    ClassificationTask(
        name="trec",
        summary="questions: what kind of thing they ask for",
        sources=(HubSource("CogComp/trec", revision="refs/convert/parquet"), HubSource("CogComp/trec")),
        fields={"text": str, "coarse_label": int},
        label_words=("Expression", "Entity", "Description", "Human", "Location", "Number"),
        label_field="coarse_label",
        eval_split="test",
        masked=MaskedTemplate(
            before=(),
            after=(":", Sentence("text", follows=True, limit=_LIMIT)),
            label_words=("Description", "Entity", "Expression", "Human", "Location", "Number"),
            classes=(2, 1, 0, 3, 4, 5),
            label_field="coarse_label",
        ),
    )
)
