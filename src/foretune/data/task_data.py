"""The rows one run uses: drawn from a task's splits for training, dev and evaluation."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.data.loading import Split, has_split, load_split
from foretune.data.sampling import draw, draw_rest, draw_train_dev
from foretune.errors import UsageError
from foretune.tasks.base import TASKS, Example, Row, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A checked row and where it comes from, for messages: ``"sst2 train row 12"``."""

    row: Row
    name: str


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The rows of a run, and what a record of the run must say about them.

    Args:
        task: The task.
        train_set_seed: The seed of the draws.
        train, dev, evaluation: The rows, in drawn order.
        train_origin, eval_origin: The file or hub dataset the rows came from.
        num_left_out: Rows that were drawn and left out, because they have no answer.
    """

    task: Task
    train_set_seed: int
    train: tuple[TaskRow, ...]
    dev: tuple[TaskRow, ...]
    evaluation: tuple[TaskRow, ...]
    train_origin: str
    eval_origin: str
    num_left_out: int = 0

    @property
    def form(self) -> str:
        """The form of the dataset that was read, where there are several; else empty."""
        return self.task.form(self.evaluation[0].row)

    @property
    def majority_accuracy(self) -> float | None:
        """Accuracy, in [0, 1], of always giving the candidate that is most often right; None for free text."""
        if self.task.metric != "accuracy":
            return None
        counts = Counter(index for row in self.evaluation for index in self.task.correct(row.row))
        return counts.most_common(1)[0][1] / len(self.evaluation)

    def examples(self, rows: Sequence[TaskRow], template: str | None = None) -> tuple[Example, ...]:
        """Write rows as prompts for a causal language model.

        Raises:
            UsageError: the task has no such template.
        """
        version = self.task.template(template)
        return tuple(self.task.example(row.row, version, row.name) for row in rows)

    def describe(self) -> dict[str, object]:
        """Return what a record of the run says of its rows."""
        described: dict[str, object] = {"train": self.train_origin, "eval": self.eval_origin}
        described |= {"form": self.form} if self.form else {}
        return described | ({"num_left_out": self.num_left_out} if self.num_left_out else {})


def load_task_data(
    task: str | Task,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    num_train: int | None = None,
    num_dev: int | None = None,
    num_eval: int | None = None,
    train_set_seed: int = 0,
) -> TaskData:
    """Load a task and draw its rows the published way.

    Args:
        task: A task or its name.
        data_dir: Folder with ``<task>/<split>.jsonl``; None = the environment variable FORETUNE_DATA, else
            the hub.
        num_train, num_dev, num_eval: Rows of each part; None = the task's published number. With `num_train`
            0 (no training) the training part is empty.
        train_set_seed: Seed of both draws.
    Raises:
        UsageError: an unknown task, a number out of range, rows that cannot be read, or none left of a part.
    """
    if isinstance(task, str):
        task = TASKS.get(task)
    num_train = _count("num_train", num_train, task.num_train, least=0)
    num_dev = _count("num_dev", num_dev, task.num_dev, least=0)
    num_eval = _count("num_eval", num_eval, task.num_eval, least=1)
    cuts_eval = task.cuts_eval_from_train and not has_split(task, task.eval_split, data_dir)
    rows = {}
    if num_train + num_dev > 0 or cuts_eval:
        rows["train"] = load_split(task, task.train_split, data_dir)
    rows["eval"] = rows["train"] if cuts_eval else load_split(task, task.eval_split, data_dir)
    indices: dict[str, list[int]] = {"train": [], "dev": []}
    if num_train + num_dev > 0:
        indices["train"], indices["dev"] = draw_train_dev(len(rows["train"]), num_train, num_dev, train_set_seed)
        _warn_of_short(rows["train"], (num_train, num_dev), tuple(len(indices[part]) for part in ("train", "dev")))
    if cuts_eval:
        indices["eval"] = draw_rest(len(rows["eval"]), num_train + num_dev, num_eval, train_set_seed)
    else:
        indices["eval"] = draw(len(rows["eval"]), num_eval, train_set_seed)
    drawn = {part: _read(rows.get(part, rows.get("train")), indices[part]) for part in indices}
    kept = {part: tuple(row for row in read if task.is_usable(row.row)) for part, read in drawn.items()}
    for part, read in drawn.items():
        if read and not kept[part]:
            raise UsageError(f"None of the {len(read)} {part} rows of {rows['eval'].origin} has an answer.")
    return TaskData(
        task=task,
        train_set_seed=train_set_seed,
        train=kept["train"],
        dev=kept["dev"],
        evaluation=kept["eval"],
        train_origin=rows["train"].origin if "train" in rows else "",
        eval_origin=rows["eval"].origin,
        num_left_out=sum(len(drawn[part]) - len(kept[part]) for part in drawn),
    )


def _count(option: str, given: int | None, default: int, least: int) -> int:
    if given is None:
        return default
    if given < least:
        raise UsageError(f"{option} is {given}; it should be at least {least}.")
    return given


def _warn_of_short(rows: Split, wanted: tuple[int, int], found: tuple[int, ...]) -> None:
    if found != wanted:
        logger.warning(
            "%s has %d rows: using %d for training and %d for dev instead of %d and %d.",
            rows.origin, len(rows), *found, *wanted,
        )  # fmt: skip


def _read(rows: Split | None, indices: Sequence[int]) -> tuple[TaskRow, ...]:
    if rows is None:
        return ()
    return tuple(TaskRow(rows[index], f"{rows.task.name} {rows.name} row {index}") for index in indices)
