"""ReCoRD: which entity of a news article fills the gap in a sentence about it?

The prompts are MeZO's (Malladi et al. 2023, arXiv:2305.17333); v1 is defined there and never used. The metric is
accuracy, right answers being those among the entities, not the leaderboard's F1 or exact match.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template
from foretune.tasks.checks import check_strings
from foretune.tasks.multiple_choice import MultipleChoiceTask
from foretune.tasks.super_glue import super_glue

_GAP = "@placeholder"


def _check(row: Row) -> None:
    if _GAP not in row["query"]:
        raise ValueError(f"field 'query' is {row['query']!r:.60}; it should have a gap, '{_GAP}'.")
    check_strings(row["entities"], "entities")
    check_strings(row["answers"], "answers")


def _article(row: Row) -> str:
    return row["passage"].replace("@highlight\n", "- ") + "\n-"


def _filled_query(row: Row, entity: str) -> str:
    return " " + row["query"].replace(_GAP, entity)


def _question(row: Row) -> str:
    return f'{row["passage"]}\n{row["query"]}\nQuestion: what is the "{_GAP}"\nAnswer:'


TASK = TASKS.register("record", aliases=("ReCoRD",))(
    MultipleChoiceTask(
        name="record",
        summary="article and sentence with a gap: which entity fills it",
        sources=super_glue("record"),
        fields={"passage": str, "query": str, "entities": list, "answers": list},
        check=_check,
        choices=lambda row: row["entities"],
        right=lambda row: row["answers"],
        templates={
            "v0": Template(prompt=_article, target=_filled_query, sfc_prompt=lambda row: "-"),
            "v1": Template(prompt=_question, sfc_prompt=lambda row: "Answer:"),
        },
    )
)
