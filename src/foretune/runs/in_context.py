"""In-context learning: which solved training rows stand in front of which test row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from foretune.data import TaskData
from foretune.data.loading import Split
from foretune.data.sampling import draw, draw_row_seeds
from foretune.errors import UsageError
from foretune.tasks import Template

MOST_FITTING = 32
"""Demonstrations of the published runs, and the most that are tried where as many as fit are asked for."""


def shared_demonstrations(data: TaskData, template: Template) -> list[tuple[str, ...]]:
    """Return, for each test row, the training rows with their right answers, in drawn order."""
    texts = tuple(data.task.demonstration(row.row, template) for row in data.train)
    return [texts] * len(data.evaluation)


def own_demonstrations(data: TaskData, split: Split, template: Template, count: int) -> list[tuple[str, ...]]:
    """Return, for each test row, `count` solved rows of the training split, drawn for it alone.

    The rows of test row i are the first ones of the split's permutation under the i-th of `draw_row_seeds`.

    Args:
        data: The test rows.
        split: The training split.
        template: Prompt version.
        count: Demonstrations of a row; those without an answer are left out.
    Raises:
        UsageError: the test rows are of the same split.
    """
    if split.origin == data.eval_origin:
        raise UsageError(
            f"--demonstration-sets per-row: the test rows of task {data.task.name!r} are cut from {split.origin}, "
            "so that rows would be demonstrated with their own answers; give a number of sets."
        )
    return [
        tuple(
            data.task.demonstration(split[index], template)
            for index in draw(len(split), count, seed)
            if data.task.is_usable(split[index])
        )
        for seed in draw_row_seeds(len(data.evaluation))
    ]


def count_fitting(
    num_rows: int, most: int, surplus: Callable[[Sequence[int], Sequence[int]], Sequence[int]]
) -> list[int]:
    """Return, for each test row, the largest number of whole demonstrations with which it is not cut.

    Numbers are doubled until they are too large, then halved in between, so that little is encoded that is far too
    long. A row that is too long by itself has none.

    Args:
        num_rows: Test rows.
        most: Most demonstrations of a row.
        surplus: By how many tokens rows are too long, each with its number of demonstrations; grows with them.
    """
    fits, too_many = [0] * num_rows, [most + 1] * num_rows
    while rows := [row for row in range(num_rows) if too_many[row] - fits[row] > 1]:
        numbers = [
            min(2 * fits[row] or 1, most) if too_many[row] > most else (fits[row] + too_many[row]) // 2 for row in rows
        ]
        for row, number, tokens in zip(rows, numbers, surplus(rows, numbers), strict=True):
            (fits if tokens <= 0 else too_many)[row] = number
    return fits
