"""From a row and a template to a prompt and the option strings that follow it (causal language models)."""

from __future__ import annotations

from collections.abc import Sequence

from foretune.errors import UsageError
from foretune.tasks.base import Example, Row, Task, Template


def strip_text(text: str) -> str:
    r"""Strip spaces (not newlines) at both ends, and any white space in front.

    A prompt therefore never ends in a space, so the option carries its own (``"... It was" + " great"``),
    while one that ends in a newline keeps it and the option starts without a space (``"...\n" + "Yes"``).
    """
    return text.strip(" ").lstrip()


def split_options(prompt: str, fulls: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Strip `prompt` and each full text, and return the prompt with what follows it in each.

    Raises:
        UsageError: a full text does not start with the prompt; its template is wrong.
    """
    prompt = strip_text(prompt)
    options = []
    for full in map(strip_text, fulls):
        if not full.startswith(prompt):
            raise UsageError(f"A template's full text must start with its prompt {prompt!r}, found {full!r}.")
        options.append(full[len(prompt) :])
    return prompt, tuple(options)


def build_example(task: Task, template: Template, row: Row, name: str) -> Example:
    """Write `row` as an `Example` called `name`."""
    fulls = [template.full(row, candidate) for candidate in task.candidates(row)]
    prompt, options = split_options(template.prompt(row), fulls)
    return Example(prompt=prompt, candidates=options, correct=task.correct(row), name=name)
