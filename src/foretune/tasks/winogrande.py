"""WinoGrande: which of two options fills the gap in a sentence?

The prompt is ZO-LLM's (Zhang et al. 2024, arXiv:2402.11592). Both candidates go on to the sentence's end, so the
score is that of the option and of what it makes of the ending.
"""

from __future__ import annotations

from foretune.tasks.base import CONVERTED, TASKS, HubSource, Row, Template
from foretune.tasks.multiple_choice import MultipleChoiceTask

_GAP = "_"
_CONFIG = "winogrande_m"


def _check(row: Row) -> None:
    if row["sentence"].count(_GAP) != 1:
        raise ValueError(f"field 'sentence' is {row['sentence']!r:.100}; it should have exactly one gap, '{_GAP}'.")
    if row["answer"] not in ("1", "2"):
        raise ValueError(f"field 'answer' is {row['answer']!r:.60}; it should be '1' or '2'.")
    if row["option1"] == row["option2"]:
        raise ValueError(f"field 'option2' is {row['option2']!r:.60}, as 'option1' is; they should differ.")


def _start(row: Row) -> str:
    return row["sentence"].partition(_GAP)[0]


def _candidates(row: Row) -> tuple[str, str]:
    ending = row["sentence"].partition(_GAP)[2]
    return row["option1"] + ending, row["option2"] + ending


TASK = TASKS.register("winogrande", aliases=("WinoGrande",))(
    MultipleChoiceTask(
        name="winogrande",
        summary="sentence with a gap: which of two options fills it",
        sources=(
            HubSource("allenai/winogrande", _CONFIG),
            HubSource("allenai/winogrande", _CONFIG, revision=CONVERTED),
            HubSource("winogrande", _CONFIG),
        ),
        fields={"sentence": str, "option1": str, "option2": str, "answer": str},
        check=_check,
        choices=_candidates,
        right=lambda row: (_candidates(row)[int(row["answer"]) - 1],),
        templates={"v0": Template(prompt=lambda row: _start(row).rstrip(" "), sfc_prompt=lambda row: "")},
    )
)
