"""DROP: answer a question about a passage that takes counting, sorting or arithmetic.

The prompt is MeZO's (Malladi et al. 2023, arXiv:2305.17333). The published figure, and so the metric, is SQuAD's F1
with a row's spans as alternatives; DROP's own metric takes them as one answer of several parts.
"""

from __future__ import annotations

from foretune.tasks.base import CONVERTED, TASKS, HubSource, Row, Template
from foretune.tasks.checks import check_strings_within
from foretune.tasks.generation import GenerationTask


def _prompt(row: Row) -> str:
    return f"Passage: {row['passage']}\nQuestion: {row['question']}\nAnswer:"


TASK = TASKS.register("drop", aliases=("DROP",))(
    GenerationTask(
        name="drop",
        summary="passage and question: the answer, a number, date or span",
        sources=(HubSource("ucinlp/drop"), HubSource("ucinlp/drop", revision=CONVERTED), HubSource("drop")),
        fields={"passage": str, "question": str, "answers_spans": dict},
        check=lambda row: check_strings_within(row["answers_spans"], "answers_spans", "spans"),
        references=lambda row: row["answers_spans"]["spans"],
        templates={"v0": Template(prompt=_prompt, target=lambda row, answer: f" {answer}\n")},
    )
)
