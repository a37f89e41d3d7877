"""SST-2: is a piece of a movie review positive?

Prompt and label words of v0 are MeZO's (Malladi et al. 2023, arXiv:2305.17333); v1 is the no-prompt ablation
of ZO-LLM (Zhang et al. 2024, arXiv:2402.11592). The masked prompt is that of LM-BFF (Gao et al. 2021,
arXiv:2012.15723).
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, HubSource, Row, Template
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.masked import judged_sentence

_WORDS = ("terrible", "great")


def _sentence(row: Row) -> str:
    return row["sentence"].strip()  # GLUE's sentences end in a space


TASK = TASKS.register("sst2", aliases=("SST2",))(
    ClassificationTask(
        name="sst2",
        summary="movie reviews: negative or positive",
        sources=(HubSource("nyu-mll/glue", "sst2"), HubSource("glue", "sst2")),
        fields={"sentence": str, "label": int},
        label_words=_WORDS,
        templates={
            "v0": Template(prompt=lambda row: f"{_sentence(row)} It was", sfc_prompt=lambda row: "It was"),
            "v1": Template(prompt=_sentence, sfc_prompt=lambda row: ""),
        },
        masked=judged_sentence("sentence", " It was", _WORDS),
    )
)
