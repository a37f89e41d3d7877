"""SQuAD 1.1: answer a question about a paragraph of Wikipedia in the words of the paragraph.

The prompt is MeZO's (Malladi et al. 2023, arXiv:2305.17333), whose name for the dataset says version 2.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, HubSource, Row, Template
from foretune.tasks.checks import check_strings_within
from foretune.tasks.generation import GenerationTask


def _prompt(row: Row) -> str:
    return f"Title: {row['title']}\nContext: {row['context']}\nQuestion: {row['question'].strip()}\nAnswer:"


TASK = TASKS.register("squad", aliases=("SQuAD",))(
    GenerationTask(
        name="squad",
        summary="paragraph and question: the answer, a span of the paragraph",
        sources=(HubSource("rajpurkar/squad"), HubSource("squad")),
        fields={"title": str, "context": str, "question": str, "answers": dict},
        check=lambda row: check_strings_within(row["answers"], "answers", "text"),
        references=lambda row: row["answers"]["text"],
        templates={"v0": Template(prompt=_prompt, target=lambda row, answer: f" {answer}\n")},
    )
)
