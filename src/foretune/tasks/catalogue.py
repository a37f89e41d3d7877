"""What there is to say about each task, read off its registered object: for `foretune tasks` and docs/tasks.md."""

from __future__ import annotations

from dataclasses import dataclass

from foretune.tasks.base import TASKS, Task
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.generation import GenerationTask
from foretune.tasks.masked import MaskedTemplate, Sentence


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task as listings show it.

    Attributes:
        task: The task itself.
        kind: How it is answered.
        candidates: The words there are to choose from, or where they come from.
        templates: Prompt versions for causal language models, the default one first.
        masked_prompt: The prompt for masked language models, fields of the row in braces; None where there is none.
    """

    task: Task
    kind: str
    candidates: str
    templates: tuple[str, ...]
    masked_prompt: str | None

    @property
    def num_rows(self) -> str:
        """Rows of the published setting: training, dev and test."""
        return f"{self.task.num_train} / {self.task.num_dev} / {self.task.num_eval}"


def entries() -> list[TaskEntry]:
    """Return every task, in alphabetical order."""
    return [entry(TASKS.get(name)) for name in TASKS]


def entry(task: Task) -> TaskEntry:
    """Describe one task."""
    kind, candidates = "multiple choice", "texts of the row"
    if isinstance(task, ClassificationTask):
        kind, candidates = "classification", ", ".join(task.label_words)
    elif isinstance(task, GenerationTask):
        kind, candidates = "generation", ""
    default = task.default_template
    return TaskEntry(
        task=task,
        kind=kind,
        candidates=candidates,
        templates=tuple(sorted(task.templates, key=lambda version: (version != default, version))),
        masked_prompt=None if task.masked is None else _pattern(task.masked),
    )


def _pattern(template: MaskedTemplate) -> str:
    """Write a masked prompt with fields in braces, what happens to a field's text beside its name."""
    parts = [*template.before, "<mask>", *template.after]
    return "".join(part if isinstance(part, str) else _field(part) for part in parts)


def _field(sentence: Sentence) -> str:
    changes = {
        "without its last character": sentence.drops_last,
        "first letter lower-cased": sentence.lowers_first,
    }
    words = [sentence.field, *(word for word, holds in changes.items() if holds)]
    return f"{' ' if sentence.follows else ''}{{{', '.join(words)}}}"
