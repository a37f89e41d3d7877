"""Words in context: does a word have the same meaning in two sentences?

Prompt and label words are MeZO's (Malladi et al. 2023, arXiv:2305.17333); its question ends in "Yes, No?".
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template, as_it_is
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.super_glue import super_glue


def _prompt(row: Row) -> str:
    question = f'Does the word "{row["word"]}" have the same meaning in these two sentences? Yes, No?'
    return f"{question}\n{row['sentence1']}\n{row['sentence2']}\n"


TASK = TASKS.register("wic", aliases=("WIC",))(
    ClassificationTask(
        name="wic",
        summary="a word in two sentences: same meaning or not",
        sources=super_glue("wic"),
        fields={"word": str, "sentence1": str, "sentence2": str, "label": int},
        label_words=("No", "Yes"),
        templates={"v0": Template(prompt=_prompt, target=as_it_is, sfc_prompt=lambda row: "")},
    )
)
