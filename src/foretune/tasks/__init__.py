"""The tasks. A new one is one new module here that registers a `Task`."""

from __future__ import annotations

from foretune.tasks.base import TASKS, Example, HubSource, Row, Task, Template
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.generation import GenerationTask
from foretune.tasks.multiple_choice import MultipleChoiceTask

__all__ = [
    "ClassificationTask",
    "Example",
    "GenerationTask",
    "HubSource",
    "MultipleChoiceTask",
    "Row",
    "Task",
    "Template",
    "get_task",
    "list_tasks",
]


def get_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        UsageError: there is none; the message lists near misses and every task there is.
    """
    return TASKS.get(name)


def list_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, in alphabetical order."""
    return tuple(TASKS)
