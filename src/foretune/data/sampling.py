"""Which rows of a split are used: one seeded draw for training and dev rows, one for evaluation.

The draws equal the published ones for splits of the same length: numpy's legacy generator, whose stream is
frozen for all numpy versions.
"""

from __future__ import annotations

import numpy as np

from foretune.errors import UsageError

MAX_SEED = 2**32 - 1
"""Of a draw: the legacy generator takes 32 bits."""


def draw(length: int, count: int, seed: int) -> list[int]:
    """Return the first `count` entries of the seeded permutation of ``range(length)`` (all of them if fewer).

    Raises:
        UsageError: the seed is negative or needs more than 32 bits.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UsageError(f"train_set_seed is {seed}; it should lie between 0 and {MAX_SEED}.")
    return np.random.RandomState(seed).permutation(length)[:count].tolist()


def draw_train_dev(
    length: int, num_train: int, num_dev: int, seed: int, *, num_kept: int = 0
) -> tuple[list[int], list[int]]:
    """Draw ``num_train + num_dev`` rows of a split at once; dev is the last `num_dev`, training the rest.

    In a split that is too small dev still takes its full share, as in the published runs (554 rows for 1000
    and 500 give 54 training rows). The last `num_kept` rows of the permutation are left alone: see `draw_last`.

    Raises:
        UsageError: training rows were asked for and none is left.
    """
    left = max(length - num_kept, 0)
    drawn = draw(length, min(num_train + num_dev, left), seed)
    cut = max(len(drawn) - num_dev, 0)
    if num_train > 0 and cut == 0:
        raise UsageError(
            f"No training rows are left: the training split has {length} row{'' if length == 1 else 's'}"
            + (f", of which {num_kept} are test rows (--num-eval)," if num_kept else "")
            + f" and --num-dev is {num_dev}. "
            + (
                "Set " + ("both together" if num_kept else "--num-dev") + f" below {length}."
                if length > 1
                else "Give more."
            )
        )
    return drawn[:cut], drawn[cut:]


def draw_last(length: int, count: int, seed: int) -> list[int]:
    """Return the last `count` entries of the permutation from whose front training and dev rows come.

    For datasets of one split: under the published rule the evaluation rows would be among the training rows.
    """
    return draw(length, length, seed)[max(length - count, 0) :]


def draw_row_seeds(count: int) -> list[int]:
    """Return the seeds under which `count` test rows draw demonstrations of their own (in-context learning)."""
    return np.random.RandomState(0).randint(0, 10_000, count).tolist()
