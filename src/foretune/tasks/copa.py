"""COPA: which of two events is the cause, or the effect, of a third?

The prompt of v0 is MeZO's (Malladi et al. 2023, arXiv:2305.17333), which keeps 100 of the 400 training rows for dev;
v1 is the no-prompt ablation of ZO-LLM (Zhang et al. 2024, arXiv:2402.11592).
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template
from foretune.tasks.multiple_choice import MultipleChoiceTask
from foretune.tasks.super_glue import super_glue

_CONJUNCTIONS = {"cause": "because", "effect": "so"}


def _choices(row: Row) -> tuple[str, str]:
    return row["choice1"], row["choice2"]


def _check(row: Row) -> None:
    if row["question"] not in _CONJUNCTIONS:
        raise ValueError(f"field 'question' is {row['question']!r:.60}; it should be 'cause' or 'effect'.")
    if row["label"] not in (0, 1):
        raise ValueError(f"field 'label' is {row['label']}; it should be 0 (choice1) or 1 (choice2).")


def _premise(row: Row) -> str:
    return row["premise"].rstrip().removesuffix(".")


def _conjunction(row: Row) -> str:
    return _CONJUNCTIONS[row["question"]]


def _continuation(row: Row, choice: str) -> str:
    first, space, rest = choice.partition(" ")
    return f" {first if first == 'I' else first.lower()}{space}{rest}"


TASK = TASKS.register("copa", aliases=("Copa",))(
    MultipleChoiceTask(
        name="copa",
        summary="premise and two events: which is its cause or effect",
        sources=super_glue("copa"),
        fields={"premise": str, "choice1": str, "choice2": str, "question": str, "label": int},
        check=_check,
        choices=_choices,
        right=lambda row: (_choices(row)[row["label"]],),
        templates={
            "v0": Template(
                prompt=lambda row: f"{_premise(row)} {_conjunction(row)}", target=_continuation, sfc_prompt=_conjunction
            ),
            "v1": Template(prompt=_premise, target=_continuation, sfc_prompt=lambda row: ""),
        },
        num_dev=100,
    )
)
