"""The rows one run uses: drawn from a task's splits for training, dev and evaluation."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from foretune.data.loading import HUB_ORIGIN, Split, has_split, load_split
from foretune.data.sampling import draw, draw_last, draw_train_dev
from foretune.errors import UsageError
from foretune.tasks.base import TASKS, Example, Row, Task
from foretune.tasks.classification import ClassificationTask
from foretune.tasks.generation import GenerationTask

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
    def majority(self) -> dict[str, float]:
        """Accuracy, in [0, 1], of always giving the candidate that is most often right; nothing for free text."""
        if isinstance(self.task, GenerationTask):
            return {}
        counts = Counter(index for row in self.evaluation for index in self.task.correct(row.row))
        return {"accuracy": counts.most_common(1)[0][1] / len(self.evaluation)}

    @property
    def hub_datasets(self) -> list[str]:
        """Ids of the hub datasets that the rows came from; none where all are of files."""
        origins = (self.train_origin, self.eval_origin)
        return [
            source.dataset
            for source in self.task.sources
            if any(origin.startswith(f"{HUB_ORIGIN} {source},") for origin in origins)
        ]

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
        num_train, num_dev, num_eval: Rows of each part; None = the task's published number, and for the user's own
            data see `_counts`. With `num_train` 0 (no training) the training part is empty.
        train_set_seed: Seed of both draws.
    Raises:
        UsageError: an unknown task, a number out of range, rows that cannot be read, or none left of a part.
    """
    if isinstance(task, str):
        task = TASKS.get(task)
    _check_at_least(num_train=(num_train, 0), num_dev=(num_dev, 0), num_eval=(num_eval, 1))
    cuts_eval = task.cuts_eval_from_train and not has_split(task, task.eval_split, data_dir)
    rows = {}
    if cuts_eval or num_train != 0 or num_dev != 0:
        rows["train"] = load_split(task, task.train_split, data_dir)
    rows["eval"] = rows["train"] if cuts_eval else load_split(task, task.eval_split, data_dir)
    length = len(rows["train"]) if "train" in rows else 0
    num_train, num_dev, num_eval = _counts(task, length, (num_train, num_dev, num_eval), cuts_eval=cuts_eval)
    indices: dict[str, list[int]] = {"train": [], "dev": []}
    if num_train + num_dev > 0:
        indices["train"], indices["dev"] = draw_train_dev(
            length, num_train, num_dev, train_set_seed, num_kept=num_eval if cuts_eval else 0
        )
        _warn_of_short(rows["train"], (num_train, num_dev), tuple(len(indices[part]) for part in ("train", "dev")))
    indices["eval"] = (draw_last if cuts_eval else draw)(len(rows["eval"]), num_eval, train_set_seed)
    drawn = {part: _read(rows.get(part, rows.get("train")), indices[part]) for part in indices}
    kept = {part: tuple(row for row in read if task.is_usable(row.row)) for part, read in drawn.items()}
    for part, read in drawn.items():
        if read and not kept[part]:
            raise UsageError(f"None of the {len(read)} {part} rows of {rows['eval'].origin} has an answer.")
    _warn_of_one_answer(task, kept["train"])
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


def _check_at_least(**counts: tuple[int | None, int]) -> None:
    for option, (given, least) in counts.items():
        if given is not None and given < least:
            raise UsageError(f"{option} is {given}; it should be at least {least}.")


def _counts(
    task: Task, length: int, given: tuple[int | None, int | None, int | None], *, cuts_eval: bool
) -> tuple[int, int, int]:
    """Return the rows of training, dev and evaluation: the numbers given, else the published ones.

    Of the user's own data every training row is used: a fifth of the rows, but no more than the published number,
    become test rows where these are cut from them, a fifth of what is left dev rows, and the others training rows.
    Test rows do not depend on the other two numbers, so that a later evaluation finds the same ones.
    """
    num_train, num_dev, num_eval = given
    if not task.own_data:
        published = (task.num_train, task.num_dev, task.num_eval)
        num_train, num_dev, num_eval = (
            default if number is None else number for number, default in zip(given, published, strict=True)
        )
        return num_train, num_dev, num_eval
    if num_eval is None:
        num_eval = max(1, min(task.num_eval, length // 5)) if cuts_eval else task.num_eval
    left = max(length - num_eval, 0) if cuts_eval else length
    num_dev = min(task.num_dev, left // 5) if num_dev is None else num_dev
    num_train = max(left - num_dev, 1) if num_train is None else num_train
    return num_train, num_dev, num_eval


def _warn_of_short(rows: Split, wanted: tuple[int, int], found: tuple[int, ...]) -> None:
    if found != wanted:
        logger.warning(
            "%s has %d rows: using %d for training and %d for dev instead of %d and %d.",
            rows.origin, len(rows), *found, *wanted,
        )  # fmt: skip


def _warn_of_one_answer(task: Task, rows: Sequence[TaskRow]) -> None:
    """Say that there is nothing to tell apart: every row has the same label."""
    if len(rows) > 1 and isinstance(task, ClassificationTask):
        answers = {tuple(task.correct(row.row)) for row in rows}
        if len(answers) == 1:
            word = task.label_words[next(iter(answers))[0]]
            logger.warning("All %d training rows have the same label, that of %r: nothing is learned.", len(rows), word)


def _read(rows: Split | None, indices: Sequence[int]) -> tuple[TaskRow, ...]:
    if rows is None:
        return ()
    return tuple(TaskRow(rows[index], f"{rows.task.name} {rows.name} row {index}") for index in indices)
