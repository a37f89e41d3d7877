"""The tasks and their data. A new task is one new module here that registers a `Task`."""

from __future__ import annotations

from foretune.tasks.base import TASKS, Example, HubSource, Task, Template
from foretune.tasks.data import TaskData, load_task_data

__all__ = ["Example", "HubSource", "Task", "TaskData", "Template", "get_task", "list_tasks", "load_task_data"]


def get_task(name: str) -> Task:
    """Return the task called `name`.

    Raises:
        UsageError: there is none; the message lists near misses and every task there is.
    """
    return TASKS.get(name)


def list_tasks() -> tuple[str, ...]:
    """Return the names of all tasks, in alphabetical order."""
    return tuple(TASKS)
