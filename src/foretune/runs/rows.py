"""The rows of a run, drawn as the protocol of its kind of model says."""

from __future__ import annotations

from foretune.data import TaskData, load_task_data
from foretune.data.few_shot import MAX_TEST_ROWS, load_few_shot_data
from foretune.errors import UsageError
from foretune.runs.config import ModelConfig
from foretune.runs.loading import ModelKind
from foretune.tasks import Task


def load_rows(
    config: ModelConfig, task: Task, kind: ModelKind, *, num_train: int | None, num_dev: int | None
) -> TaskData:
    """Load and draw the rows of a task: `shots` rows of each class where that is given, else counted rows.

    Raises:
        UsageError: rows that cannot be read, a number out of range, or options that contradict each other.
    """
    if config.shots is None:
        return load_task_data(
            task,
            config.data_dir,
            num_train=num_train,
            num_dev=num_dev,
            num_eval=config.num_eval,
            train_set_seed=config.train_set_seed,
        )
    if kind == "causal":
        raise UsageError(
            f"--shots {config.shots} is the few-shot setting of masked language models, and --model {config.model} is "
            "a causal one; use --num-train and --num-dev."
        )
    for name, value in (("num-train", num_train), ("num-dev", num_dev)):
        if value:
            raise UsageError(f"--{name} {value} contradicts --shots {config.shots}, which draws rows of each class.")
    return load_few_shot_data(
        task,
        config.data_dir,
        k=config.shots if num_train != 0 else 0,
        seed=config.train_set_seed,
        num_eval=config.num_eval or MAX_TEST_ROWS,
    )
