"""Winograd schema challenge: does a pronoun refer to this noun phrase?

Prompt and label words are MeZO's (Malladi et al. 2023, arXiv:2305.17333). With 500 dev rows, as published, 54 of
the 554 rows are left for training. 63.5 % of the validation rows have label 0, and so have many published results.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template, as_it_is
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.super_glue import super_glue


def _prompt(row: Row) -> str:
    pronoun, noun = row["span2_text"].lower(), row["span1_text"]
    return f'{row["text"]}\nIn the previous sentence, does the pronoun "{pronoun}" refer to {noun}? Yes or No?\n'


TASK = TASKS.register("wsc", aliases=("WSC",))(
    ClassificationTask(
        name="wsc",
        summary="pronoun and noun phrase of a text: same referent or not",
        sources=super_glue("wsc.fixed"),
        fields={"text": str, "span1_text": str, "span2_text": str, "label": int},
        label_words=("No", "Yes"),
        templates={"v0": Template(prompt=_prompt, target=as_it_is, sfc_prompt=lambda row: "")},
    )
)
