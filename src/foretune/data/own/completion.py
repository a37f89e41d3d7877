"""A user's own task that is answered by free text; without a prompt, plain text that is learned as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretune.data.own.choice import check_not_empty
from foretune.data.own.field_text import TEXT_TYPES, FieldText
from foretune.data.own.spec import OwnTask
from foretune.errors import UsageError
from foretune.tasks.base import Row, Template, as_it_is
from foretune.tasks.generation import GenerationTask

LOSS = "loss"
"""As a metric: nothing is generated."""

_METRICS_OF_LINES = ("f1", "exact_match")
"""Metrics of short answers: the text ends with its first line."""


def completion_task(spec: OwnTask, common: Mapping[str, Any]) -> GenerationTask:
    """Return a task of completing a prompt; the end-of-text token follows a completion that no newline ends.

    Args:
        spec: With `completion`.
        common: The arguments that do not depend on the kind of task.
    Raises:
        UsageError: prompt or completion make no sense; the message names the option.
    """
    option = spec.option("completion")
    completion = FieldText.parse(spec.completion or "", option)
    prompt = FieldText.parse(spec.prompt or "", spec.option("prompt"))
    if not completion.fields:
        raise UsageError(f"{option} {spec.completion!r} names no field of the row, such as {{answer}}.")
    if spec.prompt and not prompt.fields:
        raise UsageError(f"{spec.option('prompt')} {spec.prompt!r} names no field of the row, such as {{question}}.")
    if shared := [name for name in prompt.fields if name in completion.fields]:
        raise UsageError(f"{spec.option('prompt')} {spec.prompt!r} shows the answer: {{{shared[0]}}}.")
    answer = generated(spec, default="f1" if spec.prompt else LOSS)

    def references(row: Row) -> tuple[str, ...]:
        return completion.write_each(row)

    def check(row: Row) -> None:
        check_not_empty(prompt, row)
        names = ", ".join(map(repr, completion.fields))
        for text in references(row):
            if not text.strip():
                raise ValueError(f"field {names} is empty, so there is nothing to learn.")
            if answer["stops_at_newline"] and "\n" in text.strip():
                raise ValueError(
                    f"field {names} has several lines, and metric {answer['metric']} reads one; set "
                    f"{spec.option('metric')} to rouge_l or loss."
                )

    return GenerationTask(
        **common,
        **answer,
        fields={
            **dict.fromkeys(prompt.fields, TEXT_TYPES),
            **dict.fromkeys(completion.fields, TEXT_TYPES | list),
        },
        check=check,
        templates={"v0": Template(prompt=prompt.write, target=as_it_is)},
        references=references,
        ends_text=not completion.ending.endswith("\n"),
    )


def rewarded_task(spec: OwnTask, common: Mapping[str, Any]) -> GenerationTask:
    """Return a task of prompts without answers, trained on the metric, a function of the user's.

    Args:
        spec: With `prompt` and `metric`.
        common: The arguments that do not depend on the kind of task.
    Raises:
        UsageError: the prompt makes no sense; the message names the option.
    """
    prompt = FieldText.parse(spec.prompt or "", spec.option("prompt"))
    if not prompt.fields:
        raise UsageError(f"{spec.option('prompt')} {spec.prompt!r} names no field of the row, such as {{question}}.")
    answer = generated(spec, default=LOSS)
    return GenerationTask(
        **common,
        **answer,
        objective=answer["metric"],
        fields=dict.fromkeys(prompt.fields, TEXT_TYPES),
        check=lambda row: check_not_empty(prompt, row),
        templates={"v0": Template(prompt=prompt.write, target=as_it_is)},
        references=lambda row: ("",),
        ends_text=True,
    )


def generated(spec: OwnTask, default: str) -> dict[str, Any]:
    """Return the arguments of a task of generation that follow from its metric; `default` where none is given."""
    metric = spec.metric or default
    is_line = metric in _METRICS_OF_LINES
    if metric == LOSS and spec.max_new_tokens is not None:
        raise UsageError(
            f"{spec.option('max_new_tokens')} would have no effect: with metric loss nothing is generated."
        )
    num_tokens = 0 if metric == LOSS else spec.max_new_tokens or (50 if is_line else 128)
    return {"metric": metric, "stops_at_newline": is_line, "max_new_tokens": num_tokens}
