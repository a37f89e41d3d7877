"""Tasks of the user's own, from files or hub datasets: one file for each kind of answer."""

from __future__ import annotations

from typing import Any

from foretune.data.own.chat import chat_task
from foretune.data.own.choice import candidate_task, label_word_task
from foretune.data.own.completion import LOSS, completion_task, rewarded_task
from foretune.data.own.source import EVAL, TRAIN, find_rows
from foretune.data.own.spec import OWN_KEYS, OwnTask, make_spec, read_task_file
from foretune.tasks.base import Task

__all__ = ["LOSS", "OWN_KEYS", "OwnTask", "make_own_task", "make_spec", "read_task_file"]


def make_own_task(spec: OwnTask) -> Task:
    """Return the task that `spec` describes; files must exist, their rows are read later.

    Raises:
        UsageError: an option or a key of the task file is wrong.
    """
    rows = find_rows(spec)
    common: dict[str, Any] = {
        "name": rows.name if spec.file is None else spec.file.stem,
        "summary": f"own data: {spec.data}",
        "files": rows.files,
        "sources": rows.sources,
        "own_data": True,
        "train_split": TRAIN,
        "eval_split": EVAL,
        "cuts_eval_from_train": not rows.has_eval,
    }
    if spec.label_words is not None:
        return label_word_task(spec, common)
    if spec.candidates is not None:
        return candidate_task(spec, common)
    if spec.completion is not None:
        return completion_task(spec, common)
    if spec.is_rewarded:
        return rewarded_task(spec, common)
    return chat_task(spec, common)
