"""The rows of a run: read from files or the hub, checked, and drawn the published way."""

from foretune.data.task_data import TaskData, TaskRow, load_task_data

__all__ = ["TaskData", "TaskRow", "load_task_data"]
