"""In-context learning: which solved training rows stand in front of which test row."""

from __future__ import annotations

from bisect import bisect_right
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


def count_fitting(num_rows: int, most: int, surplus: Callable[[Sequence[int], int], Sequence[int]]) -> int:
    """Return the largest number of demonstrations with which no row is cut.

    Rows that are cut even without demonstrations do not count: none would help them.

    Args:
        num_rows: Test rows.
        most: Most demonstrations.
        surplus: By how many tokens these rows are too long with so many demonstrations; more demonstrations are longer.
    """
    alone = surplus(range(num_rows), 0)
    over = {row: tokens for row, tokens in enumerate(alone) if tokens <= 0}
    count = most
    while over:
        worst = max(over, key=over.__getitem__)
        if surplus([worst], count)[0] > 0:
            count = bisect_right(range(count), 0, key=lambda number: surplus([worst], number)[0]) - 1
        rows = [row for row in over if row != worst]
        over = {row: tokens for row, tokens in zip(rows, surplus(rows, count), strict=True) if tokens > 0}
    return count
