"""MultiRC: is this a right answer to a question about a paragraph?

Prompt and label words are MeZO's (Malladi et al. 2023, arXiv:2305.17333). A row is one answer, and the metric is
accuracy over answers, not the leaderboard's F1 or exact match over questions.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template, as_it_is
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.super_glue import super_glue


def _prompt(row: Row) -> str:
    question = f"Question: {row['question']}"
    return f'{row["paragraph"]}\n{question}\nI found this answer "{row["answer"]}". Is that correct? Yes or No?\n'


TASK = TASKS.register("multirc", aliases=("MultiRC",))(
    ClassificationTask(
        name="multirc",
        summary="paragraph, question and answer: right or wrong",
        sources=super_glue("multirc"),
        fields={"paragraph": str, "question": str, "answer": str, "label": int},
        label_words=("No", "Yes"),
        templates={"v0": Template(prompt=_prompt, target=as_it_is, sfc_prompt=lambda row: "")},
    )
)
