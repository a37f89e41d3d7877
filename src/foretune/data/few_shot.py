"""The few-shot setting of masked language models: k training and k dev rows of each class, a fixed test set."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterable, Sequence

from foretune.data.loading import Split, has_split, load_split
from foretune.data.sampling import draw
from foretune.data.task_data import TaskData, TaskRow
from foretune.errors import UsageError
from foretune.tasks.base import TASKS, Task

logger = logging.getLogger(__name__)

DATA_SEEDS = (13, 21, 42, 87, 100)
"""Seeds of the published training sets; results are the mean over them."""
MAX_TEST_ROWS = 1000
_TEST_SEED = 42


def draw_few_shot(labels: Sequence[Hashable], k: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw k training and k dev rows of each label.

    Rows are permuted and grouped by label, in order of first appearance. Training rows are the first k of each group,
    dev rows the next k, both label by label. A label with fewer than 2 k rows gives what it has, training first.

    Args:
        labels: The label of each row of the split.
        k: Rows of a label.
        seed: Of the permutation.
    Raises:
        UsageError: the seed is out of range.
    References:
        Gao et al. 2021, arXiv:2012.15723 (LM-BFF): equal to its draws on rows in the same order.
    """
    groups: dict[Hashable, list[int]] = {}
    for index in draw(len(labels), len(labels), seed):
        groups.setdefault(labels[index], []).append(index)
    train = [index for group in groups.values() for index in group[:k]]
    dev = [index for group in groups.values() for index in group[k : 2 * k]]
    return train, dev


def draw_test(length: int, count: int = MAX_TEST_ROWS) -> list[int]:
    """Return all rows in their own order, or `count` drawn ones if there are more; the same for every data seed."""
    return list(range(length)) if length <= count else draw(length, count, _TEST_SEED)


def load_few_shot_data(
    task: str | Task,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    k: int,
    seed: int,
    num_eval: int = MAX_TEST_ROWS,
) -> TaskData:
    """Load a task and draw its rows as the few-shot setting does.

    Args:
        task: A task with a prompt for masked language models, or its name.
        data_dir: As `load_task_data`.
        k: Training rows of each class, and as many dev rows; published: 16 and 512. With 0 there are none.
        seed: Of the draw; published: `DATA_SEEDS`.
        num_eval: Most test rows.
    Raises:
        UsageError: an unknown task, or one without such a prompt; a number out of range; rows that cannot be read.
    """
    if isinstance(task, str):
        task = TASKS.get(task)
    if task.masked is None:
        raise UsageError(f"Task {task.name!r} has no prompt for masked language models, so it has no few-shot rows.")
    for option, value, least in (("k", k, 0), ("num_eval", num_eval, 1)):
        if value < least:
            raise UsageError(f"{option} is {value}; it should be at least {least}.")
    test_rows = _load_test(task, data_dir)
    test = _usable(test_rows)
    if not test:
        raise UsageError(f"None of the {len(test_rows)} rows of {test_rows.origin} has a label.")
    train: list[TaskRow] = []
    dev: list[TaskRow] = []
    train_origin = ""
    num_left_out = len(test_rows) - len(test)
    if k:
        train_rows = load_split(task, task.train_split, data_dir)
        usable = _usable(train_rows)
        num_left_out += len(train_rows) - len(usable)
        classes = [task.masked.class_of(row.row) for row in usable]
        train_indices, dev_indices = draw_few_shot(classes, k, seed)
        _tell_of_short(task, classes, k)
        train, dev = [usable[index] for index in train_indices], [usable[index] for index in dev_indices]
        train_origin = train_rows.origin
    return TaskData(
        task=task,
        train_set_seed=seed,
        train=tuple(train),
        dev=tuple(dev),
        evaluation=tuple(test[index] for index in draw_test(len(test), num_eval)),
        train_origin=train_origin,
        eval_origin=test_rows.origin,
        num_left_out=num_left_out,
    )


def _load_test(task: Task, data_dir: str | os.PathLike[str] | None) -> Split:
    """Load the published test split; where only the task's own evaluation rows are at hand, those, and say so."""
    assert task.masked is not None
    split = task.masked.test_split or task.eval_split
    if not has_split(task, split, data_dir) and has_split(task, task.eval_split, data_dir):
        logger.warning(
            "%s has no local %s rows, on which published results are measured: testing on its %s rows.",
            task.name, split, task.eval_split,
        )  # fmt: skip
        split = task.eval_split
    return load_split(task, split, data_dir)


def _usable(rows: Split) -> list[TaskRow]:
    """Return the rows with a label, before anything is drawn."""
    read = (TaskRow(rows[index], f"{rows.task.name} {rows.name} row {index}") for index in range(len(rows)))
    return [row for row in read if rows.task.is_usable(row.row)]


def _tell_of_short(task: Task, classes: Iterable[int], k: int) -> None:
    """Warn of classes without their full share of training and dev rows."""
    assert task.masked is not None
    counts = dict.fromkeys(range(len(task.masked.label_words)), 0)
    for label in classes:
        counts[label] += 1
    short = [f"{task.masked.label_words[label]} has {count}" for label, count in counts.items() if count < 2 * k]
    if short:
        logger.warning("%s has fewer than 2 x %d training rows of some classes: %s.", task.name, k, ", ".join(short))
