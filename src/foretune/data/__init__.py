"""The rows of a run: read from files or the hub, checked, and drawn the published way."""

from foretune.data.few_shot import DATA_SEEDS, load_few_shot_data
from foretune.data.task_data import TaskData, TaskRow, load_task_data

__all__ = [
    "DATA_SEEDS",
    "TaskData",
    "TaskRow",
    "load_few_shot_data",
    "load_task_data",
]
