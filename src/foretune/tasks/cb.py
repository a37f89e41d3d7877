"""CommitmentBank: does a text entail, or contradict, a clause that it mentions?

Prompt and label words are MeZO's (Malladi et al. 2023, arXiv:2305.17333), which keeps 100 of the 250 training
rows for dev.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, Row, Template, as_it_is
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.super_glue import super_glue


def _prompt(row: Row) -> str:
    return f'Suppose {row["premise"]} Can we infer that "{row["hypothesis"]}"? Yes, No, or Maybe?\n'


TASK = TASKS.register("cb", aliases=("CB",))(
    ClassificationTask(
        name="cb",
        summary="text and clause: entailment, contradiction or neutral",
        sources=super_glue("cb"),
        fields={"premise": str, "hypothesis": str, "label": int},
        label_words=("Yes", "No", "Maybe"),
        templates={"v0": Template(prompt=_prompt, target=as_it_is, sfc_prompt=lambda row: "")},
        num_dev=100,
    )
)
