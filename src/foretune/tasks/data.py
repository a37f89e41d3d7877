"""The examples of a run: training, dev and evaluation rows of a task, drawn and written as prompts."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.errors import UsageError
from foretune.tasks.base import TASKS, Example, Task
from foretune.tasks.loading import Split, load_split
from foretune.tasks.prompts import build_example
from foretune.tasks.sampling import draw, draw_train_dev

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The rows one run uses, and what a record of the run must say about them.

    Args:
        task: The task.
        template: The prompt version the examples are written with.
        train_set_seed: The seed of the draws.
        train, dev, evaluation: The examples, in drawn order.
        train_origin, eval_origin: The file or hub dataset the rows came from.
    """

    task: Task
    template: str
    train_set_seed: int
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    train_origin: str
    eval_origin: str

    @property
    def majority_accuracy(self) -> float:
        """Accuracy, in [0, 1], of always giving the most frequent right answer of the evaluation rows."""
        counts = Counter(example.correct[0] for example in self.evaluation)
        return counts.most_common(1)[0][1] / len(self.evaluation)


def load_task_data(
    task: str | Task,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    num_train: int | None = None,
    num_dev: int | None = None,
    num_eval: int | None = None,
    train_set_seed: int = 0,
    template: str | None = None,
) -> TaskData:
    """Load a task and draw its examples the published way.

    Args:
        task: A task or its name.
        data_dir: Folder with ``<task>/<split>.jsonl``; None = the environment variable FORETUNE_DATA, else
            the hub.
        num_train, num_dev, num_eval: Rows of each part; None = the task's published number. With `num_train`
            0 (no training) the training part is empty.
        train_set_seed: Seed of both draws.
        template: Prompt version; None = the task's default.
    Raises:
        UsageError: an unknown task or template, a number out of range, rows that cannot be read, or no
            training rows left after the dev rows are taken.
    """
    if isinstance(task, str):
        task = TASKS.get(task)
    num_train = _count("num_train", num_train, task.num_train, least=0)
    num_dev = _count("num_dev", num_dev, task.num_dev, least=0)
    num_eval = _count("num_eval", num_eval, task.num_eval, least=1)
    version = task.default_template if template is None else template
    task.template(version)  # an unknown version is refused before anything is loaded
    train_rows = load_split(task, task.train_split, data_dir)
    eval_rows = load_split(task, task.eval_split, data_dir)
    train, dev = draw_train_dev(len(train_rows), num_train, num_dev, train_set_seed)
    if len(train) < num_train or len(dev) < num_dev:
        logger.warning(
            "%s has %d rows: using %d for training and %d for dev instead of %d and %d.",
            train_rows.origin, len(train_rows), len(train), len(dev), num_train, num_dev,
        )  # fmt: skip
    evaluation = draw(len(eval_rows), num_eval, train_set_seed)
    return TaskData(
        task=task,
        template=version,
        train_set_seed=train_set_seed,
        train=_examples(train_rows, task.train_split, version, train),
        dev=_examples(train_rows, task.train_split, version, dev),
        evaluation=_examples(eval_rows, task.eval_split, version, evaluation),
        train_origin=train_rows.origin,
        eval_origin=eval_rows.origin,
    )


def _count(option: str, given: int | None, default: int, least: int) -> int:
    if given is None:
        return default
    if given < least:
        raise UsageError(f"{option} is {given}; it should be at least {least}.")
    return given


def _examples(split: Split, split_name: str, version: str, indices: Sequence[int]) -> tuple[Example, ...]:
    task, template = split.task, split.task.template(version)
    return tuple(
        build_example(task, template, split[index], name=f"{task.name} {split_name} row {index}") for index in indices
    )
