"""RTE: does a premise entail a hypothesis?

Prompt and label words of v0 are MeZO's (Malladi et al. 2023, arXiv:2305.17333); v1 is the no-prompt ablation
of ZO-LLM (Zhang et al. 2024, arXiv:2402.11592). The masked prompt is that of LM-BFF (Gao et al. 2021,
arXiv:2012.15723).
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template, as_it_is
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.masked import inferred_sentence
from foretune.tasks.super_glue import super_glue


def _question(row: Row) -> str:
    return f'{row["premise"]}\nDoes this mean that "{row["hypothesis"]}" is true? Yes or No?\n'


def _no_question(row: Row) -> str:
    return f'{row["premise"]}\n"{row["hypothesis"]}"\n'


TASK = TASKS.register("rte", aliases=("RTE",))(
    ClassificationTask(
        name="rte",
        summary="sentence pairs: entailment or not",
        sources=super_glue("rte"),
        fields={"premise": str, "hypothesis": str, "label": int},
        label_words=("Yes", "No"),
        templates={
            "v0": Template(prompt=_question, target=as_it_is, sfc_prompt=lambda row: ""),
            "v1": Template(prompt=_no_question, target=as_it_is, sfc_prompt=lambda row: ""),
        },
        masked=inferred_sentence("premise", "hypothesis", ("Yes", "No"), limit=240),
    )
)
