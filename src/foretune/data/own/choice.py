"""A user's own task that is answered by choosing: label words, or candidates of the row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretune.data.own.field_text import TEXT_TYPES, FieldText
from foretune.data.own.spec import OwnTask
from foretune.errors import UsageError
from foretune.tasks.base import Row, Template, as_it_is
from foretune.tasks.classification import ClassificationTask, check_label, label_name
from foretune.tasks.multiple_choice import MultipleChoiceTask

MARK = "label"
"""In a prompt, ``{label}`` is where label word or candidate stands, whatever fields a row has."""

_LABEL_TYPES = str | int | bool


def label_word_task(spec: OwnTask, common: Mapping[str, Any]) -> ClassificationTask:
    """Return a task whose labels have words.

    Args:
        spec: With `label_words`.
        common: The arguments that do not depend on the kind of task.
    Raises:
        UsageError: prompt or words make no sense; the message names the option.
    """
    words = spec.label_words or {}
    option = spec.option("label_words")
    if len(words) < 2:
        raise UsageError(f"{option}: {len(words)} label word; expected at least two, such as 0=terrible 1=great.")
    for word in words.values():
        if fields := FieldText.parse(word, option).fields:
            raise UsageError(
                f"{option} {word!r}: a label word is the same for every row; texts with fields, here "
                f"{{{fields[0]}}}, are given to {spec.option('candidates')}."
            )
    prompt, label_field = _prompt(spec), _label_field(spec)
    return ClassificationTask(
        **common,
        fields={**dict.fromkeys(prompt.fields, TEXT_TYPES), label_field: _LABEL_TYPES},
        check=lambda row: check_not_empty(prompt, row),
        templates={"v0": _template(prompt)},
        label_words=tuple(FieldText.parse(word, option).write({}) for word in words.values()),
        label_field=label_field,
        label_names=tuple(words),
    )


def candidate_task(spec: OwnTask, common: Mapping[str, Any]) -> MultipleChoiceTask:
    """Return a task whose candidates are texts with fields of the row; arguments and errors as `label_word_task`."""
    option = spec.option("candidates")
    names = tuple(spec.candidates or {})
    texts = tuple(FieldText.parse(text, option) for text in (spec.candidates or {}).values())
    used = tuple(name for text in texts for name in text.fields)
    if not used:
        raise UsageError(
            f"{option}: no candidate names a field, such as {{choice1}}; words that are the same for every row "
            f"are given to {spec.option('label_words')}."
        )
    prompt, label_field = _prompt(spec), _label_field(spec)
    are_listed = len(texts) == 1
    if are_listed and (shown := [name for name in used if name in prompt.fields]):
        raise UsageError(f"{option}: {{{shown[0]}}} holds a list of candidates, so it cannot stand in the prompt.")

    def choices(row: Row) -> tuple[str, ...]:
        return texts[0].write_each(row) if are_listed else tuple(text.write(row) for text in texts)

    def names_in(row: Row) -> tuple[str, ...]:
        return tuple(map(str, range(len(choices(row))))) if are_listed else names

    def check(row: Row) -> None:
        check_not_empty(prompt, row)
        candidates = choices(row)
        if len(candidates) < 2:
            raise ValueError(f"field {used[0]!r} gives {len(candidates)} candidates; expected at least two.")
        for name, candidate in zip(names_in(row), candidates, strict=True):
            if not candidate.strip():
                raise ValueError(f"candidate {name!r} is empty; its fields: {', '.join(map(repr, used))}.")
        check_label(row[label_field], names_in(row), label_field)

    return MultipleChoiceTask(
        **common,
        fields={
            **dict.fromkeys(prompt.fields, TEXT_TYPES),
            **dict.fromkeys(used, TEXT_TYPES | list if are_listed else TEXT_TYPES),
            label_field: _LABEL_TYPES,
        },
        check=check,
        templates={"v0": _template(prompt)},
        choices=choices,
        right=lambda row: (choices(row)[names_in(row).index(label_name(row[label_field]))],),
    )


def check_not_empty(prompt: FieldText, row: Row) -> None:
    """Refuse a row that leaves every field of the prompt empty.

    Raises:
        ValueError: the message names the fields.
    """
    if prompt.fields and not any(str(row[name]).strip() for name in prompt.fields):
        names = ", ".join(map(repr, prompt.fields))
        raise ValueError(f"field {names} is empty, so the prompt says nothing of the row.")


def _label_field(spec: OwnTask) -> str:
    return spec.label_field or "label"


def _prompt(spec: OwnTask) -> FieldText:
    """Return the prompt up to ``{label}``."""
    option = spec.option("prompt")
    if spec.prompt is None:
        raise UsageError(f'{option} is missing: give the text up to the answer, such as "{{text}} It was {{label}}".')
    whole = FieldText.parse(spec.prompt, option)
    num_marks = sum(name == MARK for _, name in whole.parts)
    if num_marks == 0:
        raise UsageError(f"{option} {spec.prompt!r} has no {{label}}, which marks where the answer stands: at its end.")
    before, (literal, name) = whole.parts[:-1], whole.parts[-1]
    if num_marks > 1 or name != MARK:
        raise UsageError(
            f"{option} {spec.prompt!r}: {{label}} should be there once, at the end: a causal language model cannot "
            "read what follows the answer."
        )
    prompt = FieldText((*before, (literal, None)))
    if not prompt.fields:
        raise UsageError(f"{option} {spec.prompt!r} names no field of the row, such as {{text}}.")
    if _label_field(spec) in prompt.fields:
        raise UsageError(
            f"{option} {spec.prompt!r} shows the answer: {{{_label_field(spec)}}} is the field of the label."
        )
    return prompt


def _template(prompt: FieldText) -> Template:
    """Return the prompt as a template; what follows the last field says nothing of the row."""
    return Template(prompt=prompt.write, target=as_it_is, sfc_prompt=lambda row: prompt.ending)
