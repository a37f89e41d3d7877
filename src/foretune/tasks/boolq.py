"""BoolQ: is the answer to a question about a passage yes?

The prompts are MeZO's (Malladi et al. 2023, arXiv:2305.17333). Its results are of v2; those of ZO-LLM (Zhang et al.
2024, arXiv:2402.11592) and SubZero (Yu et al. 2024, arXiv:2410.08989) are of v0. v1 is there to compare with: its
separator is a backslash and an n, twice, instead of two newlines.

The rows come in two forms, which do not score alike: passages of the SuperGLUE form begin with a title.
"""

from __future__ import annotations

from dataclasses import dataclass

from foretune.errors import UsageError
from foretune.tasks.base import TASKS, HubSource, Row, Template, as_it_is
from foretune.tasks.candidates import AbstractCandidateTask


@dataclass(frozen=True, kw_only=True)
class BoolQTask(AbstractCandidateTask):
    """Yes or No, from either form of the rows: ``answer``, true or false, or else ``label``, 1 or 0."""

    def candidates(self, row: Row) -> tuple[str, ...]:
        """Return ``("Yes", "No")``."""
        return ("Yes", "No")

    def correct(self, row: Row) -> tuple[int, ...]:
        """Return the index of the answer."""
        return (0 if row.get("answer", row.get("label")) else 1,)

    def form(self, row: Row) -> str:
        """Name the dataset that has rows of this form."""
        return "google/boolq" if "answer" in row else "super_glue"

    def check_values(self, row: Row, where: str) -> None:
        """As `Task.check_values`."""
        super().check_values(row, where)
        if "answer" in row:
            if type(row["answer"]) is not bool:
                raise UsageError(f"{where}: field 'answer' is {row['answer']!r:.60}; it should be true or false.")
        elif "label" not in row:
            raise UsageError(f"{where}: fields 'answer' (true or false) and 'label' (1 or 0) are both missing.")
        elif type(row["label"]) is not int or row["label"] not in (0, 1):
            raise UsageError(f"{where}: field 'label' is {row['label']!r:.60}; it should be 0 (No) or 1 (Yes).")


def _text(row: Row) -> str:
    question = row["question"]
    if not question.endswith("?"):
        question += "?"
    return f"{row['passage']} {question[0].upper()}{question[1:]}"


TASK = TASKS.register("boolq", aliases=("BoolQ",))(
    BoolQTask(
        name="boolq",
        summary="passage and question: yes or no",
        sources=(HubSource("google/boolq"), HubSource("boolq")),
        fields={"question": str, "passage": str},
        templates={
            "v0": Template(prompt=_text, sfc_prompt=lambda row: ""),
            "v1": Template(prompt=lambda row: rf"{_text(row)}\n\n", target=as_it_is, sfc_prompt=lambda row: ""),
            "v2": Template(prompt=lambda row: f"{_text(row)}\n", target=as_it_is, sfc_prompt=lambda row: ""),
        },
        default_template="v2",
    )
)
