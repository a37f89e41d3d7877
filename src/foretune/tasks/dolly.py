"""Dolly: follow an instruction, with or without a context (Conover et al. 2023, databricks-dolly-15k).

No prompt of the published runs is known: v0 is ours, v1 the wording of Alpaca (Taori et al. 2023). The hub has one
split; the published rule would draw the first training rows again as test rows, ours takes others.
"""

from __future__ import annotations

from foretune.tasks.base import TASKS, HubSource, Row, Template, as_it_is
from foretune.tasks.generation import GenerationTask

_ALPACA = "Below is an instruction that describes a task"
_ALPACA_REQUEST = "Write a response that appropriately completes the request."


def _prompt(row: Row) -> str:
    context = f"### Context:\n{row['context']}\n\n" if row["context"] else ""
    return f"### Instruction:\n{row['instruction']}\n\n{context}### Response:\n"


def _alpaca(row: Row) -> str:
    instruction = f"### Instruction:\n{row['instruction']}\n\n"
    if not row["context"]:
        return f"{_ALPACA}. {_ALPACA_REQUEST}\n\n{instruction}### Response:\n"
    opening = f"{_ALPACA}, paired with an input that provides further context. {_ALPACA_REQUEST}"
    return f"{opening}\n\n{instruction}### Input:\n{row['context']}\n\n### Response:\n"


TASK = TASKS.register("dolly", aliases=("DOLLY",))(
    GenerationTask(
        name="dolly",
        summary="instructions, some with a context: a response of one or more lines",
        sources=(HubSource("databricks/databricks-dolly-15k"),),
        fields={"instruction": str, "context": str, "response": str},
        references=lambda row: (row["response"],) if row["response"].strip() else (),
        shortened="context",
        ends_text=True,
        stops_at_newline=False,
        max_new_tokens=128,
        metric="rouge_l",
        templates={
            "v0": Template(prompt=_prompt, target=as_it_is),
            "v1": Template(prompt=_alpaca, target=as_it_is),
        },
        cuts_eval_from_train=True,
        num_train=2000,
        num_dev=200,
        num_eval=200,
    )
)
